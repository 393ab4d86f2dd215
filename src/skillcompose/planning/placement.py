"""Where each relation's facts live, what speaks for it and what against it, and what the weights were measured to hold.

The recipe says the place, `init --from` proposes it: stable, often joined, few values -> the weights; what changes, is
long-tailed or sensitive -> the index. Nothing here changes it: a remark is for the person who reads the plan.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from skillcompose.facts.discovery import PRIVATE, changes, words
from skillcompose.planning.amounts import Amounts
from skillcompose.planning.schedule import passes
from skillcompose.prompts import normalise
from skillcompose.recipe import Recipe
from skillcompose.sections import Relation
from skillcompose.types import Fact, Skill

FEWEST = 8  # facts; fewer argue neither for nor against a place
SMALL = 0.25  # a vocabulary of so many values a fact is a small one
JOINED = 0.5  # index facts that lead to a relation, for each of its facts: it is often joined


@dataclass(frozen=True)
class Place:
    """`joined`: index facts that lead to a subject of this relation, so that a question goes on there."""

    relation: str
    place: str
    facts: int
    values: int
    joined: int
    remark: str


@dataclass(frozen=True)
class Measured:
    """An adapter of SmolLM2-135M-Instruct in a share of its layers, asked some of its facts in a held-out wording."""

    facts: int
    rank: int
    share: float
    tokens: int
    recall: float
    where: str


MODEL = "builtin:smollm2-135m-instruct"
# The parametric adapters of the recipes' own runs, before composition; benchmarks/knowledge/RESULTS.md has the sources.
MEASURED = (
    Measured(272, 32, 1.0, 123_952, 0.96, "recipes/quickstart.yaml, 24 asked"),
    Measured(520, 32, 1.0, 231_128, 0.99, "recipes/debian.yaml, 180 asked of 3 seeds"),
    Measured(700, 64, 0.5, 306_757, 0.98, "recipes/biographies-cpu.yaml, 60 asked"),
)
ENOUGH = 0.9


def places(facts: list[Fact], recipe: Recipe) -> list[Place]:
    """One line for each relation of the recipe, in its order."""
    by_relation: dict[str, list[Fact]] = {name: [] for name in recipe.facts.relations}
    for fact in facts:
        by_relation[fact.relation].append(fact)
    led: dict[Skill, Counter[str]] = defaultdict(Counter)
    subjects: dict[Skill, set[str]] = defaultdict(set)
    for fact in facts:
        led[fact.skill][normalise(fact.object)] += 1
        subjects[fact.skill].add(normalise(fact.subject))
    found = []
    for name, some in by_relation.items():
        relation = recipe.relation(name)
        about = {normalise(fact.subject) for fact in some}
        joined, chained = (sum(led[skill][subject] for subject in about) for skill in
                           (Skill.CONTEXTUAL, Skill.PARAMETRIC))  # fmt: skip
        leads = sum(normalise(fact.object) in subjects[Skill.PARAMETRIC] for fact in some)
        values = len({normalise(fact.object) for fact in some})
        place = relation.place + (", sensitive" if relation.sensitive else "")
        remark = _remark(name, relation, len(some), values, joined, chained, leads)
        found.append(Place(name, place, len(some), values, joined, remark))
    return found


def _remark(name: str, relation: Relation, facts: int, values: int, joined: int, chained: int, leads: int) -> str:
    """What the data argue against the place; empty when nothing."""
    changing = changes(name) or changes(relation.column)
    private = not PRIVATE.isdisjoint(words(name) + words(relation.column))
    against = []
    if not facts:
        return "no fact: is the column empty, or has each subject several values?"
    if relation.place == "weights":
        if changing:
            against.append("changes often? what the weights know is not replaced: index")
        if private:
            against.append("private? it cannot be taken out of the weights again: index, sensitive")
        if not joined:
            against.append("only weights facts lead to it" if chained else "nothing leads to it: no question needs it")
        if values == facts >= FEWEST:
            against.append("as many values as facts: a long tail, each learnt by itself")
    else:
        if private and not relation.sensitive:
            against.append("private? then sensitive: true")
        if facts >= FEWEST and joined >= JOINED * facts and values <= SMALL * facts and not changing:
            against.append("often joined, few values: the weights could know it")
        if not leads and not joined and not relation.sensitive:
            against.append("leads to no known subject: only read")
    return "; ".join(against)


def layers_share(lora: dict[str, Any], layers: int) -> float:
    chosen = lora.get("layers_to_transform")
    return 1.0 if chosen is None or not layers else (1 if isinstance(chosen, int) else len(chosen)) / layers


def capacity(recipe: Recipe, facts: list[Fact], found: Amounts, layers: int) -> list[str]:
    """What the parametric adapter is asked to hold, beside what one like it was measured to hold."""
    known = sum(fact.skill is Skill.PARAMETRIC for fact in facts)
    lora, sft = recipe.adapters.parametric.lora, recipe.adapters.parametric.sft
    rank, share = int(lora.get("r", 8)), layers_share(lora, layers)
    tokens = round(passes(sft, found.rows["parametric"]) * found.tokens["parametric"])
    each = tokens / max(1, known)
    lines = [
        f"{known} facts in the weights: {_adapter(rank, share)}, {tokens:,} tokens of training ({each:.0f} a fact)."
    ]
    like = [m for m in MEASURED if m.rank <= rank and m.share <= share + 0.01 and m.recall >= ENOUGH]
    if not like:
        return [*lines, f"No adapter of rank {rank} or less was measured to hold its facts."]
    best = max(like, key=lambda m: m.facts)
    held = best.tokens / best.facts
    lines.append(
        f"Measured on SmolLM2-135M: {_adapter(best.rank, best.share)} held {best.recall:.0%} of {best.facts} facts "
        f"after {best.tokens:,} tokens ({held:.0f} a fact; {best.where})."
    )
    if recipe.model != MODEL:
        lines.append("Your model is another one: what it holds was not measured.")
    if known > best.facts:
        lines.append(f"{known} facts are more than that: a higher rank, fewer facts (facts.known), or look at mastery.")
    elif each < 0.6 * held:
        lines.append("These are fewer tokens a fact: more epochs, questions.wordings or questions.profiles.")
    return lines


def _adapter(rank: int, share: float) -> str:
    return f"rank {rank} in {'all' if share > 0.99 else f'{share:.0%} of the'} layers"
