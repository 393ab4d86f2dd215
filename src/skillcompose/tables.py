"""Tables of a knowledge base: CSV, TSV, JSON and JSON lines, sheets of XLSX, tables of SQLite; rows as text cells.

A table is named by its file, and by `#` and a name where a file holds several: `crm.sqlite#accounts`, `plan.xlsx#May`.
"""

import csv
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

from skillcompose.errors import KnowledgeBaseError
from skillcompose.files import Unreadable, check_file, check_zip

TEXTS = (".csv", ".tsv")
DATABASES = (".sqlite", ".sqlite3", ".db")
TABLES = (*TEXTS, ".json", ".jsonl", ".xlsx", *DATABASES)
MAX_MEGABYTES = 200
Row = tuple[int, dict[str, str]]
"""Its number (the line of a text file) and its cells by column."""


def table_names(folder: Path) -> list[str]:
    """Every table below a folder, sorted; a file that cannot be read has none."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in TABLES and p.is_file()):
        name = path.relative_to(folder).as_posix()
        try:
            check_file(path, folder, MAX_MEGABYTES)
            found += [f"{name}#{part}" if part else name for part in _parts(path)]
        except Exception:
            # Only tables that the recipe names must be readable; `read_table` says why one is not.
            continue
    return found


def stem_of(name: str) -> str:
    """`data/people.csv` -> people, `crm.sqlite#people` -> people."""
    return re.split(r"[./#]", name)[-1 if "#" in name else -2]


def columns(folder: Path, name: str) -> list[str]:
    """Names of a table's columns.

    Raises:
        KnowledgeBaseError: The file cannot be read as a table.
    """
    return list(_read(folder, name, 0, 1)[0][1])


def read_table(folder: Path, name: str, limit: int | None = None) -> list[Row]:
    """The rows of a table, the first `limit` of them.

    Raises:
        KnowledgeBaseError: The file cannot be read as a table.
    """
    return _read(folder, name, 1, None if limit is None else limit + 1)


def foreign_keys(folder: Path, name: str) -> dict[str, tuple[str, str]]:
    """Column -> (table, column) that a database declares it to name rows of; empty for other tables."""
    file, _, part = name.rpartition("#")
    if not file.lower().endswith(DATABASES):
        return {}
    with closing(_database(folder / file)) as database:
        pairs = database.execute('SELECT "table", "from", "to" FROM pragma_foreign_key_list(?)', (part,)).fetchall()
        query = "SELECT m.name, p.name FROM sqlite_master m, pragma_table_info(m.name) p WHERE p.pk"
        keys = dict(database.execute(query).fetchall())
    return {column: (f"{file}#{table}", to or keys.get(table, "")) for table, column, to in pairs}


def _read(folder: Path, name: str, first: int, last: int | None) -> list[Row]:
    try:
        return list(islice(_rows(folder, name), first, last))
    except ImportError as error:
        raise KnowledgeBaseError(f'table {name} needs {error.name}: pip install "skillcompose[documents]"') from error
    except Exception as error:
        why = str(error) if isinstance(error, Unreadable) else f"cannot be read: {error}"
        raise KnowledgeBaseError(f"table {name} {why}; correct or remove the file") from error


def _parts(path: Path) -> list[str]:
    """Names of the tables in a file; one empty name for a file that is a table itself."""
    if path.suffix.lower() in DATABASES:
        with closing(_database(path)) as database:
            # No views: a recursive one has no end.
            query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            return sorted(name for (name,) in database.execute(query))
    if path.suffix.lower() == ".xlsx":
        with closing(_workbook(path)) as book:
            return [sheet.title for sheet in book.worksheets]
    return [""]


def _rows(folder: Path, name: str) -> Iterator[Row]:
    """The header, as a row of empty cells, and the rows."""
    file, _, part = (name, "", "") if (folder / name).is_file() else name.rpartition("#")
    path = folder / file
    check_file(path, folder, MAX_MEGABYTES)
    kind = path.suffix.lower()
    if kind in TEXTS:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            # Strict: a quote that nothing closes would take all rows behind it into its cell.
            reader = csv.DictReader(lines, restval="", delimiter=_delimiter(path), skipinitialspace=True, strict=True)
            names = reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
            yield _header(names)
            for row in _read_on(reader):
                # Cells behind the last column are listed under None: mostly a comma that no quotes protect.
                if any(row.pop(None, ())):
                    raise Unreadable(f"has more cells in line {reader.line_num} than in its header")
                if any("\0" in value for value in row.values()):
                    raise Unreadable(f"holds NUL in line {reader.line_num}, so it is no text")
                row.pop("", None)  # pandas writes row numbers below no name, Excel empty columns and rows
                if any(map(str.strip, row.values())):
                    yield reader.line_num, row
    elif kind in DATABASES:
        if part not in _parts(path):
            raise Unreadable(f"has no table {part!r}; it has {', '.join(_parts(path)) or 'none'}")
        with closing(_database(path)) as database:
            found = database.execute('SELECT * FROM "' + part.replace('"', '""') + '"')
            names = [column[0] for column in found.description]
            yield _header(names)
            yield from _cells(names, enumerate(found, 1))
    elif kind == ".xlsx":
        with closing(_workbook(path)) as book:
            if part not in book.sheetnames:
                raise Unreadable(f"has no sheet {part!r}; it has {', '.join(book.sheetnames)}")
            sheet = book[part]
            sheet.reset_dimensions()  # some programs write a wrong one
            cells = sheet.iter_rows(values_only=True)
            names = [_text(cell) for cell in next(cells, ())]
            yield _header(names)
            yield from _cells(names, enumerate(cells, 2))
    else:
        yield from _objects(path, kind == ".jsonl")


def _read_on(reader: "csv.DictReader[str]") -> Iterator[Any]:
    try:
        yield from reader
    except csv.Error as error:
        where = f"the row behind line {reader.line_num}"
        raise Unreadable(f"has a quote that is not closed, or not doubled, in {where} ({error})") from error


def _header(names: list[str]) -> Row:
    if not any(names):
        raise Unreadable("has no columns")
    for name, count in Counter(filter(None, names)).items():
        if count > 1:
            raise Unreadable(f"has the column {name!r} twice")
    return 0, dict.fromkeys(filter(None, names), "")


def _delimiter(path: Path) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    with path.open(encoding="utf-8-sig") as lines:
        header = re.sub(r'"[^"]*"', "", lines.readline())
    # Where the comma is decimal, programs write semicolons; a column may be called "Price, net" all the same.
    return max(",;\t", key=header.count)


def _cells(names: list[str], rows: Iterator[tuple[int, tuple[Any, ...]]] | enumerate[Any]) -> Iterator[Row]:
    for number, row in rows:
        cells = [_text(cell) for cell in row]
        if any(cells):
            yield number, {name: cell for name, cell in zip_longest(names, cells[: len(names)], fillvalue="") if name}


def _objects(path: Path, lines: bool) -> Iterator[Row]:
    """Objects of a JSON list or of JSON lines; every row has the columns of all."""
    text = path.read_text(encoding="utf-8-sig")
    if lines:
        objects = [(number, json.loads(line)) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    else:
        data = json.loads(text)
        objects = list(enumerate(data if isinstance(data, list) else [data], 1))
    if not all(isinstance(item, dict) for _, item in objects):
        raise Unreadable("is no list of objects")
    names = list(dict.fromkeys(chain.from_iterable(item for _, item in objects)))
    yield _header(names)
    for number, item in objects:
        row = {name: _text(item.get(name)) for name in names}
        if any(cell.encode("utf-8", "ignore").decode() != cell for cell in row.values()):
            raise Unreadable(f"holds half a character in row {number}")
        yield number, row


def _text(cell: Any) -> str:
    """A cell as a person would write it; several values are joined, nested ones are left out."""
    if cell is None or isinstance(cell, dict | bytes):
        return ""
    if isinstance(cell, list):
        return "; ".join(filter(None, map(_text, cell)))
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    # A date of a workbook has a time.
    return str(cell).removesuffix(" 00:00:00") if isinstance(cell, datetime) else str(cell).strip()


def _database(path: Path) -> sqlite3.Connection:
    # Reading a database in write-ahead mode would write files beside it; without such a log it may be taken as it is.
    unchanging = "" if Path(f"{path}-wal").exists() else "&immutable=1"
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro{unchanging}", uri=True)


def _workbook(path: Path) -> Any:
    from openpyxl import load_workbook

    check_zip(path)
    return load_workbook(path, read_only=True, data_only=True)
