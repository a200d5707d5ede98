"""Writes docs/configuration.md from the pydantic models: `python -m tests.config_page`."""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin

from pydantic_core import PydanticUndefined

from forecaster.config import Config, ExchangeConfig, SeriesConfig

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

PAGE: Final = Path(__file__).parents[1] / "docs" / "configuration.md"

_HEAD: Final = """# Configuration

One TOML file. Paths in it are relative to the file; `~` is the home folder. `forecaster config check` explains every
error, and `forecaster config show` prints it with all defaults, as JSON. Start from `config/live.example.toml`.

This page is written by `python -m tests.config_page` from the code.
"""


def page() -> str:
    """Return the page."""
    parts = [_HEAD, _section("Top level", Config, skipped={"exchanges", "series"})]
    parts += [_section("[exchanges.NAME]", ExchangeConfig), _section("[[series]]", SeriesConfig)]
    for name, field in Config.model_fields.items():
        table = _table_of(field)
        if table is not None and name not in {"exchanges", "series"}:
            parts.append(_section(f"[{name}]", table))
    return "\n".join(parts)


def _section(title: str, table: type[BaseModel], skipped: frozenset[str] | set[str] = frozenset()) -> str:
    rows = [
        f"| `{name}` | {_type(field)} | {_default(field)} | {field.description or ''} |"
        for name, field in table.model_fields.items()
        if name not in skipped and _table_of(field) is None
    ]
    about = (table.__doc__ or "").strip().splitlines()[0]
    return "\n".join([f"## {title}\n\n{about}\n", "| Key | Type | Default | Meaning |", "|---|---|---|---|", *rows, ""])


def _table_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the record of a field that is a table of its own."""
    kinds = [field.annotation, *get_args(field.annotation)]
    return next((kind for kind in kinds if hasattr(kind, "model_fields")), None)


def _type(field: FieldInfo) -> str:
    limits = [
        f"{sign} {getattr(limit, name):g}"
        for limit in field.metadata
        for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
        if hasattr(limit, name)
    ]
    return ", ".join([_name(field.annotation), *limits])


def _name(kind: Any) -> str:
    parts = [part for part in get_args(kind) if part is not NoneType]
    if get_origin(kind) is Literal:
        return " or ".join(f"`{part}`" for part in parts)
    names = {str: "text", float: "number", int: "integer", bool: "boolean", tuple: "list", dict: "table"}
    if kind in names or get_origin(kind) in names:
        return names.get(kind) or names[get_origin(kind)]
    if parts and get_origin(kind) is not None and not hasattr(kind, "__metadata__"):
        return " or ".join(dict.fromkeys(map(_name, parts)))
    if hasattr(kind, "__metadata__"):
        return _name(get_args(kind)[0])
    return {"Path": "path", "date": "date", "SecretUrl": "URL"}.get(kind.__name__, kind.__name__)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True) if field.default_factory is None else None
    if value is PydanticUndefined:
        return "required"
    if value in (None, {}):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{list(value)}`".replace("'", '"') if isinstance(value, tuple) else f"`{value}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
