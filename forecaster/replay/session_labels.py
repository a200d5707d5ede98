"""Test the labels of daily bars: a row that is written for a date is the bar of that date's session.

Daily bars of exchanges east and west of Greenwich, across changes of daylight saving time, are written in the usual
formats: csv, Parquet and frames, with bare dates, and with midnights in the exchange's zone and in others. What the
program reads is compared with what was written. As of a cutoff, it is compared again with the later rows perturbed. A
reader that converts a label to UTC before it takes the date fails both: tomorrow's row becomes today's bar.

Shapes: T bars.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from forecaster.bars import COLUMNS, Bars, SeriesKey
from forecaster.errors import format_time
from forecaster.replay.batch_invariance import Failure, VerificationReport, no_progress
from forecaster.replay.lookahead import PERTURBATIONS
from forecaster.sources.files import FileSource
from forecaster.tables import ParseOptions
from forecaster.tables.frames import table_from_frame
from forecaster.tables.rows import read_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from forecaster.replay.batch_invariance import OnProgress

    Zoned: TypeAlias = Callable[[pd.DatetimeIndex, str], pd.DatetimeIndex]
    """Makes labels of dates, given the exchange's zone."""
    Read: TypeAlias = Callable[[SeriesKey, pd.DataFrame, Path, int], Bars]
    """Writes a frame of labelled rows and reads the bars that have closed at a time (UTC ms)."""

CALENDAR_ZONES: Final[Mapping[str, str]] = {
    "XNZE": "Pacific/Auckland",
    "XTKS": "Asia/Tokyo",
    "XHKG": "Asia/Hong_Kong",
    "XETR": "Europe/Berlin",
    "XLON": "Europe/London",
    "XNYS": "America/New_York",
}
"""Time zone of each calendar; its sessions open on their own dates there."""

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
    """Read as `Bars.from_frame` does, but as of a time: `from_frame` also checks later rows."""
    del folder
    (rows,) = read_table(table_from_frame(frame, "frame"), ParseOptions()).values()
    return Bars.from_rows(key, "frame", rows, as_of).bars


LABEL_FORMATS: Final[Mapping[str, tuple[Zoned, Read]]] = {
    "csv of dates": (lambda dates, _: dates, _read_csv),
    "csv of local midnights": (lambda dates, zone: dates.tz_localize(zone), _read_csv),
    "csv of midnights at +14:00": (lambda dates, _: dates.tz_localize("Etc/GMT-14"), _read_csv),
    "csv of midnights at -12:00": (lambda dates, _: dates.tz_localize("Etc/GMT+12"), _read_csv),
    "Parquet of local midnights": (lambda dates, zone: dates.tz_localize(zone), _read_parquet),
    "frame of dates": (lambda dates, _: dates, _read_frame),
    "frame of local midnights": (lambda dates, zone: dates.tz_localize(zone), _read_frame),
}
"""How labels are written and read, by name."""

TOTAL_CHECKS: Final = 2 * len(CALENDAR_ZONES) * len(LABEL_FORMATS)
"""Number of comparisons."""


@dataclass(frozen=True)
class _Written:
    """The bars of one exchange, the dates of their sessions (midnights without a zone), and the format."""

    bars: Bars
    dates: pd.DatetimeIndex
    zone: str
    label_format: str

    @property
    def name(self) -> str:
        return f"labels: {self.label_format}"

    def read(self, ohlcv_TF: NDArray[np.float64], folder: Path, as_of: int) -> Bars:
        """Write rows with these prices, without those of NaN, and read them."""
        import pandas as pd  # noqa: PLC0415 - heavy, and most commands need none

        label, read = LABEL_FORMATS[self.label_format]
        frame = pd.DataFrame(ohlcv_TF, index=label(self.dates, self.zone).rename("date"), columns=list(COLUMNS))
        return read(self.bars.key, frame.dropna(), folder, as_of)


def verify_labels(folder: Path, seed: int = 0, on_progress: OnProgress = no_progress) -> VerificationReport:
    """Write labels in every format, and read them.

    Args:
        folder: for the files.
        seed: of prices, cutoffs and perturbations.
        on_progress: called with the number of comparisons made and the total.
    """
    report = VerificationReport()
    for name, zone in CALENDAR_ZONES.items():
        random = np.random.default_rng((seed, len(name), *name.encode()))
        bars, dates = _sessions(name, zone, random)
        for form in LABEL_FORMATS:
            for failures in _compared(_Written(bars, dates, zone, form), folder, random):
                report.add(failures)
        on_progress(report.checked, TOTAL_CHECKS)
    return report


def _sessions(name: str, zone: str, random: np.random.Generator) -> tuple[Bars, pd.DatetimeIndex]:
    """Make a random walk over the sessions of an exchange, and their dates on its own clock."""
    import pandas as pd  # noqa: PLC0415 - heavy, and most commands need none

    key = SeriesKey("labels", f"{name}/USD", "1d", name)
    opens_T = key.trading_calendar.next_opens(key.timeframe, _FIRST_OPEN, _SESSIONS)
    close_T = 100 * np.exp(np.cumsum(random.normal(0, 0.01, _SESSIONS)))
    bars = Bars(key, opens_T, np.column_stack([close_T, close_T * 1.01, close_T * 0.99, close_T, np.ones(_SESSIONS)]))
    opened = pd.DatetimeIndex(opens_T.astype("datetime64[ms]"), tz="UTC").tz_convert(zone)
    return bars, opened.tz_localize(None).normalize()


def _compared(written: _Written, folder: Path, random: np.random.Generator) -> Iterator[list[Failure]]:
    """Compare one format: as a whole, and as of a cutoff after which the rows are perturbed."""
    bars, series = written.bars, f"{written.bars.key} {written.bars.key.calendar}"
    i, name = int(random.integers(_FEWEST_KNOWN, _SESSIONS - 1)), str(random.choice(list(PERTURBATIONS)))
    perturbed_TF = np.concatenate([bars.ohlcv_TF[:i], PERTURBATIONS[name](bars.ohlcv_TF[i:], random)])
    whole, cutoff = int(bars.close_time[-1]), int(bars.close_time[i - 1])
    for expected, rows_TF, at, what in ((bars, bars.ohlcv_TF, whole, "none"), (bars[:i], perturbed_TF, cutoff, name)):
        try:
            difference = _differences(expected, written.read(rows_TF, folder, at))
        except Exception as error:  # noqa: BLE001 - rows that cannot be read are a difference
            difference = f"{type(error).__name__}: {error}"
        yield [Failure(written.name, series, at, what, difference)] if difference else []


def _differences(expected: Bars, actual: Bars) -> str:
    """Describe how the bars that were read differ from those that were written."""
    if actual.open_time.tolist() != expected.open_time.tolist():
        first = format_time(int(np.setxor1d(actual.open_time, expected.open_time)[0]))
        return f"expected {len(expected)} bars, found {len(actual)}, or at other times: the first at {first}"
    if actual.ohlcv_TF.tobytes() != expected.ohlcv_TF.tobytes():
        row = int((actual.ohlcv_TF.view(np.int64) != expected.ohlcv_TF.view(np.int64)).any(axis=1).argmax())
        before, after = (bars.ohlcv_TF[row].tolist() for bars in (expected, actual))
        return f"session of {format_time(int(expected.open_time[row]))}: {before} became {after}"
    return ""
