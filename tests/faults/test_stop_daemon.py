"""A sample of what `python -m tests.faults.stop_daemon` does at length, and that it would see work cut off."""

from __future__ import annotations

import pytest

from tests.faults.stop_daemon import CASES, play
from tests.faults.world import break_package

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("case", CASES)
def test_service_ends_as_it_is_told(case):
    assert play(case, seed=0, series=8).wrong == []


@pytest.mark.parametrize(
    ("case", "module", "old", "new", "wrong"),
    [
        (
            "refused",
            "daemon/service.py",
            "            self._refuse(error)\n            return False",
            "            raise",
            "ended",
        ),
        ("twice", "daemon/service.py", "os._exit(1)", "return", "ended with 0 and not 1"),
    ],
    ids=["a bad file ends it", "a second signal is not heard"],
)
def test_breach_would_be_seen(tmp_path, case, module, old, new, wrong):
    found = play(case, seed=0, series=4, package=break_package(tmp_path, module, old, new))

    assert any(wrong in text for text in found.wrong)
