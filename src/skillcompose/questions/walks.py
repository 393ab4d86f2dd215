"""Facts walked into questions: one hop, or two where the first fact's object is the second one's subject."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

from skillcompose.index.writing import statement
from skillcompose.prompts import completion, normalise
from skillcompose.recipe import Recipe
from skillcompose.types import Fact, Question, Skill

Splits = dict[str, list[Question]]
SHARES = {"train": 0.6, "validation": 0.15, "test": 0.25}


def ask(
    hops: Sequence[Fact], wording: str, references: Sequence[str], number: int, skill: Skill, recipe: Recipe
) -> Question:
    """The question that walks these facts, with its gold reasoning. `references` name each hop's object but the last's:
    "the boss of {subject}", then "the spouse of {subject}"."""
    subject = hops[0].subject
    for reference in references:
        subject = reference.format(subject=subject)
    text = wording.format(subject=subject)
    answer = hops[-1].object
    sentences = [statement(fact.relation, fact.subject, fact.object, recipe) for fact in hops]
    path = " > ".join(fact.relation for fact in hops)
    ident = f"{skill}:{path}:{hops[0].subject}:{number}"
    return Question(
        ident,
        text[0].upper() + text[1:],
        (answer,),
        completion(sentences, answer),
        skill,
        path,
        tuple(fact.id for fact in hops),
        subject=hops[0].subject,
        bridges=tuple(fact.object for fact in hops[:-1]),
    )


Joins = Callable[[str, str], bool]


def joins(facts: Iterable[Fact], recipe: Recipe) -> Joins:
    """Whether a relation, the second, is about the rows that the first one leads to.

    An equal name is not enough: a product and a city can both be called Phoenix. The tables must be the same, or most
    rows of the second one's must be rows of the first one's. Of what leads to no table a twentieth of the
    objects, at least two and at most twenty, must name rows.
    """
    rows: dict[str, set[str]] = defaultdict(set)
    subjects: dict[str, set[str]] = defaultdict(set)
    objects: dict[str, set[str]] = defaultdict(set)
    for fact in facts:
        rows[recipe.relation(fact.relation).table].add(normalise(fact.key))
        subjects[fact.relation].add(normalise(fact.subject))
        objects[fact.relation].add(normalise(fact.object))

    @cache
    def follows(one: str, two: str) -> bool:
        first, second = recipe.relation(one), recipe.relation(two)
        target = first.table if first.reversed else first.leads_to
        about = second.leads_to if second.reversed else second.table
        if about and target == about:
            return True
        if about and rows.get(target):
            shared = rows[about] & rows[target]
            joined = 2 * len(shared) >= len(rows[about])
        else:
            shared = objects[one] & (rows[about] if about else subjects[two])
            joined = len(shared) >= min(len(objects[one]), max(2, min(20, len(objects[one]) / 20)))
        # Any two tables have the numbers from 1 to 9 in common.
        return joined and not all(map(str.isdigit, shared))

    return follows


def chains(facts: list[Fact], follows: Joins) -> Iterator[list[Fact]]:
    """Two-hop walks: the first fact's object is the second one's subject, and the walk does not turn back."""
    by_subject: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        by_subject[normalise(fact.subject)].append(fact)
    for first in facts:
        for second in by_subject[normalise(first.object)]:
            turns_back = normalise(second.object) == normalise(first.subject) or second.relation == first.relation
            if not turns_back and follows(first.relation, second.relation):
                yield [first, second]


def divide(entities: list[str], rng: random.Random) -> dict[str, str]:
    """Entity -> split, by `SHARES`."""
    shuffled = rng.sample(entities, len(entities))
    first, second = round(len(shuffled) * SHARES["train"]), round(len(shuffled) * (1 - SHARES["test"]))
    return {e: "train" if i < first else "validation" if i < second else "test" for i, e in enumerate(shuffled)}
