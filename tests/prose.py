"""The prose linter: sentence length, words not to be used, and names, as `docs/style.toml` lists them.

`python -m tests.prose [PATH …]` reads pages (.md) and modules (.py): paragraphs, docstrings, comments, and the texts of
errors and help. Code blocks, tables and quoted code are not prose. Without a path: all that the project ships.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT: Final = Path(__file__).parents[1]
STYLE: Final = tomllib.loads((ROOT / "docs" / "style.toml").read_text(encoding="utf-8"))
PAGES: Final = ("*.md", "docs/*.md", "config/*.md", "strategies/**/*.md", "forecaster/model/nano/*.md")
MODULES: Final = ("forecaster/**/*.py", "strategies/**/*.py")
UNCHECKED: Final = {"docs/findings.md", "CHANGELOG.md"}
"""Dated records, which keep their words, and the table of names that were used before."""

_CODE: Final = re.compile(r"``[^`]*``|`[^`]*`|https?://\S+")
_END: Final = re.compile(r"(?<=[.!?:;])\s+(?=[\"“(]?[A-Z`0-9])")
_WORD: Final = re.compile(r"[^\W\d_][\w'’-]*")
_SECTION: Final = re.compile(r"^\s*(Args|Raises|Returns|Yields|Shapes):\s*$", re.MULTILINE)
_ARGUMENT: Final = re.compile(r"\n\s*\n|\n\s*(?=\w+: )")
_NO_PROSE: Final = re.compile(r"^ {8}|─|^\s*Shapes:")
_MARKUP: Final = re.compile(r"SELECT |INSERT |CREATE |FROM |JOIN |</|var\(--|PRAGMA ")
_WORDS: Final = {
    re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])", re.IGNORECASE): (word, better)
    for word, better in STYLE["words"].items()
}


class Finding(NamedTuple):
    """What is wrong, and where."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


class _Text(NamedTuple):
    line: int
    text: str
    is_sentence: bool = True


def check(paths: Iterable[Path]) -> list[Finding]:
    """Check files."""
    findings = []
    for path in paths:
        name, source = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
        texts = _page(source) if path.suffix == ".md" else _module(source)
        findings += [
            Finding(name, line, fault)
            for line, text, is_sentence in texts
            for fault in faults(text, is_sentence=is_sentence)
        ]
        if path.suffix == ".py":
            allowed = [word for start, words in STYLE["allowed"].items() if name.startswith(start) for word in words]
            findings += [Finding(name, line, fault) for line, fault in _names(source, allowed)]
    return findings


def faults(text: str, *, is_sentence: bool = True) -> Iterator[str]:
    """Check a paragraph; words alone where it is no sentence."""
    plain = _CODE.sub("CODE", text)
    for pattern, (word, better) in _WORDS.items():
        if pattern.search(plain):
            yield f'expected other words than "{word}", such as: {better}'
    most = STYLE["sentences"]["most_words"]
    for sentence in _END.split(plain) if is_sentence else ():
        count = len(_WORD.findall(sentence))
        if count > most:
            yield f'expected at most {most} words in a sentence, found {count}: "{" ".join(sentence.split()[:8])} …"'


def everything() -> list[Path]:
    """Return the files that are checked by default."""
    files = {path for pattern in (*PAGES, *MODULES) for path in ROOT.glob(pattern)}
    return sorted(path for path in files if str(path.relative_to(ROOT)) not in UNCHECKED)


def _page(source: str) -> Iterator[_Text]:
    """Paragraphs, headings and list items of a page."""
    tokens = MarkdownIt().enable("table").parse(source)
    depth = 0
    for token in tokens:
        depth += (token.type == "table_open") - (token.type == "table_close")
        if token.type == "inline" and token.map and not depth:
            yield _Text(token.map[0] + 1, token.content)


def _module(source: str) -> Iterator[_Text]:
    """Docstrings by paragraph, comments, and the texts of messages."""
    tree = ast.parse(source)
    documented = {id(node.body[0].value) for node in ast.walk(tree) if _is_documented(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            if id(node) in documented:
                parts = _ARGUMENT.split(_SECTION.sub("\n\n", node.value))
                yield from (_Text(node.lineno, part) for part in parts if not _NO_PROSE.search(part))
            elif not _MARKUP.search(node.value):
                for part in node.value.split("\n\n"):
                    yield _Text(node.lineno, part, is_sentence=part.rstrip().endswith((".", ":", ",")))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not token.string.startswith("# type:"):
            yield _Text(token.start[0], token.string.partition(" - ")[2] or token.string.lstrip("# "))


def _is_documented(node: ast.AST) -> bool:
    """Whether a node begins with a docstring."""
    body = getattr(node, "body", None)
    first = body[0] if isinstance(body, list) and body else None
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)


def _names(source: str, allowed: list[str]) -> Iterator[tuple[int, str]]:
    """Names that a module binds and should not."""
    for node in ast.walk(ast.parse(source)):
        name = ""
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = node.name
        better = STYLE["names"].get(name.strip("_"))
        if better is not None and name not in allowed:
            yield getattr(node, "lineno", 1), f"expected another name than `{name}`, such as: {better}"


def main() -> int:
    """Print what is wrong; return 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, help="pages and modules; all when left out")
    paths = [path.resolve() for path in parser.parse_args().paths] or everything()
    findings = check(paths)
    sys.stdout.writelines(f"{finding}\n" for finding in findings)
    sys.stdout.write(f"{len(paths)} files, {len(findings)} findings\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
