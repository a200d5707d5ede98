"""Write the daily bars of this folder anew from the figures that the `arch` package carries.

Run `python trainingdata/write_bars.py` with `arch` installed; the same release of the figures gives
the same bytes. Prices are copied as text, so no decimal is lost or gained. What the columns mean
and whose figures they are stands in README.md; checking them as bars is left to `forecaster.bars`.
"""
# ruff: noqa: INP001 - a folder of files, not a package

from __future__ import annotations

import csv
import gzip
import hashlib
import io
from importlib.resources import files
from pathlib import Path

COLUMNS = ("date", "open", "high", "low", "close", "volume")
INDEXES = {"SPX_USD_1d.csv": "sp500", "IXIC_USD_1d.csv": "nasdaq"}
CHECKSUMS = "SHA256SUMS"


def write(folder: Path) -> None:
    """Write every csv file and the list of their checksums into `folder`."""
    sums = []
    for name, dataset in sorted(INDEXES.items()):
        content = _bars(dataset).encode("ascii")
        (folder / name).write_bytes(content)
        sums.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
    (folder / CHECKSUMS).write_bytes("".join(sums).encode("ascii"))


def _bars(dataset: str) -> str:
    """Give the csv text of one index."""
    packed = (files("arch.data") / dataset / f"{dataset}.csv.gz").read_bytes()
    source = csv.DictReader(io.StringIO(gzip.decompress(packed).decode("ascii"), newline=""))
    text = io.StringIO(newline="")
    target = csv.writer(text, lineterminator="\n")
    target.writerow(COLUMNS)
    target.writerows(map(_row, source))
    return text.getvalue()


def _row(source: dict[str, str]) -> list[str]:
    """Give one row, with its date as YYYY-MM-DD and without the adjusted close, which an index has no use for."""
    month, day, year = map(int, source["Date"].split("/"))
    return [f"{year:04}-{month:02}-{day:02}", *(source[name.capitalize()] for name in COLUMNS[1:])]


if __name__ == "__main__":
    write(Path(__file__).resolve().parent)
