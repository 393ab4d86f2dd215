"""Are names and codes found, which no embedding knows? Questions about the people of the biographies' register.

    python benchmarks/knowledge/names.py        the claims `knowledge.recall3_*`

"Whose badge is clover swan?" asks for the passage that has these words; as a code ("VD-132", invented) the badge is
one that no model ever saw. Every other index relation names its person.
"""

import random
import statistics
import string
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims

from skillcompose.index import Retriever, compile_passages
from skillcompose.pipeline import train
from skillcompose.prompts import normalise
from skillcompose.questions.wordings import questions
from skillcompose.recipe import Recipe
from skillcompose.sections import Index
from skillcompose.types import Fact, Passage, Skill, read_jsonl

RECIPE, BADGE = claims.ROOT / "recipes" / "biographies-cpu.yaml", "badge"
ASKED, K, SEED = 600, 10, 0
Asked = list[tuple[str, str]]
"""Question and the title of its passage."""


def main() -> None:
    recipe, rng = Recipe.from_yaml(RECIPE), random.Random(SEED)
    with tempfile.TemporaryDirectory() as folder:
        run = train(recipe, folder, until="facts")
        facts = read_jsonl(run.stage("facts") / "facts.jsonl", Fact)
        passages, _ = compile_passages(read_jsonl(run.stage("passages") / "passages.jsonl", Passage), facts, recipe)
    facts = [fact for fact in facts if fact.skill is Skill.CONTEXTUAL]
    badges = [fact for fact in facts if fact.relation == BADGE]
    others = [fact for fact in facts if fact.relation != BADGE]
    made = coded(badges, rng)
    plain = Retriever.build(passages, Index())
    sets: dict[str, tuple[Retriever, Asked]] = {
        "names": (plain, asked(rng.sample(others, min(ASKED, len(others))), recipe, rng)),
        "badges": (plain, asked(badges, recipe, rng)),
        "codes": (Retriever.build(rewritten(passages, badges, made), Index()), asked(made, recipe, rng)),
    }
    for label, (retriever, rows) in sets.items():
        print(f"{label}: {len(rows)} questions, {len(passages)} passages, such as {rows[0][0]!r}")
        for name, by in {**{name: (name,) for name in retriever.rankings}, "hybrid": ()}.items():
            ranks = places(retriever, rows, by)
            at = {k: statistics.mean(0 < rank <= k for rank in ranks) for k in (1, 3)}
            print(f"  {name:7} recall@1 {at[1]:.3f}, @3 {at[3]:.3f}")
            if name == "hybrid":
                command = "python benchmarks/knowledge/names.py"
                claims.write(f"knowledge.recall3_{label}", round(at[3], 3), "recall@3, hybrid", command, [SEED])


def asked(facts: list[Fact], recipe: Recipe, rng: random.Random) -> Asked:
    return [
        (rng.choice(questions(fact.relation, recipe)).format(subject=fact.subject), normalise(fact.key))
        for fact in facts
    ]


def coded(badges: list[Fact], rng: random.Random) -> list[Fact]:
    """The same facts with a code for each badge; no two are alike."""
    codes: dict[str, None] = {}
    while len(codes) < len(badges):
        codes["".join(rng.choices(string.ascii_uppercase, k=2)) + f"-{rng.randrange(100, 1000)}"] = None
    return [replace(fact, subject=code) for fact, code in zip(badges, codes, strict=True)]


def rewritten(passages: list[Passage], badges: list[Fact], made: list[Fact]) -> list[Passage]:
    codes = {normalise(old.key): (old.subject, new.subject) for old, new in zip(badges, made, strict=True)}
    return [replace(p, text=p.text.replace(*codes.get(normalise(p.title), ("", "")))) for p in passages]


def places(retriever: Retriever, rows: Asked, by: tuple[str, ...]) -> list[int]:
    """The rank of each question's passage; 0: it is not among the ten."""
    found = retriever.search([question for question, _ in rows], K, by=by)
    return [
        next((rank for rank, hit in enumerate(hits, 1) if normalise(hit.passage.title) == title), 0)
        for hits, (_, title) in zip(found, rows, strict=True)
    ]


if __name__ == "__main__":
    main()
