"""The tables that a recipe names, whatever they are: files of rows, or documents."""

from itertools import islice
from pathlib import Path

from skillcompose.facts.documents import Row, is_document, read_documents
from skillcompose.tables import columns, read_table


def rows_of(folder: Path, name: str, limit: int | None = None) -> list[Row]:
    """(where it stands, cells by column) of each row.

    Raises:
        KnowledgeBaseError: The table cannot be read.
    """
    if is_document(name):
        return list(islice(read_documents(folder, name), limit))
    return [(f"{name}:{number}", cells) for number, cells in read_table(folder, name, limit)]


def columns_of(folder: Path, name: str, wanted: set[str]) -> list[str]:
    """Names of a table's columns; of documents no more are read than it takes to find those that are wanted.

    Raises:
        KnowledgeBaseError: The table cannot be read.
    """
    if not is_document(name):
        return columns(folder, name)
    found: dict[str, None] = {}
    for _, cells in read_documents(folder, name):
        found |= dict.fromkeys(cells)
        if wanted <= found.keys():
            break
    return list(found)
