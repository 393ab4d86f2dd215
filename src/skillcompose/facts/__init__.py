"""Stage 2: table rows -> `facts.jsonl`, each fact placed in the weights or in the index by its relation's rule."""

from collections import Counter, defaultdict

from skillcompose.errors import KnowledgeBaseError
from skillcompose.pipeline import Work
from skillcompose.prompts import normalise
from skillcompose.recipe import Recipe
from skillcompose.tables import read_table
from skillcompose.types import Fact, Skill, write_json, write_jsonl


def run(work: Work) -> None:
    facts, dropped = extract(work.recipe)
    if not facts:
        raise KnowledgeBaseError(f"no fact in {work.recipe.folder}: {dict(dropped) or 'every cell is empty'}")
    write_jsonl(work.folder / "facts.jsonl", facts)
    placed = Counter(f"{fact.relation} ({fact.skill})" for fact in facts)
    write_json(work.folder / "facts.report.json", {"facts": dict(placed), "dropped": dict(sorted(dropped.items()))})


def extract(recipe: Recipe) -> tuple[list[Fact], Counter[str]]:
    """Facts of every relation, and how many cells gave none, by reason.

    A subject with several objects is no fact: a question about it would have more than one answer.
    """
    facts: list[Fact] = []
    dropped: Counter[str] = Counter()
    rows = {name: read_table(recipe.folder, name, table.limit) for name, table in recipe.facts.tables.items()}
    for name, relation in recipe.facts.relations.items():
        table = recipe.facts.tables[relation.table]
        objects: dict[str, list[tuple[str, str, str, str]]] = defaultdict(list)
        for number, row in rows[relation.table]:
            key, cell = row.get(table.key, "").strip(), row.get(relation.column, "").strip()
            if not key or not cell:
                dropped[f"{name}: empty cell"] += 1
                continue
            if table.separator and table.separator in cell:
                dropped[f"{name}: several values in one cell"] += 1
                continue
            subject, value = (cell, key) if relation.reversed else (key, cell)
            objects[normalise(subject)].append((subject, value, key, f"{relation.table}:{number}"))
        for found in objects.values():
            if len({normalise(value) for _, value, _, _ in found}) > 1:
                dropped[f"{name}: several objects for one subject"] += len(found)
                continue
            subject, value, key, source = found[0]
            facts.append(Fact(f"{name}:{subject}", subject, name, value, relation.skill, key, source))
    if recipe.facts.known:
        facts = _without_unknown(facts, recipe.facts.known, dropped)
    return facts, dropped


def _without_unknown(facts: list[Fact], known: int, dropped: Counter[str]) -> list[Fact]:
    """The weights' facts about the subjects that index facts lead to most often; all facts of the index."""
    led_to = Counter(normalise(fact.object) for fact in facts if fact.skill is Skill.CONTEXTUAL)
    subjects = dict.fromkeys(normalise(fact.subject) for fact in facts if fact.skill is Skill.PARAMETRIC)
    chosen = set(sorted(subjects, key=lambda subject: -led_to[subject])[:known])
    kept = []
    for fact in facts:
        if fact.skill is Skill.PARAMETRIC and normalise(fact.subject) not in chosen:
            dropped[f"{fact.relation}: not one of the {known} known subjects"] += 1
        else:
            kept.append(fact)
    return kept
