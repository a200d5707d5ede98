"""The public names, and what importing them costs."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

import forecaster

HEAVY = ("torch", "ccxt", "sqlalchemy", "pandas", "chronos", "transformers", "apscheduler", "matplotlib")


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def test_all_is_sorted_and_whole():
    assert forecaster.__all__ == sorted(forecaster._HOMES)


@pytest.mark.parametrize("name", forecaster.__all__)
def test_name_can_be_imported(name):
    assert getattr(forecaster, name).__name__ == name


@pytest.mark.parametrize("name", [name for name in forecaster.__all__ if name[0].isupper()])
def test_name_is_documented(name):
    assert getattr(forecaster, name).__doc__


def test_unknown_name():
    with pytest.raises(AttributeError, match="Nonsense"):
        _ = forecaster.Nonsense


def test_import_is_light():
    """`import forecaster` loads none of the heavy libraries."""
    loaded = run_python(f"import sys, forecaster; print([m for m in {HEAVY!r} if m in sys.modules])")

    assert loaded == "[]"


def test_reading_the_ledger_needs_no_torch(tmp_path):
    """A strategy that reads forecasts from the ledger never loads torch or ccxt."""
    config = tmp_path / "one.toml"
    config.write_text(
        '[[series]]\nexchange = "x"\nsymbol = "A/B"\ntimeframe = "1h"\nfile = "bars.csv"\n'
        f'[store]\nurl = "sqlite:///{tmp_path}/ledger.db"\n'
    )
    code = (
        "import sys; from forecaster import Forecaster\n"
        f"print(Forecaster.from_config({str(config)!r}).latest('x', 'A/B', '1h'))\n"
        "print([m for m in ('torch', 'ccxt', 'apscheduler', 'matplotlib') if m in sys.modules])"
    )

    assert run_python(code).splitlines() == ["None", "[]"]


def test_import_takes_less_than_300_ms():
    """Best of five, so that a busy machine does not decide."""
    code = "import time; t = time.perf_counter(); import forecaster; print(time.perf_counter() - t)"
    seconds = min(float(run_python(code)) for _ in range(5))

    assert seconds < 0.3


def test_help_takes_less_than_600_ms():
    """Best of five, the interpreter's own start included."""
    best = 1e9
    for _ in range(5):
        started = time.perf_counter()
        run_python("import sys; sys.argv = ['forecaster', '--help']; from forecaster.cli import main; main()")
        best = min(best, time.perf_counter() - started)

    assert best < 0.6
