"""Tables for tests, with line numbers as an editor counts them below a header."""

from __future__ import annotations

import pandas as pd

from forecaster.tables import Table


def make_table(columns, *, form="csv, utf-8, separated by ,", has_header=True, timezone="") -> Table:
    """Return a table of columns by name; cells of a list keep their types, a Series keeps its dtype."""
    cells = pd.DataFrame(
        {
            place: column.reset_index(drop=True) if isinstance(column, pd.Series) else pd.Series(column, dtype=object)
            for place, column in enumerate(columns.values())
        }
    )
    cells.index += 2
    return Table("a.csv", list(columns), cells, "line", form, has_header, timezone=timezone)
