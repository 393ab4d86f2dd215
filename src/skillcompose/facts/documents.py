"""Documents as tables: fields below headings, and the tables and definition lists that stand in them.

`services/*.md` has a row for each heading with fields below it: front matter, lines like `Owner: Ann` (two or more
together, or bold), definition lists, tables of two columns. `handbook.md#Contacts` is the table, or the definition
list, below the heading Contacts; the second one there is `handbook.md#Contacts 2`.
"""

import glob
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skillcompose.errors import KnowledgeBaseError
from skillcompose.files import check_file
from skillcompose.passages import reason
from skillcompose.passages.readers import READERS
from skillcompose.passages.sections import Section, fence_behind, plain, sections
from skillcompose.tables import MAX_MEGABYTES

FIELD = re.compile(r"(?:[-*+]\s+)?([^\W\d_][^:|]{0,39}?)\s*:\s+(\S.*)")
BULLET = re.compile(r"\s*[-*+]\s")
WORDS = 4  # of a field's name; more is a sentence with a colon
PAIRS = 20  # rows of a table of two columns that can be fields of its heading; more is a list
RULE = re.compile(r"\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?")
Row = tuple[str, dict[str, str]]
"""Where it stands (`handbook.md#anchor:12`, the anchor only where there is one) and its cells by column."""


def is_document(name: str) -> bool:
    return Path(name.partition("#")[0]).suffix.lower() in READERS


def matching(folder: Path, name: str) -> list[Path]:
    """The documents that a table's name stands for."""
    pattern = name.partition("#")[0]
    exact = folder / pattern
    if exact.is_file() and exact.is_relative_to(folder):  # `notes [2024].md` is a name, and as a pattern another one
        return [exact]
    try:
        found = folder.glob(pattern)
        return sorted(path for path in found if path.is_file() and path.suffix.lower() in READERS)
    except (ValueError, NotImplementedError):  # an absolute pattern, or `**` within a name
        return []


def read_documents(folder: Path, name: str) -> Iterator[Row]:
    """The rows of a table made of documents, one document after another.

    Raises:
        KnowledgeBaseError: The only document cannot be read, or there is none.
    """
    heading = name.partition("#")[2]
    paths = matching(folder, name)
    if not paths:
        raise KnowledgeBaseError(f"table {name}: no document in {folder} has this name")
    some = False
    for path in paths:
        try:
            fields, tables = parse(folder, path)
        except Exception as error:
            if len(paths) > 1:  # named with its reason in passages.report.json; the others are still to be read
                continue
            why = f"table {name} {reason(error)}; correct, remove or rename the document"
            raise KnowledgeBaseError(why) from error
        rows = tables.get(heading, []) if heading else fields
        some = some or bool(rows)
        yield from rows
    if heading and not some:
        raise KnowledgeBaseError(f"table {name}: no table or definition list below the heading {heading!r}")


def parse(folder: Path, path: Path) -> tuple[list[Row], dict[str, list[Row]]]:
    """Rows of fields, one for each heading that has some, and the tables by their heading.

    Raises:
        Exception: What the reader makes of a broken file.
    """
    check_file(path, folder, MAX_MEGABYTES)
    source = path.relative_to(folder).as_posix()
    rows: list[Row] = []
    latest: dict[tuple[str, ...], Row] = {}
    matter: Row | None = None
    tables: dict[str, list[Row]] = {}
    for section in sections(READERS[path.suffix.lower()](path), path.stem):
        found: dict[str, list[str]] = {}
        first = section.line
        for line, pairs, table in _structures(section):
            first = first if found else line
            for field, value in pairs:
                field = " ".join(field.split()).casefold()
                # Columns that every row has keep their meaning; the title of front matter is the document's.
                if field == "document" or (field == "title" and not section.matter):
                    field += " 2"
                values = found.setdefault(field, [])
                if value not in values:
                    values.append(value)
            if table:
                name, number = section.trail[-1], 2
                while name in tables:
                    name, number = f"{section.trail[-1]} {number}", number + 1
                tables[name] = [(_place(source, section, line + at), cells) for at, cells in table]
        if found:
            # Front matter and the text below the title are about the same.
            key = (section.trail[-1],) if section.matter or len(section.trail) == 1 else tuple(section.trail)
            cells = {field: "; ".join(values) for field, values in found.items()}
            row = latest.get(key)
            # The same heading once more, with other values, is another row.
            if row is None or (row is not matter and any(row[1].get(f, cells[f]) != cells[f] for f in cells)):
                row = (_place(source, section, first), {"title": section.trail[-1], "document": path.stem})
                latest[key] = row
                rows.append(row)
            matter = row if section.matter else matter
            for field, value in cells.items():
                row[1].setdefault(field, value)
    return rows, tables


def _place(source: str, section: Section, line: int) -> str:
    if not section.marks:
        return f"{source}:{line}"
    before = section.text.split("\n")[: line - section.line]
    anchor = section.anchor_at(sum(len(text) + 1 for text in before))
    return f"{source}#{anchor}:{line}" if anchor else f"{source}:{line}"


Pairs = list[tuple[str, str]]


def _structures(section: Section) -> Iterator[tuple[int, Pairs, list[tuple[int, dict[str, str]]]]]:
    """(line, pairs, rows of a table) of everything in a section that has a structure."""
    if section.matter:
        yield section.line, [(str(name), _text(value)) for name, value in section.matter.items() if _text(value)], []
        return
    lines, fence = section.text.split("\n"), ""
    i = 0
    while i < len(lines):
        before, fence = fence, fence_behind(lines[i], fence)
        if before or fence or not lines[i].strip():
            i += 1
            continue
        explained = any(line.startswith(":") for line in lines[i + 1 : i + 3])
        # Only where one can begin: each reads all that follows.
        for read, begins in ((_table, "|" in lines[i]), (_definitions, explained), (_fields, ":" in lines[i])):
            pairs, table, taken = read(lines[i:]) if begins else NOTHING
            if taken:
                yield section.line + i, pairs, table
                break
        i += taken or 1


Found = tuple[Pairs, list[tuple[int, dict[str, str]]], int]
NOTHING: Found = ([], [], 0)


def _table(lines: list[str]) -> Found:
    """A Markdown table; one of two columns and few rows gives fields of its heading, too."""
    if len(lines) < 3 or "|" not in lines[0] or "|" not in lines[1] or not RULE.fullmatch(lines[1].strip()):
        return NOTHING
    rows: list[list[str]] = []
    for line in (lines[0], *lines[2:]):
        if "|" not in line:
            break
        cells = re.split(r"(?<!\\)\|", line.strip().removeprefix("|").removesuffix("|"))
        rows.append([plain(cell.replace("\\|", "|")) for cell in cells])
    taken = len(rows) + 1
    number = 2
    if not any(rows[0]):  # HTML's tables without a head
        rows, number = rows[1:], 3
    if not rows:
        return [], [], taken
    named = [(i, name) for i, name in enumerate(rows[0]) if name]
    table = [
        (number + at, {name: row[i] if i < len(row) else "" for i, name in named}) for at, row in enumerate(rows[1:])
    ]
    pairs = [(row[0], row[1]) for row in rows if row[0] and row[1]] if {len(row) for row in rows} == {2} else []
    return pairs if len(rows) <= PAIRS else [], table, taken


def _definitions(lines: list[str]) -> Found:
    """`Term`, and below it `: what it is`."""
    pairs, table, i = [], [], 0
    while i < len(lines) and lines[i].strip():
        ahead = next((n for n in range(i + 1, min(i + 3, len(lines))) if lines[n].strip()), i)
        said = re.match(r":\s+(\S.*)", lines[ahead]) if ahead > i else None
        if not said:
            break
        pairs.append((plain(lines[i]), plain(said.group(1))))
        table.append((i, {"term": pairs[-1][0], "definition": pairs[-1][1]}))
        i = ahead + 1
        while i < len(lines) and not lines[i].strip():
            i += 1
    return pairs, table, i


def _fields(lines: list[str]) -> Found:
    """Lines of `Name: value`; a single one counts only when its name is bold. Behind a blank line only more of the same
    kind belong to them: DOCX has a blank line between any two."""
    pairs: Pairs = []
    bold, taken = False, 0
    listed = BULLET.match(lines[0])
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        found = FIELD.fullmatch(re.sub(r"\*\*|__", "", line).strip())
        if not found or len(found.group(1).split()) > WORDS:
            break
        if number != taken and bool(BULLET.match(line)) != bool(listed):
            break
        bold = bold or bool(re.match(r"\s*(?:[-*+]\s+)?(\*\*|__)", line))
        pairs.append((plain(found.group(1)), plain(found.group(2))))
        taken = number + 1
    return (pairs, [], taken) if len(pairs) > 1 or bold else NOTHING


def _text(value: Any) -> str:
    """A front matter's value; several are joined as a table's are, nested ones left out."""
    if isinstance(value, list):
        return "; ".join(filter(None, map(_text, value)))
    return " ".join(str(value).split()) if isinstance(value, str) else ""


def proposed(folder: Path) -> tuple[dict[str, list[Row]], dict[str, str]]:
    """Tables that documents could be: fields of all documents of a kind in one folder, and every table in one; and the
    documents that cannot be read, with the reason."""
    found: dict[str, list[Row]] = {}
    unread: dict[str, str] = {}
    kinds: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in READERS):
        kinds[path.parent.relative_to(folder).as_posix(), path.suffix].append(path)
    for (parent, suffix), paths in kinds.items():
        only = paths[0].relative_to(folder).as_posix() if len(paths) == 1 else ""
        rows: list[Row] = []
        for path in paths:
            source = path.relative_to(folder).as_posix()
            try:
                fields, tables = parse(folder, path)
            except Exception as error:
                unread[source] = reason(error)
                continue
            rows += fields
            found |= {f"{source}#{name}": table for name, table in tables.items()}
        if rows:
            found[only or (folder / glob.escape(parent) / f"*{suffix}").relative_to(folder).as_posix()] = rows
    return found, unread
