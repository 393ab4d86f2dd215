"""Cells that name rows of another table by number, as databases do: `orders.customer_id` -> `customers.id`."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from skillcompose.english import singular, spoken
from skillcompose.tables import foreign_keys, stem_of

Cells = Mapping[str, Mapping[str, list[str]]]
"""Table -> column -> its cells."""
SHARE = 0.5  # of the numbers must be rows of the table


def references(folder: Path, cells: Cells) -> dict[tuple[str, str], tuple[str, str]]:
    """(Table, column) -> (the table whose rows it names, the column of that table which numbers them).

    Those that a database declares, and `customer_id` where a table `customers` has such a column, or `id`.
    """
    found: dict[tuple[str, str], tuple[str, str]] = {}
    numbered: dict[str, str] = {}
    # Only where a name needs it: the pluraliser takes seconds to load.
    named = any(spoken(column)[-1] == "ID" for columns in cells.values() for column in columns)
    called = {singular(" ".join(spoken(stem_of(table))).lower()): table for table in cells} if named else {}
    for table, columns in cells.items():
        declared = foreign_keys(folder, table)
        for column, values in columns.items():
            other, number = declared.get(column) or _by_name(table, column, cells, called)
            rows = cells.get(other, {}).get(number, [])
            if not _distinct(rows) or not _among(values, set(rows)) or (other, number) == (table, column):
                continue
            if numbered.setdefault(other, number) == number:  # a table of a recipe has one column of ids
                found[table, column] = other, number
    return found


def _by_name(table: str, column: str, cells: Cells, called: Mapping[str, str]) -> tuple[str, str]:
    *words, last = spoken(column)
    other = called.get(" ".join(words).lower(), "") if last == "ID" else ""
    names = {name.lower(): name for name in cells.get(other, ())}
    return other if other != table else "", names.get(column.lower(), names.get("id", ""))


def _distinct(values: list[str]) -> bool:
    """Whether every row has one of its own."""
    return bool(values) and all(values) and len(set(values)) == len(values)


def _among(values: Iterable[str], rows: set[str]) -> bool:
    distinct = {value for value in values if value}
    return bool(distinct) and len(distinct & rows) >= SHARE * len(distinct)
