"""The prose linter finds what it is for, and the project has nothing for it to find."""

from __future__ import annotations

import pytest

from tests import prose

LONG = "A " + " ".join(["word"] * 35) + "."


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("The series sits out the cycle.", 'other words than "sits out"'),
        ("Whoever reads it knows.", 'other words than "whoever"'),
        (LONG, "at most 35 words in a sentence, found 36"),
        (f"Short. {LONG}", "found 36"),
    ],
)
def test_fault_is_found(text, fault):
    (message,) = prose.faults(text)

    assert fault in message


@pytest.mark.parametrize("text", ["It is skipped.", "`whoever` is code.", f"{LONG[:-6]}. {LONG[:-6]}."])
def test_plain_text_has_no_fault(text):
    assert list(prose.faults(text)) == []


def test_code_and_tables_are_no_prose(tmp_path, monkeypatch):
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n```\n{LONG}\n```\n\n| a |\n|---|\n| {LONG} |\n\nWhoever.\n")

    assert [(found.line, found.text[:20]) for found in prose.check([page])] == [(11, "expected other words")]


def test_module_is_read_whole(tmp_path, monkeypatch):
    """Docstring, comment, message and name; the SQL of a query is none of it."""
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    module = tmp_path / "module.py"
    module.write_text(
        f'"""Ask somebody."""\n\nQUERY = "SELECT {LONG}"\n\n\n'
        'def act(df):\n    # owed\n    raise ValueError("the rival is unknown")\n'
    )

    assert sorted(finding.line for finding in prose.check([module])) == [1, 6, 7, 8]


def test_the_project_has_no_findings():
    assert prose.check(prose.everything()) == []
