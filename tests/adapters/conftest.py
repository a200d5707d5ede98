"""Each framework lives in an environment of its own: its tests are collected there, and where somebody names them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

FRAMEWORKS = {
    "test_freqtrade.py": "freqtrade",
    "test_nautilus.py": "nautilus_trader",
    "test_backtesting_py.py": "backtesting",
}


def pytest_ignore_collect(collection_path, config):
    """Leave out a framework that is not installed; one that is asked for by name fails where it is missing."""
    framework = FRAMEWORKS.get(collection_path.name)
    named = {Path(argument.partition("::")[0]).resolve() for argument in config.args}
    if framework is None or find_spec(framework) is not None or collection_path.resolve() in named:
        return None
    return True
