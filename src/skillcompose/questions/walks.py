"""Facts walked into questions: one hop, or two where the first fact's object is the second one's subject."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

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


def chains(facts: list[Fact]) -> Iterator[list[Fact]]:
    """Two-hop walks: the first fact's object is the second one's subject, and the walk does not turn back."""
    by_subject: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        by_subject[normalise(fact.subject)].append(fact)
    for first in facts:
        for second in by_subject[normalise(first.object)]:
            if normalise(second.object) != normalise(first.subject) and second.relation != first.relation:
                yield [first, second]


def divide(entities: list[str], rng: random.Random) -> dict[str, str]:
    """Entity -> split, by `SHARES`."""
    shuffled = rng.sample(entities, len(entities))
    first, second = round(len(shuffled) * SHARES["train"]), round(len(shuffled) * (1 - SHARES["test"]))
    return {e: "train" if i < first else "validation" if i < second else "test" for i, e in enumerate(shuffled)}
