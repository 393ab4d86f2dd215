"""Does the diagnosis say what is so? Policies of which it is known, by construction.

    python benchmarks/diagnosis/planted.py        the claim `diagnosis.planted_right_of_4`

120 questions about what is read (`needs`) and then known (`owner`), 64 samples each, and rules in
place of models: one knows every fact, one only reads, one guesses, one does mostly what it seldom did before.
"""

import random
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims

from skillcompose.evaluation.breaks import Breaks
from skillcompose.evaluation.pass_at_k import curves, verdict
from skillcompose.types import Fact, Question, Skill

SAMPLES, QUESTIONS = 64, 120
OWNERS = [f"Ann {letter}" for letter in "ABCDE"]
Policy = Callable[[Question], str]
NUMBERS = range(QUESTIONS)
READ = [Fact(f"needs:a{i}", f"a{i}", "needs", f"b{i}", Skill.CONTEXTUAL, f"a{i}", "t") for i in NUMBERS]
KNOWN = [Fact(f"owner:b{i}", f"b{i}", "owner", OWNERS[i % 5], Skill.PARAMETRIC, f"b{i}", "t") for i in NUMBERS]


def says(subject: str, bridge: str, owner: str) -> str:
    return f"{subject} needs {bridge}.\n{bridge} is owned by {owner}.\nSo: {owner}"


ASKED = [
    Question(
        f"q{i}", f"Who owns what a{i} needs?", (OWNERS[i % 5],), says(f"a{i}", f"b{i}", OWNERS[i % 5]),
        Skill.COMPLEMENTARY, "needs > owner", (f"needs:a{i}", f"owner:b{i}"), subject=f"a{i}", bridges=(f"b{i}",),
        retrieved=True,
    )
    for i in NUMBERS
]  # fmt: skip


def judged(seed: int = 0) -> dict[str, tuple[bool, bool]]:
    """Whether the verdict on each policy is right, and whether what is blamed for its wrong answers is."""
    rng = random.Random(seed)

    def knows(question: Question) -> str:
        return question.completion

    def reads(question: Question) -> str:
        wrong = [owner for owner in OWNERS if owner not in question.answers]
        return says(question.subject, question.bridges[0], rng.choice(wrong))

    def guesses(question: Question) -> str:
        return says(question.subject, rng.choice(READ).object, rng.choice(OWNERS))

    def rarely(question: Question) -> str:
        return knows(question) if rng.random() < 0.1 else reads(question)

    def mostly(question: Question) -> str:
        return knows(question) if rng.random() < 0.9 else reads(question)

    def right(policy: Policy) -> dict[str, int]:
        return {q.id: sum(policy(q) == q.completion for _ in range(SAMPLES)) for q in ASKED}

    def verdict_on(start: Policy, policy: Policy) -> str:
        return str(verdict(ASKED, right(start), right(policy), SAMPLES)["verdict"])

    def blame(policy: Policy) -> list[str]:
        finder = Breaks([*READ, *KNOWN])
        found = [finder.first(q, text) for q in ASKED if (text := policy(q)) != q.completion]
        return [f"{cause} {fact.relation}" for fact, cause in found]

    drawn = curves(ASKED, {"guesses": right(guesses)}, SAMPLES, [*READ, *KNOWN])
    pairs = zip(drawn["guesses"]["share"], drawn["chance"]["share"], strict=True)
    by_chance = all(abs(share - chance) < 0.1 for share, chance in pairs)
    known_wrong = "recalled from a neighbour owner"
    return {
        "knows": (verdict_on(reads, knows) == "synthesised", blame(knows) == []),
        "reads": (verdict_on(reads, reads) == "undecided", set(blame(reads)) == {known_wrong}),
        "guesses": (
            by_chance and verdict_on(guesses, guesses) != "synthesised",
            blame(guesses).count("misread needs") > QUESTIONS * 2 // 3,
        ),
        "amplifies": (verdict_on(rarely, mostly) == "amplified", set(blame(rarely)) == {known_wrong}),
    }


def main() -> None:
    found = judged()
    print("| policy | verdict | blame |\n|---|---|---|")
    for name, rightly in found.items():
        print(f"| {name} | {' | '.join('right' if one else 'wrong' for one in rightly)} |")
    value = sum(map(all, found.values()))
    claims.write("diagnosis.planted_right_of_4", value, "policies", "python benchmarks/diagnosis/planted.py", [0])


if __name__ == "__main__":
    main()
