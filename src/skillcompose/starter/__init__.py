"""`skillcompose init`: a recipe and a small knowledge base that train as they stand, or a recipe for a folder."""

import json
import os
import re
import shutil
from importlib.resources import as_file, files
from pathlib import Path

from skillcompose.english import row_noun, spoken
from skillcompose.errors import KnowledgeBaseError
from skillcompose.facts.discovery import Table, discover

KNOWN = 160  # subjects whose facts a small model learns in some minutes
MORE = {
    "    rows: 720": "    rows: 1440",
    "max_steps: 16": "max_steps: 24",
    "validate_steps: 8": "validate_steps: 12",
    "ema_decay: 0.8": "ema_decay: 0.93",
}
MANY = 100
"""From so many known subjects on a recipe has the sizes of `debian.yaml` instead of the starter's."""


def write_project(folder: Path, knowledge: Path | None = None) -> Path:
    """Copy the starter project into a new or empty folder; with `knowledge`, a recipe proposed for that folder.

    Returns:
        The recipe's path.

    Raises:
        KnowledgeBaseError: The folder has something in it, and nothing is overwritten; or it cannot be made; or no
            table of `knowledge` gives facts.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise KnowledgeBaseError(f"{folder} is not empty; name a new folder")
    proposed = proposal(knowledge) if knowledge is not None else None
    recipe = folder / "recipes" / "own-folder.yaml"
    with as_file(files("skillcompose.starter")) as source:
        for name in ("recipes",) if knowledge else ("recipes", "knowledge"):
            try:
                shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            except OSError as error:
                why = error.strerror or error
                raise KnowledgeBaseError(f"{folder} cannot be written ({why}); name another folder") from error
    if knowledge is not None and proposed is not None:
        text = recipe.read_text(encoding="utf-8")
        # Not the starter's: two projects must not share a run.
        name = re.sub(r"[^a-z0-9]+", "-", knowledge.resolve().name.lower()).strip("-") or "own-folder"
        text = text.replace("name: own-folder", f"name: {_quoted(name)}", 1)
        text = text.replace(
            "../knowledge ", _quoted(os.path.relpath(knowledge.resolve(), recipe.parent.resolve())) + " ", 1
        )
        text = re.sub(
            r"^(#.*\n)+",
            "# Proposed from the tables and documents of a folder. Read the reasons, change what is wrong, train.\n",
            text,
        )
        facts, subjects = proposed
        text = re.sub(r"^facts:\n.*?(?=^index:)", lambda _: facts + "\n", text, flags=re.M | re.S)
        text = sized(text, subjects)
        recipe.write_text(text, encoding="utf-8")
    return recipe


def sized(text: str, subjects: int) -> str:
    """The starter's recipe with training sizes for so many known subjects."""
    for old, new in MORE.items() if subjects >= MANY else ():
        assert old in text, f"the starter's recipe has no {old!r}"
        text = text.replace(old, new)
    return text


def proposal(knowledge: Path) -> tuple[str, int]:
    """The recipe's `facts` section for a folder, each line with its reason, and how many subjects the weights learn.

    Raises:
        KnowledgeBaseError: No complementary question could be asked: what is missing.
    """
    if not knowledge.is_dir():
        raise KnowledgeBaseError(f"{knowledge} is not a folder")
    tables, left_out = discover(knowledge)
    places = {column.place for table in tables for column in table.columns}
    if not {"weights", "index"} <= places:
        reasons = [f"{name}: {why}" for name, why in left_out.items()]
        reasons += [f"{t.name}: {c.name}: {c.place or 'no place'}, {c.why}" for t in tables for c in t.columns]
        raise KnowledgeBaseError(
            f"{knowledge}: no question needs both skills: one column must lead to rows of a table, whose other columns "
            "the model then knows. Add such a column, or write the recipe by hand.\n  "
            + "\n  ".join(
                reasons or ["there is no table (CSV, JSON, XLSX, SQLite), and no document with fields or tables"]
            )
        )
    lines = ["facts:", _commented(f"  known: {KNOWN}", "subjects that the weights learn: those most often led to")]
    lines.append("  tables:")
    for table in tables:
        separator = f', separator: "{table.separator}"' if table.separator else ""
        numbered = f", id: {_quoted(table.id)}" if table.id else ""
        row = f"{_quoted(table.name)}: {{key: {_quoted(table.key)}{numbered}{separator}}}"
        led_to = f"; led to by {', '.join(table.led_to_by)}" if table.led_to_by else ""
        lines.append(_commented("    " + row, f"{table.rows} rows, each with its own {table.key}{led_to}"))
    lines += [_comment(f"{name}: left out, {why}") for name, why in left_out.items()]
    known = sum(table.rows for table in tables if any(column.place == "weights" for column in table.columns))
    return "\n".join([*lines, "  relations:", *_relations(tables)]) + "\n", min(known, KNOWN)


def _relations(tables: list[Table]) -> list[str]:
    lines: list[str] = []
    taken: set[str] = set()
    numbered = {table.name for table in tables if table.id}
    for table in tables:
        for column in table.columns:
            if not column.place:
                lines.append(_comment(f"{table.name}, {column.name}: {column.why}"))
                continue
            name = _named(column.name)
            if column.leads_to in numbered:
                name = name.removesuffix("_id")
            name = name if name not in taken else _named(f"{row_noun(table.name, table.key)} {name}")
            while name in taken:
                name += "_2"
            taken.add(name)
            lines += [f"    {_quoted(name)}:", f"      table: {_quoted(table.name)}"]
            lines += [f"      column: {_quoted(column.name)}"] + ["      reversed: true"] * column.reversed
            lines += ["      sensitive: true"] * column.sensitive
            lines += [f"      leads_to: {_quoted(column.leads_to)}"] if column.leads_to else []
            lines.append(_commented(f"      place: {column.place}", column.why))
    return lines


def _named(column: str) -> str:
    """A relation's name, of which general wordings are made: `ownerId` is `owner_id`, `Owner(s)` is `owners`."""
    said = " ".join(spoken(re.sub(r"^#|#$", " number ", column.replace("(s)", "s"))))
    return "_".join(re.findall(r"[^\W_]+(?:-[^\W_]+)*", said)).lower() or "column"


def _comment(text: str) -> str:
    """One line, whatever stands in a table's header."""
    return f"    # {' '.join(text.split())}"


def _commented(line: str, why: str) -> str:
    return f"{line:42}  # {' '.join(why.split())}"


def _quoted(text: str) -> str:
    """A YAML scalar that no YAML takes for a number or for yes and no."""
    return json.dumps(text, ensure_ascii=False)
