"""Atomic rows for consolidation and replay: both skills, asked side by side, never in one question."""

import random
from collections import defaultdict
from dataclasses import replace
from itertools import cycle, zip_longest

from skillcompose.adapters.packing import Group, group
from skillcompose.types import Passage, Question, Skill

BLOCK = 8


class Mixture:
    """Blocks of eight rows: four about one set of passages; two known facts asked beside these passages, two alone.

    Beside passages, because that is where composition needs them: a policy that was only ever asked closed book what
    it knows reads the first hop, and then goes on with whatever the passages say.
    """

    def __init__(self, atomic: dict[Skill, list[Question]]) -> None:
        sets: dict[tuple[Passage, ...], list[Question]] = defaultdict(list)
        for question in atomic[Skill.CONTEXTUAL]:
            sets[question.passages].append(question)
        self.sets = list(sets.values())
        known = atomic[Skill.PARAMETRIC]
        single, double = ([q for q in known if q.hops == hops] for hops in (1, 2))
        self.single, self.double = single, double or single

    def blocks(self, rows: int, rng: random.Random) -> list[Group]:
        """So many rows, the last block shorter where they end within it."""
        blocks = []
        sets = cycle(rng.sample(self.sets, len(self.sets)))
        for number in range(0, rows, BLOCK):
            read = next(sets)
            asked = rng.sample(read, min(BLOCK // 2, len(read)))
            known = [rng.choice(pool) for pool in (self.single, self.double, self.double, self.single)]
            known[:2] = [replace(q, passages=asked[0].passages) for q in known[:2]]
            # In turn, so that a short block has both skills.
            block = [row for pair in zip_longest(asked, known) for row in pair if row]
            blocks.append(group(block[: rows - number]))
        return blocks
