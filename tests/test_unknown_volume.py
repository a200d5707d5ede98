"""Bars whose volume nobody knows, beyond `Bars` and the stores: files that are written, digests, comparisons."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from forecaster.bars import Bars
from forecaster.cli.frame_files import write_frames
from forecaster.replay.lookahead import _bars_differ
from forecaster.replay.run_identity import _digest
from strategies.adapters.nautilus import bar_records
from tests.builders import make_bars

KNOWN = make_bars(count=4)
READERS = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".feather": pd.read_feather}


def unknown(*rows, nan=np.nan):
    ohlcv_TF = KNOWN.ohlcv_TF.copy()
    ohlcv_TF[list(rows), 4] = nan
    return Bars(KNOWN.key, KNOWN.open_time, ohlcv_TF)


@pytest.mark.parametrize("rows", [(1, 2), (0, 1, 2, 3)], ids=["of some", "of all"])
@pytest.mark.parametrize("ending", READERS)
def test_file_of_bars_reads_back_as_it_was(tmp_path, ending, rows):
    bars = unknown(*rows)
    path = tmp_path / f"bars{ending}"
    write_frames([bars.frame.reset_index()], path)

    frame = READERS[ending](path)
    assert np.ascontiguousarray(frame.iloc[:, 1:].to_numpy(np.float64)).tobytes() == bars.ohlcv_TF.tobytes()


def test_cell_of_an_unknown_volume_is_empty(tmp_path):
    """What every program takes for no value."""
    write_frames([unknown(1).frame.reset_index()], tmp_path / "bars.csv")

    lines = (tmp_path / "bars.csv").read_text().splitlines()
    assert [line.endswith(",") for line in lines] == [False, False, True, False, False]


def test_digest_of_bars_knows_one_unknown_volume():
    """The same bars are the same run again, whatever bits a library gave its NaN; bars with a volume are others."""
    negative = np.array([0xFFF8000000000000], np.uint64).view(np.float64)[0]

    assert _digest(unknown(1)) == _digest(unknown(1, nan=negative))
    assert len({_digest(one) for one in (KNOWN, unknown(1), unknown(2), unknown(1, nan=0.0))}) == 4


def test_bars_that_differ_are_told_from_bars_without_volume():
    """The first row that differs is named, and not the first whose volume is unknown."""
    bars = unknown(0, 1, 2, 3)
    ohlcv_TF = bars.ohlcv_TF.copy()
    ohlcv_TF[2, 4] = 5.0
    other = Bars(bars.key, bars.open_time, ohlcv_TF)

    assert _bars_differ(bars, unknown(0, 1, 2, 3)) == ""
    assert "nan] became" in _bars_differ(bars, other)
    assert "5.0]" in _bars_differ(bars, other)


def test_record_of_a_bar_says_that_its_volume_is_unknown():
    """No number is put in its place."""
    records = bar_records(unknown(1).frame, KNOWN.key)

    assert [np.isnan(record["volume"]) for record in records] == [False, True, False, False]
