"""Tables and documents -> a proposal for the recipe's `facts`: keys, links, and where each column's facts live.

The rules are few and each leaves its reason behind, so that a person can read the proposal and change it:

- a column is a **link** when its values are keys of a table: the first hop of a question, read in the index;
- other columns of a table that something links to are **known**: the second hop, learnt by the weights;
- what changes or is private is never put into the weights; text, constants and empty columns are left out.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median

from skillcompose.errors import KnowledgeBaseError
from skillcompose.facts.documents import is_document, proposed
from skillcompose.facts.entities import loose
from skillcompose.facts.references import references
from skillcompose.prompts import normalise
from skillcompose.tables import read_table, stem_of, table_names

PRIVATE = {"email", "mail", "phone", "mobile", "fax", "salary", "wage", "iban", "bank", "password", "secret", "token"}
PRIVATE |= {"birth", "birthday", "birthdate", "dob", "ssn", "tax", "address", "passport", "bonus", "compensation"}
CHANGING = {"date", "time", "updated", "created", "modified", "status", "state", "price", "cost", "amount", "total"}
CHANGING |= {"count", "stock", "quantity", "score", "version", "release"}
PRIVATE_VALUE = re.compile(
    r"^[^@\s]+@[^@\s]+\.\w+$"
    r"|^(?!\d{4}[-/]\d\d?[-/]\d\d?$|\d\d?[-/]\d\d?[-/]\d{4}$)\+?[\d ()/-]{9,}$"  # no dates
    r"|^[A-Z]{2}\d{2}[A-Z0-9 ]{11,}$"
)
NUMBER_OR_DATE = re.compile(r"^[-+]?[\d.,: /T%€$£+-]+Z?$")
LINKED = 0.5  # share of a column's values that are keys of the table it leads to
FIELD = 0.3  # share of the headings in documents that have the field which names a row
LEAST = 8  # values; fewer make no questions
TEXT = 12  # words in the middle: more is a text, not a value
DESCRIBES = 4  # words: from here on a value can stand for its row
MAX_ROWS = 100_000
RELATIONS = 3  # of a table, in the weights: what is asked most should be learnt well


@dataclass
class Column:
    """A relation of the proposal; `place` is empty when the column is left out, and `why` says so."""

    name: str
    place: str = ""
    why: str = ""
    reversed: bool = False
    leads_to: str = ""
    sensitive: bool = False


@dataclass
class Table:
    name: str
    key: str
    rows: int
    id: str = ""
    """The column by which other tables name its rows, where that is not the key."""
    separator: str = ""
    columns: list[Column] = field(default_factory=list)
    led_to_by: list[str] = field(default_factory=list)
    """Columns whose values name its rows."""


def discover(folder: Path) -> tuple[list[Table], dict[str, str]]:
    """The tables that give facts, of files and of documents, and the others with the reason why not."""
    cells: dict[str, dict[str, list[str]]] = {}
    left_out: dict[str, str] = {}
    tables: list[Table] = []
    for name, rows in _all_rows(folder, left_out).items():
        every = dict.fromkeys(column for row in rows for column in row)
        cells[name] = {column: [row.get(column, "").strip() for row in rows] for column in every}
    numbers = references(folder, cells)
    named_again = [
        found
        for table, columns in cells.items()
        for column, values in columns.items()
        if (table, column) not in numbers and (found := _repeated(values))
    ]
    for name, columns in cells.items():
        if len(columns) == 1:  # or another delimiter
            left_out[name] = f"only one column, {next(iter(columns))!r}"
            continue
        key = guess_key(name, columns, named_again)
        if key is None:
            left_out[name] = "no column has another value in every row, so nothing names a row"
            continue
        filled = [place for place, value in enumerate(columns[key]) if value]
        cells[name] = {column: [values[place] for place in filled] for column, values in columns.items()}
        tables.append(Table(name, key, len(filled), separator=guess_separator(cells[name])))
    by_name = {table.name: table for table in tables}
    renamed = _name_rows(by_name, cells, numbers)
    keys = {table.name: {fold(value) for value in cells[table.name][table.key]} for table in tables}
    for table in tables:
        for column, values in cells[table.name].items():
            names = (table.key, table.id, *(("title", "document") if is_document(table.name) else ()))
            if column not in names:
                single = [v for v in values if v and not (table.separator and table.separator in v)]
                target = renamed.get((table.name, column), "")
                described = describe(column, single, table, {target: keys[target]} if target else keys)
                described.leads_to = described.leads_to or target
                several = sum(map(bool, values)) - len(single)
                if described.place == "index" and several:
                    described.why += f"; {several} cells hold several values: retrieved, not asked for"
                table.columns.append(described)
    for table in tables:
        for link in table.columns:
            if link.leads_to:
                by_name[link.leads_to].led_to_by.append(f"{table.name}: {link.name}")
    reached = {column.leads_to for table in tables for column in table.columns if column.leads_to}
    # A row can be spoken of by a value that no other row has; then nothing has to link to its table.
    reached |= {table.name for table in tables for column in table.columns if column.reversed}
    # Tables about the same things: a hop to a row of one is a hop to the row of the other.
    reached |= {a for a in keys for b in reached if _same_things(keys[a], keys[b])}
    for table in tables:
        _place_the_rest(table, cells[table.name], table.name in reached)
    return tables, left_out


def _name_rows(
    tables: dict[str, Table], cells: dict[str, dict[str, list[str]]], numbers: dict[tuple[str, str], tuple[str, str]]
) -> dict[tuple[str, str], str]:
    """Put the names of rows in the place of their numbers; returns (table, column) -> the table whose rows they are."""
    renamed = {}
    for (name, column), (other, number) in numbers.items():
        used = name in tables and other in tables
        if used and column != tables[name].key and number != tables[other].key:
            tables[other].id = number
            names = dict(zip(cells[other][number], cells[other][tables[other].key], strict=True))
            cells[name][column] = [names.get(value, "") for value in cells[name][column]]
            renamed[name, column] = other
    return renamed


def _same_things(keys: set[str], others: set[str]) -> bool:
    shared = keys & others
    # Any two tables have the numbers from 1 to 9 in common; questions will not go from one to the other either.
    return len(shared) >= LINKED * len(keys) and not all(map(str.isdigit, shared))


def _all_rows(folder: Path, left_out: dict[str, str]) -> dict[str, list[dict[str, str]]]:
    """Every table that can be read; those made of documents only with as many rows as make questions."""
    found: dict[str, list[dict[str, str]]] = {}
    for name in table_names(folder):
        try:
            found[name] = [row for _, row in read_table(folder, name, MAX_ROWS)]
        except KnowledgeBaseError as error:
            left_out[name] = str(error)
    in_documents, unread = proposed(folder)
    left_out |= unread
    found |= {
        name: [cells for _, cells in rows[:MAX_ROWS]] for name, rows in in_documents.items() if len(rows) >= LEAST
    }
    if small := [f"{name} ({len(rows)})" for name, rows in in_documents.items() if len(rows) < LEAST]:
        left_out[f"{len(small)} in documents"] = f"fewer than {LEAST} rows: {', '.join(small[:5])}"
    return found


def _place_the_rest(table: Table, cells: dict[str, list[str]], reached: bool) -> None:
    """The weights get what tells most rows of a reached table apart; a table that nothing leads to is read."""
    rest = [column for column in table.columns if not column.place and not column.why]
    if not reached:
        for column in rest:
            column.place, column.why = "index", "nothing leads to its rows"
        return
    told = {column.name: _told_apart(cells[column.name]) for column in rest}
    best = sorted(told, key=lambda name: -told[name])[:RELATIONS]
    for column in rest:
        if column.name in best:
            column.place, column.why = "weights", "known: asked after a hop to its row"
        else:
            column.why = f"left out: {', '.join(best)} tell more rows apart"


def _told_apart(values: list[str]) -> float:
    """Share of the rows that have a value, and not the most frequent one."""
    found = Counter(normalise(value) for value in values if value)
    return (found.total() - found.most_common(1)[0][1]) / len(values) if found else 0.0


def _repeated(values: list[str]) -> set[str]:
    """The values of a column that holds some of them again and again, as one does that names rows of a table."""
    filled = list(filter(None, values))
    found = {fold(value) for value in set(filled)}
    return found if 3 <= len(found) < len(filled) and not _numbers(filled) else set()


def guess_key(table: str, columns: dict[str, list[str]], named_again: Sequence[set[str]] = ()) -> str | None:
    """The column that names a row: filled and different everywhere, short, and rather called so, or what other columns
    name it by (`named_again`), or words than numbers."""
    stem = re.sub(r"s$", "", stem_of(table).lower())
    best: tuple[tuple[bool, bool, bool, bool, bool, int], str] | None = None
    for place, (name, cells) in enumerate(columns.items()):
        values = list(filter(None, cells))
        # A field stands below some headings of a document, and below the others there are other fields.
        enough = len(cells) * (FIELD if is_document(table) else 1)
        if not values or len(values) < enough or len({normalise(v) for v in values}) < len(values):
            continue
        if mean(len(v.split()) for v in values) > 6 or _private(name, values):
            continue
        named = name.lower() in (stem, "name", "title", "key", "code")
        rows = set(map(fold, values))
        led_to = any(len(found & rows) >= LINKED * len(found) for found in named_again)
        numbers = mean(bool(NUMBER_OR_DATE.match(v)) for v in values) > 0.5
        score = (len(values) < len(cells), not named, not led_to, "name" not in words(name), numbers, place)
        if best is None or score < best[0]:
            best = score, name
    return best[1] if best else None


def guess_separator(columns: dict[str, list[str]]) -> str:
    """What stands between several values of one cell."""
    for separator in (";", "|"):
        if any(sum(separator in v for v in values) >= max(2, 0.02 * len(values)) for values in columns.values()):
            return separator
    return ""


def describe(name: str, values: list[str], table: Table, keys: dict[str, set[str]]) -> Column:
    """What is plain from a column alone; `place` and `why` stay empty when other columns decide."""
    column = Column(name)
    distinct = Counter(map(normalise, values))
    private = _private(name, values)
    if len(values) < LEAST:
        column.why = f"left out: only {len(values)} cells hold one value"
    elif distinct.most_common(1)[0][1] > 0.8 * len(values):
        column.why = "left out: nearly every row has the same"
    elif median(len(v.split()) for v in values) > TEXT:
        column.why = "left out: text; put it into a document"
    elif private:
        column.place, column.why = "index", "private: retrieved, and in no training row"
        column.sensitive = True
    elif (target := _target(folded := Counter(map(fold, values)), table, keys)) and not _numbers(values):
        column.place, column.leads_to = "index", target
        shared = sum(count for value, count in folded.items() if value in keys[target])
        column.why = f"a link: {shared} of {len(values)} values name rows of {target}"
    elif changes(name) or _numbers(values):
        column.place, column.why = "index", "changes, or is a number: kept where it can be replaced"
    elif len(distinct) == len(values) and mean(len(v.split()) for v in values) >= DESCRIBES:
        column.place, column.reversed = "index", True
        column.why = "no two rows have the same: each value stands for its row"
    return column


def fold(name: str) -> str:
    """The form in which a value is compared with keys: as linking will."""
    return loose(name) or normalise(name)


def words(name: str) -> list[str]:
    """`AccountNo` and `account_no` -> account, no."""
    return re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())


def changes(name: str) -> bool:
    """By the last word of the name: an order's status changes, a cost center or a release manager stays."""
    return not CHANGING.isdisjoint(words(name)[-1:])


def _private(name: str, values: list[str]) -> bool:
    return not PRIVATE.isdisjoint(words(name)) or (
        bool(values) and mean(bool(PRIVATE_VALUE.match(v)) for v in values) > 0.3
    )


def _numbers(values: list[str]) -> bool:
    return mean(bool(NUMBER_OR_DATE.match(v)) for v in values) > 0.8


def _target(distinct: Counter[str], table: Table, keys: dict[str, set[str]]) -> str:
    """The table whose keys most of these values are."""
    shares = {name: sum(value in found for value in distinct) / len(distinct) for name, found in keys.items()}
    best = max(shares, key=lambda name: (shares[name], name != table.name))
    return best if shares[best] >= LINKED and len(distinct) >= 3 else ""
