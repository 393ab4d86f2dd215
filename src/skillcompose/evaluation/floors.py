"""Answers without a model: what guessing earns on these questions."""

import difflib
from collections import Counter

from skillcompose.evaluation.ladder import Prediction, judged
from skillcompose.prompts import normalise
from skillcompose.stages import Work
from skillcompose.types import Fact, Question, read_jsonl


def floors(work: Work, asked: list[Question]) -> list[Prediction]:
    """Per question: the most frequent answer of its last relation, the subject's own value, and the value of the
    entity whose name is nearest to the subject's."""
    facts = read_jsonl(work.read("facts") / "facts.jsonl", Fact)
    by_id = {fact.id: fact for fact in facts}
    done = []
    for question in asked:
        first, last = by_id[question.fact_ids[0]], by_id[question.fact_ids[-1]]
        same = [fact for fact in facts if fact.relation == last.relation]
        values = {normalise(fact.subject): fact.object for fact in same}
        majority = Counter(fact.object for fact in same).most_common(1)[0][0]
        # A described package is its own row: its own value would be the answer, which the question does not name.
        own = values.get(normalise(first.key), "") if first.key not in question.bridges else ""
        nearest = difflib.get_close_matches(normalise(first.subject), values, n=1, cutoff=0.0)
        near = values[nearest[0]] if nearest else ""
        for rung, answer in (("floor_majority", majority), ("floor_own_value", own), ("floor_nearest_name", near)):
            correct = normalise(answer) in {normalise(gold) for gold in question.answers}
            done.append(judged(rung, question, answer, correct))
    return done
