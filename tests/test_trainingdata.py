"""The bars that ship with the project: whole, reproducible, and one for each session."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import pytest

from forecaster.sources.files import FileSource
from tests.builders import make_key, utc_ms

FOLDER = Path(__file__).resolve().parents[1] / "trainingdata"
FIRST, LAST = "1999-01-04", "2018-12-31"
FILES = {"SPX_USD_1d.csv": "SPX/USD", "IXIC_USD_1d.csv": "IXIC/USD"}


def checksums(folder: Path) -> dict[str, str]:
    """Checksum by name, as `sha256sum -c` reads them."""
    lines = (folder / "SHA256SUMS").read_text(encoding="ascii").splitlines()
    return {name: digest for digest, name in (line.split("  ") for line in lines)}


def test_every_file_has_its_checksum():
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in FOLDER.glob("*.csv")}

    assert found.keys() == FILES.keys()
    assert checksums(FOLDER) == found


def test_writing_them_anew_gives_the_same_bytes(tmp_path):
    spec = importlib.util.spec_from_file_location("write_bars", FOLDER / "write_bars.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    script.write(tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {*FILES, "SHA256SUMS"}
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (FOLDER / path.name).read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_laid_out_as_its_readme_says(name):
    content = (FOLDER / name).read_bytes()
    lines = content.decode("ascii").split("\n")

    assert b"\r" not in content
    assert lines[0] == "date,open,high,low,close,volume"
    assert lines[1].startswith(f"{FIRST},")
    assert lines[-2].startswith(f"{LAST},")
    assert lines[-1] == ""
    assert all(line.rsplit(",", 1)[1].isdigit() for line in lines[1:-1])


@pytest.mark.parametrize(("name", "symbol"), FILES.items())
def test_there_is_one_bar_for_each_session(name, symbol):
    key = make_key("index", symbol, "1d", "XNYS")

    fetched = FileSource(FOLDER / name).fetch(key, None, utc_ms("2020-01-01"))

    sessions = key.trading_calendar.opens_between(key.timeframe, utc_ms(FIRST), utc_ms("2019-01-01"))
    assert fetched.rejected == []
    assert len(sessions) == 5031
    assert fetched.bars.open_time.tolist() == sessions.tolist()


def test_prices_are_those_that_are_known():
    """The last close of the S&P 500 in 2018, and the highest of the NASDAQ Composite until then."""
    bars = {
        symbol: FileSource(FOLDER / name)
        .fetch(make_key("index", symbol, "1d", "XNYS"), None, utc_ms("2020-01-01"))
        .bars
        for name, symbol in FILES.items()
    }

    assert bars["SPX/USD"].close[-1] == pytest.approx(2506.85, abs=0.005)
    assert bars["IXIC/USD"].close.max() == pytest.approx(8109.69, abs=0.005)
