"""Rows for consolidation and replay: both skills, asked side by side, never in one question, and general ones."""

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import cycle, islice, zip_longest

from skillcompose.packing import Group, Row, group
from skillcompose.prompts import renaming
from skillcompose.types import Passage, Question, Skill

BLOCK = 8
READ = 4
BESIDE = 2
ALONE = 2
GENERAL = 2


class Mixture:
    """Blocks of eight rows: four about one set of passages, two known facts beside these passages, two alone.

    Beside passages that mention the known entity, because that is where composition needs the fact: a policy that
    was only ever asked closed book reads the first hop, and then goes on with what the passages say of the bridge.
    The entity takes the place of an invented one, so that the passages state nothing true of it. In turn it is a
    fact behind its subject, a chain, a profile. Two `general` rows, where there are some, stand beside each block and
    are not counted. A skill without rows has none in the blocks.
    """

    def __init__(
        self, atomic: dict[Skill, list[Question]], complementary: Iterable[Question], general: Sequence[Row] = ()
    ) -> None:
        sets: dict[tuple[Passage, ...], list[Question]] = defaultdict(list)
        for question in atomic.get(Skill.CONTEXTUAL, []):
            sets[question.passages].append(question)
        self.sets = list(sets.values())
        known = atomic.get(Skill.PARAMETRIC, [])
        named, chained = ([q for q in known if q.bridges and q.named is kind] for kind in (True, False))
        single, profiles = [q for q in known if q.hops == 1 and not q.named], [q for q in known if q.hops == 0]
        self.beside = [named or single, chained or single, profiles or single] if single else []
        self.alone = single + (named or chained or single)
        self.general = general
        # Two known entities in one passage could state by chance what a complementary question asks for.
        self.apart = {frozenset((q.subject, q.bridges[0])) for q in complementary}

    def blocks(self, rows: int, rng: random.Random) -> list[Group]:
        """So many rows, the last block shorter where they end within it."""
        blocks = []
        sets, kinds = cycle(rng.sample(self.sets, len(self.sets))), cycle(self.beside)
        for number in range(0, rows, BLOCK):
            read = next(sets, [])
            asked = rng.sample(read, min(READ, len(read)))
            near = [rng.choice(pool) for pool in islice(kinds, BESIDE)]
            asked, passages = _place(self._entities(near), asked, rng) if asked else ([], ())
            far = rng.choices(self.alone, k=ALONE if self.alone else 0)
            # In turn, so that a short block has both skills, and facts of both places.
            block = _in_turn(asked, _in_turn([replace(q, passages=passages) for q in near], far))
            blocks.append(group(block[: rows - number]) + rng.sample(self.general, min(GENERAL, len(self.general))))
        return blocks

    def _entities(self, known: list[Question]) -> list[str]:
        """What the rows know something of, without those that must not stand beside an earlier one."""
        kept: list[str] = []
        for entity in dict.fromkeys((*q.bridges, q.subject)[0] for q in known):
            if not any(frozenset((entity, other)) in self.apart for other in kept):
                kept.append(entity)
        return kept


def _in_turn(first: list[Question], second: list[Question]) -> list[Question]:
    return [row for pair in zip_longest(first, second) for row in pair if row]


def _place(
    entities: list[str], asked: list[Question], rng: random.Random
) -> tuple[list[Question], tuple[Passage, ...]]:
    """The questions and their passages with these entities in the place of passages' titles, one invented one left."""
    if not entities:
        return asked, asked[0].passages
    titles = sorted({p.title for p in asked[0].passages})
    placed = dict(zip(rng.sample(titles, max(1, len(titles) - 1)), entities, strict=False))
    rename = renaming(placed, r"[\w-]")
    passages = tuple(replace(p, title=rename(p.title), text=rename(p.text)) for p in asked[0].passages)
    renamed = [
        replace(
            q,
            text=rename(q.text),
            answers=tuple(map(rename, q.answers)),
            completion=rename(q.completion),
            passages=passages,
        )
        for q in asked
    ]
    return renamed, passages
