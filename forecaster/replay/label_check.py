"""Proof that labels look ahead of nothing: a row that is written for a date is the bar of that date's session.

Daily bars of exchanges east and west of Greenwich, across changes of daylight saving time, are written as people write
them: in csv and Parquet files and in frames, as bare dates, and as midnights in the exchange's zone and in others. What
the program reads is compared with what was written; and, as of a cutoff, with what it reads when the rows of later
sessions are poisoned. A label that becomes UTC before its date is taken fails both: tomorrow's row is today's bar.

Shapes: T bars.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from forecaster.bars import COLUMNS, Bars, SeriesKey
from forecaster.errors import utc_text
from forecaster.replay.batch_invariance import Failure, ProofReport, silent
from forecaster.replay.lookahead import POISONS
from forecaster.sources.files import FileSource
from forecaster.tables import Reading
from forecaster.tables.frames import frame_table
from forecaster.tables.reading import read_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from forecaster.replay.batch_invariance import OnCheck

    Zoned: TypeAlias = Callable[[pd.DatetimeIndex, str], pd.DatetimeIndex]
    """Midnights of dates, in a zone that may be the exchange's."""
    Read: TypeAlias = Callable[[SeriesKey, pd.DataFrame, Path, int], Bars]
    """The bars of a frame of labelled rows that have closed at a time (UTC ms); files are written to a folder."""

EXCHANGES: Final[Mapping[str, str]] = {
    "XNZE": "Pacific/Auckland",
    "XTKS": "Asia/Tokyo",
    "XHKG": "Asia/Hong_Kong",
    "XETR": "Europe/Berlin",
    "XLON": "Europe/London",
    "XNYS": "America/New_York",
}
"""Calendars, each with its zone: their sessions open on their own dates there."""

_FIRST_OPEN: Final = 1_708_387_200_000  # 2024-02-20; the clocks change in March in the north, in April in the south
_SESSIONS: Final = 60
_FEWEST_KNOWN: Final = 5


def _read_csv(key: SeriesKey, frame: pd.DataFrame, folder: Path, as_of: int) -> Bars:
    path = folder / "labelled.csv"
    frame.to_csv(path)
    return FileSource(path).fetch(key, None, as_of).bars


def _read_parquet(key: SeriesKey, frame: pd.DataFrame, folder: Path, as_of: int) -> Bars:
    path = folder / "labelled.parquet"
    frame.to_parquet(path)
    return FileSource(path).fetch(key, None, as_of).bars


def _read_frame(key: SeriesKey, frame: pd.DataFrame, folder: Path, as_of: int) -> Bars:
    """Do what `Bars.from_frame` does, but as of a time: it judges a frame as a whole, its later rows too."""
    del folder
    (rows,) = read_table(frame_table(frame, "frame"), Reading()).values()
    return Bars.of_rows(key, "frame", rows, as_of).bars


FORMS: Final[Mapping[str, tuple[Zoned, Read]]] = {
    "csv of dates": (lambda dates, _: dates, _read_csv),
    "csv of local midnights": (lambda dates, zone: dates.tz_localize(zone), _read_csv),
    "csv of midnights at +14:00": (lambda dates, _: dates.tz_localize("Etc/GMT-14"), _read_csv),
    "csv of midnights at -12:00": (lambda dates, _: dates.tz_localize("Etc/GMT+12"), _read_csv),
    "Parquet of local midnights": (lambda dates, zone: dates.tz_localize(zone), _read_parquet),
    "frame of dates": (lambda dates, _: dates, _read_frame),
    "frame of local midnights": (lambda dates, zone: dates.tz_localize(zone), _read_frame),
}
"""How labels are written, and read."""

CHECKS: Final = 2 * len(EXCHANGES) * len(FORMS)
"""How many comparisons a proof has."""


@dataclass(frozen=True)
class _Written:
    """The bars of one exchange, the dates of their sessions (midnights without a zone), and how they are written."""

    bars: Bars
    dates: pd.DatetimeIndex
    zone: str
    form: str

    @property
    def name(self) -> str:
        return f"labels: {self.form}"

    def read(self, ohlcv_TF: NDArray[np.float64], folder: Path, as_of: int) -> Bars:
        """Write rows, in place of the bars' own; what is no bar is not there. Read them."""
        import pandas as pd  # noqa: PLC0415 - heavy, and most commands need none

        label, read = FORMS[self.form]
        frame = pd.DataFrame(ohlcv_TF, index=label(self.dates, self.zone).rename("date"), columns=list(COLUMNS))
        return read(self.bars.key, frame.dropna(), folder, as_of)


def verify_labels(folder: Path, seed: int = 0, on_check: OnCheck = silent) -> ProofReport:
    """Write labels in every form, and read them.

    Args:
        folder: where files are written.
        seed: of prices, cutoffs and poisons.
        on_check: hears how many comparisons were made, and how many are to be.
    """
    report = ProofReport()
    for name, zone in EXCHANGES.items():
        random = np.random.default_rng((seed, len(name), *name.encode()))
        bars, dates = _sessions(name, zone, random)
        for form in FORMS:
            for failures in _compared(_Written(bars, dates, zone, form), folder, random):
                report.add(failures)
        on_check(report.checked, CHECKS)
    return report


def _sessions(name: str, zone: str, random: np.random.Generator) -> tuple[Bars, pd.DatetimeIndex]:
    """A walk over the sessions of an exchange, and their dates: those on the exchange's own clock when they open."""
    import pandas as pd  # noqa: PLC0415 - heavy, and most commands need none

    key = SeriesKey.of("labels", f"{name}/USD", "1d", name)
    opens_T = key.sessions.next_opens(key.timeframe, _FIRST_OPEN, _SESSIONS)
    close_T = 100 * np.exp(np.cumsum(random.normal(0, 0.01, _SESSIONS)))
    bars = Bars(key, opens_T, np.column_stack([close_T, close_T * 1.01, close_T * 0.99, close_T, np.ones(_SESSIONS)]))
    opened = pd.DatetimeIndex(opens_T.astype("datetime64[ms]"), tz="UTC").tz_convert(zone)
    return bars, opened.tz_localize(None).normalize()


def _compared(written: _Written, folder: Path, random: np.random.Generator) -> Iterator[list[Failure]]:
    """What is wrong with one form of labels: as a whole, and as of a cutoff behind which the rows are poisoned."""
    bars, series = written.bars, f"{written.bars.key} {written.bars.key.calendar}"
    i, name = int(random.integers(_FEWEST_KNOWN, _SESSIONS - 1)), str(random.choice(list(POISONS)))
    poisoned_TF = np.concatenate([bars.ohlcv_TF[:i], POISONS[name](bars.ohlcv_TF[i:], random)])
    whole, cutoff = int(bars.close_time[-1]), int(bars.close_time[i - 1])
    for expected, rows_TF, at, what in ((bars, bars.ohlcv_TF, whole, "none"), (bars[:i], poisoned_TF, cutoff, name)):
        try:
            found = _differences(expected, written.read(rows_TF, folder, at))
        except Exception as error:  # noqa: BLE001 - what cannot be read was not read as it is written
            found = f"{type(error).__name__}: {error}"
        yield [Failure(written.name, series, at, what, found)] if found else []


def _differences(expected: Bars, found: Bars) -> str:
    """How what was read differs from what was written."""
    if found.open_time.tolist() != expected.open_time.tolist():
        first = utc_text(int(np.setxor1d(found.open_time, expected.open_time)[0]))
        return f"expected {len(expected)} bars, found {len(found)}, or at other times: the first at {first}"
    if found.ohlcv_TF.tobytes() != expected.ohlcv_TF.tobytes():
        row = int((found.ohlcv_TF.view(np.int64) != expected.ohlcv_TF.view(np.int64)).any(axis=1).argmax())
        was, became = (bars.ohlcv_TF[row].tolist() for bars in (expected, found))
        return f"session of {utc_text(int(expected.open_time[row]))}: {was} became {became}"
    return ""
