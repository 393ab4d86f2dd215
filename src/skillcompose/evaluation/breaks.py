"""Where a wrong answer first goes wrong: which hop, where its fact is kept, and how it was missed."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from skillcompose.evaluation.ladder import Prediction
from skillcompose.prompts import mentions, normalise, sentences
from skillcompose.types import Fact, Question, Skill

ADVICE = {
    "not retrieved": "raise index.k, or see which questions the index misses: what is not retrieved cannot be read",
    "misread": "train the contextual skill longer (questions.contextual_rows), or replay more of it during RL",
    "recalled from a neighbour": "teach {relation} more often (questions.profiles, epochs), or give more rank",
    "not recalled": "teach {relation} in more wordings, or longer",
    "stopped early": "give RL more steps: the policy answers before its last hop",
    "final line": "give RL more steps: every hop is right, and the last line is not",
}
"""Causes, in the order in which they are told apart, each with what helps."""


class Breaks:
    """Finds the first wrong hop of a completion; needs all facts, to know whose value was stated instead."""

    def __init__(self, facts: Iterable[Fact]) -> None:
        self.facts = {fact.id: fact for fact in facts}
        self.objects: dict[str, set[str]] = defaultdict(set)
        for fact in self.facts.values():
            self.objects[fact.relation].add(fact.object)

    def first(self, question: Question, completion: str) -> tuple[Fact, str]:
        """The fact of the first wrong hop of a wrong answer, and the cause."""
        hops = [self.facts[fact_id] for fact_id in question.fact_ids]
        said = sentences(completion)
        for number, (fact, gold) in enumerate(zip(hops, sentences(question.completion), strict=True)):
            if number == len(said):
                return fact, "stopped early"
            if normalise(said[number]) != normalise(gold):
                return fact, self._cause(fact, said[number], question.retrieved)
        return hops[-1], "final line"

    def _cause(self, fact: Fact, sentence: str, retrieved: bool) -> str:
        if fact.skill is Skill.CONTEXTUAL:
            return "misread" if retrieved else "not retrieved"
        others = self.objects[fact.relation] - {fact.object}
        return "recalled from a neighbour" if any(mentions(sentence, other) for other in others) else "not recalled"


def count_breaks(
    predictions: Sequence[Prediction], questions: dict[str, Question], facts: Iterable[Fact]
) -> dict[str, dict[str, Any]]:
    """`{rung: {"asked", "wrong", "causes": {cause: count}, "at_passages", "advice"}}` of the start and the composed
    policy on unseen bridges; `at_passages` counts first errors at a hop that was to be read."""
    finder, found = Breaks(facts), {}
    for rung in ("start", "composed"):
        own = [p for p in predictions if p.rung == rung and p.skill == Skill.COMPLEMENTARY and not p.seen]
        breaks = [finder.first(questions[p.question], p.completion) for p in own if not p.correct]
        causes = Counter(cause for _, cause in breaks)
        found[rung] = {
            "asked": len(own),
            "wrong": len(breaks),
            "causes": {cause: causes[cause] for cause in ADVICE if causes[cause]},
            "at_passages": sum(fact.skill is Skill.CONTEXTUAL for fact, _ in breaks),
            "advice": advice(breaks),
        }
    return found


def advice(breaks: Sequence[tuple[Fact, str]]) -> str:
    """The next thing to do, in a sentence; empty when nothing went wrong."""
    if not breaks:
        return ""
    cause, count = Counter(cause for _, cause in breaks).most_common(1)[0]
    relations = Counter(fact.relation for fact, found in breaks if found == cause)
    relation, most = relations.most_common(1)[0]
    share = f"{100 * count / len(breaks):.0f} % of what is left is: {cause}"
    where = f", mostly of `{relation}` ({most} of {count})" if len(relations) > 1 else f" (`{relation}`)"
    return f"{share}{where}. Next: {ADVICE[cause].format(relation=f'`{relation}`')}."
