"""Generate files of bars from known true bars in the formats of many programs, read them, and compare.

`python -m tests.faults.files --files 200000 --seed 0` compares every bar read with the true bars. A bar that differs is
wrong; a row that is neither a bar nor counted is lost. `--only N` repeats one file; `--keep FOLDER` keeps failures.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from forecaster.bars import Bars, SeriesKey
from forecaster.calendars import canonical_name, is_continuous
from forecaster.errors import ForecasterError
from forecaster.sources.files import FileSource
from forecaster.tables import ParseOptions
from forecaster.timeframe import DAY_MS
from tests.faults import file_faults
from tests.faults.file_dialects import (
    DIALECTS,
    Form,
    choose,
    clock_of,
    encode,
    fits,
    frame_bytes,
    frame_of,
    json_of,
    labels_of,
    pack,
    text_of,
)
from tests.faults.file_truths import EXCHANGES, HOUR_MS, KINDS, Sheet, make_market, make_sheet, on_clock, pick, values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pandas as pd

VERDICTS: Final = ("understood", "partly", "refused", "undetectable", "misled", "lost", "wrong", "crash")
FAILURES: Final = ("lost", "wrong", "crash")
BENIGN: Final = ("none", "gaps", "repeated", "read early", "few broken", "few off the grid", "rounded")
"""Faults with which a file must be read if all options are right; a frame may have no broken row."""

TIMEFRAMES: Final = ("1m", "5m", "15m", "30m", "1h", "4h", "1d")
ZONES: Final = ("UTC", "America/New_York", "Europe/Berlin", "Asia/Tokyo")
GARBAGE: Final = ("### connection lost ###", "NaN", ";;;;", "<html>502</html>", "0,0,0", "2024-02-30,1,1,1,1,1", '"')
CLOSE_NAMES: Final = ("close_time", "close time", "end")
WIDTH: Final = 150
OFF_GRID: Final = ("few off the grid", "many off the grid")
MIN_SESSIONS: Final = 3
"""Fewer sessions do not show whether times are local."""

_CHUNK: Final = 100
_FAR: Final = 40 * DAY_MS


class Outcome(NamedTuple):
    """The bars read of one series; `counted` rows are rejected, replaced or unclosed; None if they are not counted."""

    key: SeriesKey
    bars: Bars
    counted: int | None


class Verdict(NamedTuple):
    """The result for one file; `detail` describes errors, `share` is the fraction of true bars that were read."""

    kind: str
    detail: str = ""
    share: float = 0.0


class Judged(NamedTuple):
    """The kind of a file, and its verdict."""

    number: int
    dialect: str
    market: str
    fault: str
    given: str
    entry: str
    verdict: Verdict

    @property
    def is_needless(self) -> bool:
        """Whether the file was rejected although all options were right and its fault is benign."""
        strict = self.entry == "frame" and self.fault.startswith("few")
        return self.verdict.kind == "refused" and self.given == "right" and self.fault in BENIGN and not strict


@dataclass
class Case:
    """A file or a frame, the given options, and the rows that were written.

    Args:
        number: of the file; with the seed, it determines the file.
        options: given options by name.
        entry: `guess`, `key`, or `frame` for `Bars.from_frame`.
        source: a path or a frame.
        last: position in the sheet of the row at which a truncated file ends.
    """

    number: int
    dialect: str
    form: Form
    sheet: Sheet
    fault: str
    given: str
    options: dict[str, Any]
    entry: str
    source: Path | pd.DataFrame | None = None
    last: int | None = None

    @property
    def parse_options(self) -> ParseOptions:
        """The given options of the table."""
        names = ("timezone", "columns", "decimal", "dayfirst", "symbol_column")
        return ParseOptions(**{name: self.options[name] for name in names if name in self.options})

    def known_keys(self) -> list[SeriesKey]:
        """Return the keys of a user who knows the series."""
        market, options = self.sheet.market, self.options
        name = options.get("calendar", market.calendar if "day_anchor" in options else "24/7")
        timeframe = options.get("timeframe", market.timeframe)
        symbols = sorted({row.symbol for row in self.sheet.rows})
        return [SeriesKey("file", f"{symbol}/USD", timeframe, canonical_name(name)) for symbol in symbols]


def make_case(seed: int, number: int, folder: Path, dialects: Sequence[str] = tuple(DIALECTS)) -> Case:
    """Generate the file with this number of a seed."""
    rng = np.random.default_rng([seed, number])
    while True:
        dialect = pick(rng, dialects)
        form = choose(rng, dialect)
        market = make_market(rng, pick(rng, KINDS), int(np.exp(rng.uniform(np.log(20), np.log(400)))))
        if fits(form, market):
            break
    several = form.symbol_name not in ("", "<TICKER>") or form.shape in ("wide", "alpaca")
    symbols = ["ABC", "ZZZ", "QQQ"][: int(rng.integers(1, 4))] if several else ["ABC"]
    volume = (
        "large" if form.volume == "suffix" else pick(rng, ["whole", "whole", "decimal", "lacking", "partly", "zero"])
    )
    volume = "whole" if form.shape == "kraken" else volume
    if volume == "lacking" and form.has_header and form.shape in ("csv", "frame index", "frame columns"):
        form = replace(form, places=form.places.replace("v", ""))
    sheet = make_sheet(rng, market, symbols, volume)
    fault = _pick_fault(rng, form, sheet)
    change = file_faults.FAULTS[fault][1]
    if change is not None:
        change(sheet, rng)
    sheet.as_of = sheet.as_of or max(row.close_time for row in sheet.rows) + _FAR
    file_faults.order(sheet, rng, form.order or pick(rng, file_faults.ORDERS), fault)
    given, options = _choose_options(rng, form, sheet, fault)
    entry = (
        "frame"
        if form.suffix == ""
        else "guess"
        if form.shape in ("polygon", "kraken")
        else pick(rng, ["guess", "key"])
    )
    case = Case(number, dialect, form, sheet, fault, given, options, entry)
    _write(case, rng, folder)
    return case


def _pick_fault(rng: np.random.Generator, form: Form, sheet: Sheet) -> str:
    if form.names[0].lower() in CLOSE_NAMES:
        return "labelled by close"
    names = list(file_faults.FAULTS)
    weights = np.array([one for one, _ in file_faults.FAULTS.values()])
    while True:
        fault = str(rng.choice(names, p=weights / weights.sum()))
        if _can_have(fault, form, sheet):
            return fault


def _can_have(fault: str, form: Form, sheet: Sheet) -> bool:
    market = sheet.market
    if form.shape == "alpha vantage" and fault in ("another resolution", "labelled by close", *OFF_GRID):
        return False  # each time occurs once
    is_text = form.suffix in (".csv", ".txt", ".tsv") and form.shape in ("csv", "yfinance")
    is_one = len({row.symbol for row in sheet.rows}) == 1
    writes_minutes = not form.times.endswith(("date", "hour", "hour pm", "compact8", "month name"))
    return {
        "mixed symbols": is_one and form.shape in ("csv", "rows", "klines", "frame index", "frame columns", "objects"),
        "another resolution": is_one
        and market.kind == "crypto"
        and market.timeframe in ("5m", "15m", "1h", "4h", "1d")
        and writes_minutes
        and len(sheet.rows) > 60,
        "few off the grid": writes_minutes
        and market.timeframe != "1m"
        and not (market.is_daily and market.has_sessions),
        "many off the grid": writes_minutes
        and market.timeframe != "1m"
        and not (market.is_daily and market.has_sessions),
        "wrong calendar": market.kind.startswith("exchange"),
        "labelled by close": writes_minutes and market.kind != "24/5",
        "few broken": form.shape not in ("wide", "kraken"),
        "many broken": form.shape not in ("wide", "kraken"),
        "read early": form.suffix != "",
        "truncated": is_text and not form.encoding.startswith("utf-16"),
        "garbage line": is_text,
        "repeated": not form.shape.startswith("pandas") and form.shape not in ("wide", "alpha vantage"),
        "revised": not form.shape.startswith("pandas") and form.shape not in ("wide", "alpha vantage", "kraken"),
    }.get(fault, True)


def _choose_options(rng: np.random.Generator, form: Form, sheet: Sheet, fault: str) -> tuple[str, dict[str, Any]]:
    """Choose the given options: none, all right, some of them, or one wrong."""
    right = _right_options(rng, form, sheet)
    given = str(rng.choice(["nothing", "right", "some", "wrong"], p=[0.3, 0.44, 0.2, 0.06]))
    options = dict(right)
    if given == "nothing":
        options = {}
    if given == "some":
        options = {name: value for name, value in right.items() if rng.random() < 0.5}
    if given == "wrong":
        name = pick(rng, list(right))
        options[name] = _wrong_option(rng, name, right[name])
    if fault == "wrong timeframe":
        others = [one for one in TIMEFRAMES if one != sheet.market.timeframe]
        options["timeframe"] = pick(rng, others)
    if fault == "wrong calendar":
        given = "wrong"
        others = [name for name in EXCHANGES if canonical_name(name) != canonical_name(sheet.market.calendar)]
        options["calendar"] = pick(rng, others)
    return given, options


def _right_options(rng: np.random.Generator, form: Form, sheet: Sheet) -> dict[str, Any]:
    market, right = sheet.market, {"timeframe": sheet.market.timeframe}
    clock = clock_of(form, market)
    if not form.has_zone and (clock != "UTC" or form.names[0] == "<DATE>" or rng.random() < 0.2):
        right["timezone"] = clock
    if market.anchor:
        right["day_anchor"] = market.anchor if " " in market.anchor else f"{market.anchor} UTC"
    else:
        right["calendar"] = market.calendar
    if not form.has_header and "|" not in form.times and form.places.strip("x") != "tohlcv":
        words = {"t": "open_time", "o": "open", "h": "high", "l": "low", "c": "close", "v": "volume", "x": ""}
        right["columns"] = tuple(words[place] for place in form.places)
    if form.shape == "rows" and form.places != "tohlcv":
        words = {"t": "open_time", "o": "open", "h": "high", "l": "low", "c": "close", "v": "volume", "x": ""}
        right["columns"] = tuple(words[place] for place in form.places)
    if form.decimal == "," or form.thousands or form.times.startswith("dmy.") or form.delimiter == ";":
        right["decimal"] = form.decimal
    if form.times.startswith(("dmy", "mdy")):
        right["dayfirst"] = form.times.startswith("dmy")
    if form.symbol_name:
        right["symbol_column"] = form.symbol_name
    return right


def _wrong_option(rng: np.random.Generator, name: str, value: Any) -> Any:
    """Return a wrong value."""
    if name == "columns":
        return tuple({"open": "high", "high": "open"}.get(column, column) for column in value)
    others = {
        "timeframe": TIMEFRAMES,
        "timezone": ZONES,
        "day_anchor": ("00:00", "08:00", "16:30", "17:00 Europe/Berlin"),
        "calendar": ("24/7", "24/5", *EXCHANGES),
        "decimal": (".", ","),
        "dayfirst": (True, False),
        "symbol_column": ("no such column",),
    }[name]
    right = canonical_name(value) if name == "calendar" else value
    return pick(
        rng, [column for column in others if (canonical_name(column) if name == "calendar" else column) != right]
    )


def _write(case: Case, rng: np.random.Generator, folder: Path) -> None:
    form, sheet = case.form, case.sheet
    if form.shape.startswith("frame"):
        frame = frame_of(form, sheet)
        if form.suffix == "":
            case.source = frame
            return
        content = frame_bytes(form, frame)
    elif form.suffix in (".json", ".jsonl", ".ndjson"):
        content = json_of(form, sheet).encode()
    else:
        content = _text(case, rng)
    name = f"ABC-USD_{case.number}{form.suffix}"
    case.source = folder / (name + form.packed if form.packed != ".zip" else name.replace(form.suffix, ".zip"))
    case.source.write_bytes(pack(form, content, name))


def _text(case: Case, rng: np.random.Generator) -> bytes:
    form, lines = case.form, text_of(case.form, case.sheet)
    head = len(lines) - len(case.sheet.rows)
    if case.fault == "garbage line":
        lines.insert(head + int(rng.integers(1, len(case.sheet.rows))), pick(rng, GARBAGE))
    if case.fault == "truncated":
        case.last = int(rng.integers(len(case.sheet.rows) // 2, len(case.sheet.rows)))
        lines[head + case.last :] = [lines[head + case.last][: int(rng.integers(1, len(lines[head + case.last])))]]
        case.sheet.trust(case.sheet.rows[: case.last])
    if form.banner:
        lines.insert(0, form.banner)
    end = "" if case.fault == "truncated" else form.newline
    return encode(form, form.newline.join(lines) + end)


def read(case: Case) -> list[Outcome]:
    """Read a file by inference, by a key, or as a frame."""
    if case.entry == "frame":
        return [Outcome(key, Bars.from_frame(key, case.source, case.parse_options), None) for key in case.known_keys()]
    source = FileSource(case.source, case.parse_options)
    if case.entry == "guess":
        given = {name: case.options.get(name) for name in ("timeframe", "calendar", "day_anchor")}
        keys = [guess.key for guess in source.infer_series(**given)]
    else:
        keys = case.known_keys()
    return [Outcome(key, *_validate(source, key, case.sheet.as_of)) for key in keys]


def _validate(source: FileSource, key: SeriesKey, as_of: int) -> tuple[Bars, int]:
    validated = source.validate_rows(key, as_of)
    return validated.bars, len(validated.rejected) + validated.replaced + validated.unclosed


def play(case: Case, read: Callable[[Case], list[Outcome]] = read) -> Judged:
    """Read a case and judge the result."""
    try:
        with warnings.catch_warnings(action="error"):
            verdict = judge(case, read(case))
    except ForecasterError as error:
        option = getattr(error, "option", None)
        verdict = Verdict("refused", type(error).__name__ + (f" {option}" if option else "") + f": {error}"[:240])
    except Exception as error:  # noqa: BLE001 - any other error is a crash
        verdict = Verdict("crash", f"{type(error).__name__}: {error}"[:300])
    market = case.sheet.market
    names = (case.dialect, f"{market.kind} {market.calendar} {market.timeframe}", case.fault, case.given, case.entry)
    return Judged(case.number, *names, verdict)


def judge(case: Case, outcomes: list[Outcome]) -> Verdict:
    """Compare every bar read with the true bars, and count those that are missing."""
    wrong, missing, true_count, lost = [], 0, 0, []
    for outcome in outcomes:
        true = _true_of(case, outcome.key)
        unknown_bars, matched = _compare(case, outcome, true)
        wrong += [(outcome.key, *one) for one in unknown_bars]
        expected = len(true) - matched
        true_count, missing = true_count + len(true), missing + expected
        uncounted = _uncounted(case, outcome, expected)
        if uncounted > 0:
            lost.append(f"{outcome.key}: {uncounted} rows of {len(case.sheet.rows)} are nowhere")
    share = (true_count - missing) / max(1, true_count)
    if wrong:
        kind, why = _classify_wrong(case, wrong)
        key, at, cells = wrong[0]
        shown = f"{np.datetime64(at, 'ms')} {cells}"
        return Verdict(kind, f"{why}{len(wrong)} bars such as {key} {key.calendar} {shown}", share)
    if lost:
        return Verdict("lost", "; ".join(lost), share)
    if set(case.sheet.true) - {_symbol_of(case, one.key) for one in outcomes}:
        return Verdict("lost", f"a symbol is nowhere: {[str(one.key) for one in outcomes]}", share)
    return Verdict(
        "understood" if not missing else "partly", f"{missing} of {true_count} refused" * bool(missing), share
    )


def _symbol_of(case: Case, key: SeriesKey) -> str:
    """Return the true series of a key; the only one of a file with one series."""
    known = {row.symbol for row in case.sheet.rows}
    return next(iter(known)) if len(known) == 1 else key.symbol.partition("/")[0]


def _true_of(case: Case, key: SeriesKey) -> dict[int, set[tuple[float, ...]]]:
    """Return the true bars of a key; none for another timeframe."""
    if key.timeframe.name != case.sheet.market.timeframe:
        return {}
    return case.sheet.true.get(_symbol_of(case, key), {})


def _compare(
    case: Case, outcome: Outcome, true: dict[int, set[tuple[float, ...]]]
) -> tuple[list[tuple[int, list[float]]], int]:
    """Return the bars that are not true, and the number of true bars read."""
    by_time = _by_date(case, true) if _compares_dates(case, outcome.key) else true
    times = outcome.bars.open_time
    times = _dates(outcome.key, times) if by_time is not true else times
    unknown_bars, matched = [], 0
    for at, open_time, cells in zip(
        times.tolist(), outcome.bars.open_time.tolist(), outcome.bars.ohlcv_TF.tolist(), strict=True
    ):
        if any(_is_same(cells, one) for one in by_time.get(at, ())):
            matched += 1
        else:
            unknown_bars.append((open_time, cells))
    return unknown_bars, matched


def _is_same(cells: list[float], true: tuple[float, ...]) -> bool:
    """Compare prices to the last bit; an unknown volume equals any."""
    return tuple(cells[:4]) == true[:4] and (cells[4] != cells[4] or cells[4] == true[4])


def _compares_dates(case: Case, key: SeriesKey) -> bool:
    """Return whether only dates can be compared: daily sessions without a given calendar."""
    market = case.sheet.market
    is_said = "calendar" in case.options or key.calendar == canonical_name(market.calendar)
    return market.is_daily and market.has_sessions and not is_said


def _dates(key: SeriesKey, opens: np.ndarray) -> np.ndarray:
    """Return the dates of days on a calendar; of anchored days, the date of most of their hours."""
    if is_continuous(key.calendar):
        return (opens + DAY_MS // 2) // DAY_MS * DAY_MS
    return on_clock(opens, EXCHANGES.get(key.calendar, "UTC"))[0] // DAY_MS * DAY_MS


def _by_date(case: Case, true: dict[int, set[tuple[float, ...]]]) -> dict[int, set[tuple[float, ...]]]:
    wall, _ = on_clock(np.array(list(true), np.int64), case.sheet.market.zone)
    return dict(zip((wall // DAY_MS * DAY_MS).tolist(), true.values(), strict=True))


def _uncounted(case: Case, outcome: Outcome, missing: int) -> int:
    """Count rows that are neither bars nor counted."""
    if outcome.counted is None:
        return missing
    symbol = _symbol_of(case, outcome.key)
    rows = case.sheet.rows[: case.last]
    return sum(row.symbol == symbol for row in rows) - len(outcome.bars) - outcome.counted


def _classify_wrong(case: Case, wrong: list[tuple[SeriesKey, int, list[float]]]) -> tuple[str, str]:
    """Return the kind of wrong bars, and the reason: whether a reader could have detected them."""
    if case.fault == "wrong timeframe" or case.options.get("timeframe", "") not in ("", case.sheet.market.timeframe):
        is_of_a_part = case.fault == "another resolution"  # it may be the given timeframe
        return ("misled" if is_of_a_part else "wrong"), "timeframe: "
    if case.last is not None:
        row = case.sheet.rows[case.last]
        wrong = [
            one for one in wrong if abs(one[1] - row.open_time) >= DAY_MS and tuple(one[2][:4]) != values(row.cells)[:4]
        ]
        if not wrong:
            return "undetectable", "cut within the last cells: "
    if case.given == "wrong":
        return "misled", "by a wrong option: "
    written = _as_written(case)
    if written is not None and all(tuple(cells[:4]) in written.get(at, ()) for _, at, cells in wrong):
        evidence = _evidence(case)
        return ("wrong", f"{evidence}: ") if evidence else ("undetectable", "")
    return "wrong", ""


def _as_written(case: Case) -> dict[int, set[tuple[float, ...]]] | None:
    """Return prices by written times read as open times; None if that is the right reading."""
    form, market = case.form, case.sheet.market
    if not _is_local(case) and case.fault != "labelled by close":
        return None
    wall, offset = labels_of(form, market, case.sheet.rows)
    written: dict[int, set[tuple[float, ...]]] = {}
    for times in [wall] * _is_local(case) + [wall - offset] * (case.fault == "labelled by close"):
        for time, row in zip(times.tolist(), case.sheet.rows, strict=True):
            written.setdefault(time, set()).update((values(row.cells)[:4], _closed(values(row.cells))))
    return written


def _is_local(case: Case) -> bool:
    """Return whether times are local without any evidence of their zone."""
    is_zoneless = not case.form.has_zone and "timezone" not in case.options
    return is_zoneless and clock_of(case.form, case.sheet.market) != "UTC"


def _closed(cells: tuple[float, ...]) -> tuple[float, ...]:
    """Return prices with the high raised to a rounded close."""
    known = [one for one in (cells[0], cells[1], cells[3]) if one is not None]
    return (cells[0], max(known, default=None), cells[2], cells[3])


def _evidence(case: Case) -> str:
    """Return the evidence in a file that a reader could have used."""
    form, market = case.form, case.sheet.market
    has_sessions = market.kind == "exchange" and len({row.date for row in case.sheet.rows}) >= MIN_SESSIONS
    if form.names[0].lower() in CLOSE_NAMES:
        return "the name of a column of close times"
    if not _is_local(case):
        knows_sessions = has_sessions and ("calendar" in case.options or case.entry == "guess")
        return "labelled by the close of bars in sessions" if knows_sessions else ""
    if form.zone in ("broker", "est"):
        return "the form of a broker"
    if has_sessions:
        return "sessions of an exchange in local time"
    if market.step > HOUR_MS or case.fault not in ("none", "read early"):
        return ""
    return _transition_in(labels_of(form, market, case.sheet.rows)[0], [row.open_time for row in case.sheet.rows])


def _transition_in(wall: np.ndarray, opens: list[int]) -> str:
    """Return the daylight saving change that shows in times without gaps."""
    if len({*wall.tolist()}) < len(wall) - 2:
        return "an hour that comes twice"
    between, apart = np.diff(np.sort(opens)), np.diff(np.sort(wall))
    return "an hour that is missing" if (apart > between).any() and not np.ptp(between) else ""


def play_numbers(numbers: Sequence[int], seed: int, keep: Path | None) -> list[Judged]:
    """Play files by number; keep failures."""
    shared = Path("/dev/shm")  # noqa: S108 - a folder of one's own is made in it
    judged = []
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as name:
        for number in numbers:
            try:
                case = make_case(seed, number, Path(name))
            except Exception as error:
                error.add_note(f"while file {number} of seed {seed} was made")
                raise
            judged.append(play(case))
            if keep is not None and judged[-1].verdict.kind in FAILURES:
                _keep(case, judged[-1], keep)
            if isinstance(case.source, Path):
                case.source.unlink()
    return judged


def _keep(case: Case, judged: Judged, folder: Path) -> None:
    """Keep a file, with its options and verdict."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(case.source, Path):
        shutil.copy(case.source, folder)
    else:
        case.source.to_pickle(folder / f"{case.number}.pickle")
    record = {**judged._asdict(), "options": case.options, "as_of": case.sheet.as_of, "form": str(case.form)}
    (folder / f"{case.number}.json").write_text(json.dumps(record, indent=1, default=str), encoding="utf-8")


def play_all(numbers: Sequence[int], seed: int, workers: int, keep: Path | None) -> Iterator[Judged]:
    """Play files in several processes."""
    chunks = [numbers[at : at + _CHUNK] for at in range(0, len(numbers), _CHUNK)]
    play_chunk = partial(play_numbers, seed=seed, keep=keep)
    if workers == 1:
        for chunk in chunks:
            yield from play_chunk(chunk)
        return
    with ProcessPoolExecutor(workers) as pool:
        for judged in pool.map(play_chunk, chunks):
            yield from judged


def count(judged: Sequence[Judged], name: str) -> dict[str, Counter[str]]:
    """Count verdicts by a property of files; `needless` are among the rejected."""
    counters: dict[str, Counter[str]] = {}
    for item in judged:
        counter = counters.setdefault(getattr(item, name), Counter())
        counter[item.verdict.kind] += 1
        counter["needless"] += item.is_needless
    return counters


def show(judged: Sequence[Judged], console: Console) -> None:
    """Print the verdicts by dialect, fault, given options and entry."""
    for name in ("dialect", "fault", "given", "entry"):
        table = Table(name, "files", *VERDICTS[:3], "needless", *VERDICTS[3:])
        for kind, counter in sorted(count(judged, name).items()):
            shown = [str(counter[verdict] or "") for verdict in (*VERDICTS[:3], "needless", *VERDICTS[3:])]
            table.add_row(kind, str(sum(counter[verdict] for verdict in VERDICTS)), *shown)
        console.print(table)


def summary(judged: Sequence[Judged]) -> dict[str, Any]:
    """Return the counts, and the failures."""
    kinds = Counter(item.verdict.kind for item in judged)
    failures = [
        item._asdict() | {"verdict": item.verdict._asdict()} for item in judged if item.verdict.kind in FAILURES
    ]
    return {
        "files": len(judged),
        **{kind: kinds[kind] for kind in VERDICTS},
        "needless": sum(item.is_needless for item in judged),
        "dialects": {name: dict(counter) for name, counter in count(judged, "dialect").items()},
        "failures": failures,
        "needless_examples": [str(item) for item in judged if item.is_needless][:200],
        "refusals": Counter(item.verdict.detail.partition(":")[0] for item in judged if item.verdict.kind == "refused"),
    }


def main() -> None:
    """Generate files, read them, and print how many bars were wrong."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one file")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder for files that are read wrong")
    parser.add_argument("--json", action="store_true")
    plan = parser.parse_args()
    numbers = range(plan.files) if plan.only is None else [plan.only]
    console = Console(stderr=plan.json, width=WIDTH)
    played = play_all(numbers, plan.seed, plan.workers if plan.only is None else 1, plan.keep)
    judged = list(track(played, "files", len(numbers), console=console))
    if plan.json:
        sys.stdout.write(json.dumps(summary(judged)) + "\n")
    else:
        if plan.only is None:
            show(judged, console)
        for item in judged:
            if item.verdict.kind in FAILURES or plan.only is not None:
                console.print(f"{item.number} {item.verdict.kind}: {item}", markup=False, highlight=False)
    sys.exit(any(item.verdict.kind in FAILURES for item in judged))


if __name__ == "__main__":
    main()
