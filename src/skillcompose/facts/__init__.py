"""Stage 2: table rows -> `facts.jsonl`, each fact placed in the weights or in the index by its relation's rule.

`entities.json` says which spellings mean the same row, `facts.report.json` why, what leads where and what gave no fact.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

from skillcompose.errors import KnowledgeBaseError
from skillcompose.facts.documents import Row
from skillcompose.facts.entities import Entities, normalise
from skillcompose.facts.sources import rows_of
from skillcompose.recipe import Recipe
from skillcompose.sections import Relation, Table
from skillcompose.stages import Work
from skillcompose.types import Fact, Passage, Skill, read_jsonl, write_json, write_jsonl

NAMED = "\N{INFORMATION SEPARATOR ONE}"
"""Before each name that stands in the place of a row's number: it may hold the table's separator."""
NOTHING = {"null", "~", "n/a", "nan", "\\n", "-", "\N{EN DASH}", "\N{EM DASH}"}
NOTHING |= {"#n/a", "#ref!", "#value!", "#div/0!", "#name?", "#num!", "#null!"}
"""Cells that say that there is no value."""


@dataclass
class Extraction:
    """Facts, how many cells gave none, by reason, and which names were taken for the same row."""

    facts: list[Fact]
    dropped: Counter[str]
    entities: Entities
    links: dict[str, str] = field(default_factory=dict)
    """Relation -> how many of its objects name rows of which table."""


def run(work: Work) -> None:
    found = extract(work.recipe)
    if not found.facts:
        raise KnowledgeBaseError(f"no fact in {work.recipe.folder}: {dict(found.dropped) or 'every cell is empty'}")
    titles = (passage.title for passage in read_jsonl(work.read("passages") / "passages.jsonl", Passage))
    # Most headings name no row: only those that do are linked.
    found.entities.link(titles, "title of a passage", certain=True)
    write_jsonl(work.folder / "facts.jsonl", found.facts)
    write_json(work.folder / "entities.json", found.entities.spellings)
    placed = Counter(f"{fact.relation} ({fact.skill})" for fact in found.facts)
    asked = Counter(fact.relation for fact in with_one_answer(found.facts))
    several = {name: count for name, count in Counter(f.relation for f in found.facts).items() if count > asked[name]}
    report: dict[str, Any] = {
        "facts": dict(placed),
        "in the index, but one of several answers: not asked for": {n: c - asked[n] for n, c in several.items()},
        "dropped": dict(sorted(found.dropped.items())),
        "links": found.links,
        "same row": found.entities.links,
        "could be several rows, not linked": found.entities.ambiguous,
    }
    write_json(work.folder / "facts.report.json", report)


def extract(recipe: Recipe) -> Extraction:
    """Facts of every relation.

    Where a subject has several objects, a question about it would have more than one answer: in the index they are
    facts that are retrieved and not asked for (`with_one_answer` leaves them out); the weights learn none of them.
    """
    facts: list[Fact] = []
    dropped: Counter[str] = Counter()
    tables, relations = recipe.facts.tables, recipe.facts.relations
    rows = {name: rows_of(recipe.folder, name, table.limit) for name, table in tables.items()}
    named: set[tuple[str, str]] = set()
    for name, relation in relations.items():
        column = relation.table, relation.column
        if not relation.reversed and relation.leads_to and tables[relation.leads_to].id and column not in named:
            _name_rows(name, relation, tables, rows, dropped)
            named.add(column)
    keys = {name: [_cell(row.get(table.key, "")) for _, row in rows[name]] for name, table in tables.items()}
    entities = Entities(keys, recipe.facts.aliases)
    for relation in relations.values():
        if not relation.reversed:
            cells = (row.get(relation.column, "") for _, row in rows[relation.table])
            values = (value for cell in cells for value in _values(cell, tables[relation.table]))
            entities.link(values, f"{relation.table}: {relation.column}", certain=bool(relation.leads_to))
    for name, relation in relations.items():
        objects: dict[str, dict[str, Fact]] = defaultdict(dict)
        for fact in _facts(name, relation, tables[relation.table], rows[relation.table], entities, dropped):
            objects[normalise(fact.subject)].setdefault(normalise(fact.object), fact)
        for found in objects.values():
            if len(found) > 1 and relation.place == "weights":
                dropped[f"{name}: several objects for one subject"] += len(found)
                continue
            several = len(found) > 1
            facts += (replace(fact, id=f"{fact.id} = {fact.object}") if several else fact for fact in found.values())
    if recipe.facts.known:
        facts = _without_unknown(facts, recipe.facts.known, dropped)
    return Extraction(facts, dropped, entities, _links(facts, keys, entities))


def _name_rows(
    name: str, relation: Relation, tables: dict[str, Table], rows: dict[str, list[Row]], dropped: Counter[str]
) -> None:
    """The names of rows in the place of their numbers."""
    target, table = tables[relation.leads_to], tables[relation.table]
    names = {row.get(target.id, "").strip(): _cell(row.get(target.key, "")) for _, row in rows[relation.leads_to]}
    known = set(names.values())
    for _, row in rows[relation.table]:
        values = _values(row.get(relation.column, ""), table)
        # A number first: of a cost center the name may be a number too.
        found = [names.get(value) or (value if value in known else "") for value in values]
        if "" in found:
            dropped[f"{name}: no row of {relation.leads_to} has such a number"] += found.count("")
        row[relation.column] = "".join(NAMED + one for one in found if one)


def _facts(
    name: str, relation: Relation, table: Table, rows: list[Row], entities: Entities, dropped: Counter[str]
) -> list[Fact]:
    found = []
    for source, row in rows:
        key, values = _cell(row.get(table.key, "")), _values(row.get(relation.column, ""), table)
        if not key or not values:
            dropped[f"{name}: empty cell"] += 1
            continue
        key = entities.of(key)
        for value in values:
            subject, value = (value, key) if relation.reversed else (key, entities.of(value))
            found.append(Fact(f"{name}:{subject}", subject, name, value, relation.skill, key, source))
    return found


def _values(cell: str, table: Table) -> list[str]:
    separator = NAMED if NAMED in cell else table.separator
    parts = cell.split(separator) if separator else [cell]
    return [value for part in parts if (value := _cell(part))]


def _cell(text: str) -> str:
    """Without line breaks: an answer's final line is one; empty where it says that there is nothing."""
    line = " ".join(text.split())
    return "" if line.casefold() in NOTHING else line


def with_one_answer(facts: list[Fact]) -> list[Fact]:
    """The facts that can be asked for: no other fact of the relation is about the same subject."""
    count = Counter((fact.relation, normalise(fact.subject)) for fact in facts)
    return [fact for fact in facts if count[fact.relation, normalise(fact.subject)] == 1]


def _links(facts: list[Fact], keys: dict[str, list[str]], entities: Entities) -> dict[str, str]:
    named = {table: {normalise(entities.of(name)) for name in names} for table, names in keys.items()}
    objects: dict[str, set[str]] = defaultdict(set)
    for fact in facts:
        objects[fact.relation].add(normalise(fact.object))
    found = {}
    for relation, values in objects.items():
        shares = {table: len(values & names) for table, names in named.items() if values & names}
        if shares:
            found[relation] = ", ".join(f"{n} of {len(values)} name rows of {table}" for table, n in shares.items())
    return found


def _without_unknown(facts: list[Fact], known: int, dropped: Counter[str]) -> list[Fact]:
    """The weights' facts about the subjects that index facts lead to most often, and about what those facts lead to;
    all facts of the index."""
    led_to = Counter(normalise(fact.object) for fact in facts if fact.skill is Skill.CONTEXTUAL)
    weights = [fact for fact in facts if fact.skill is Skill.PARAMETRIC]
    # What only weights facts lead to is no first subject: it comes along with those that lead there.
    later = {normalise(fact.object) for fact in weights} - led_to.keys()
    subjects = dict.fromkeys(normalise(fact.subject) for fact in weights)
    first = [subject for subject in subjects if subject not in later]
    chosen = set(sorted(first, key=lambda subject: -led_to[subject])[:known])
    reached = chosen
    while reached:
        reached = {normalise(fact.object) for fact in weights if normalise(fact.subject) in reached} - chosen
        chosen |= reached
    kept = []
    for fact in facts:
        if fact.skill is Skill.PARAMETRIC and normalise(fact.subject) not in chosen:
            dropped[f"{fact.relation}: not one of the {known} known subjects"] += 1
        else:
            kept.append(fact)
    return kept
