"""Stage 4: facts -> questions of each skill, split so that the numbers mean something.

`{parametric,contextual,complementary}.{train,validation,test}.jsonl`, each question with the passages it is asked
with; `questions.report.json` counts what was dropped and why, and measures recall@k of the supporting passage.
"""

import logging
import random
import re
from collections import Counter

from skillcompose.errors import KnowledgeBaseError
from skillcompose.facts import with_one_answer
from skillcompose.index import Retriever
from skillcompose.index.writing import sentence
from skillcompose.prompts import prompt
from skillcompose.questions.complementary import complementary_questions
from skillcompose.questions.contextual import contextual_questions
from skillcompose.questions.parametric import parametric_questions
from skillcompose.questions.proof import Gold
from skillcompose.questions.redaction import Redaction
from skillcompose.recipe import Recipe
from skillcompose.stages import Work
from skillcompose.types import Fact, Question, Skill, read_jsonl, write_json, write_jsonl

SPLITS = ("train", "validation", "test")
logger = logging.getLogger(__name__)


def run(work: Work) -> None:
    recipe = work.recipe
    facts = read_jsonl(work.read("facts") / "facts.jsonl", Fact)
    retriever = Retriever.load(work.read("index"), recipe.beside)
    dropped: Counter[str] = Counter()
    # One generator per skill: changing one skill's settings leaves the other skills' questions as they were.
    complementary = complementary_questions(
        facts, recipe, retriever, random.Random(f"complementary {recipe.seed}"), dropped
    )
    reserved = {fact_id for split in complementary.values() for q in split for fact_id in q.fact_ids}
    contextual = contextual_questions(
        facts, reserved, recipe, retriever, random.Random(f"contextual {recipe.seed}"), dropped
    )
    parametric = parametric_questions(with_one_answer(facts), recipe, random.Random(f"parametric {recipe.seed}"))
    gold = Gold(facts, recipe)
    for splits in (parametric, contextual):
        for split in SPLITS:
            splits[split] = gold.keep(splits[split], dropped, supervised=split == "train")
    redaction = Redaction(facts, recipe)
    for splits in (parametric, contextual):
        for split in ("train", "validation"):
            splits[split] = redaction.rows(splits[split], dropped)
    check_disjoint(contextual["train"], [fact for fact in facts if fact.id in reserved], recipe)
    counts = {}
    for skill, splits in zip(Skill, (parametric, contextual, complementary), strict=True):
        for split in SPLITS:
            if not splits[split]:
                raise KnowledgeBaseError(
                    f"no {skill} question for {split}; dropped so far: {dict(dropped) or 'nothing'}. {ADVICE[skill]}"
                )
            counts[f"{skill}.{split}"] = len(splits[split])
            write_jsonl(work.folder / f"{skill}.{split}.jsonl", splits[split])
    asked = [q for splits in (contextual, complementary) for split in ("validation", "test") for q in splits[split]]
    asked += complementary["train"]
    recall = sum(q.retrieved for q in asked) / len(asked)
    if recall < recipe.index.min_recall:
        logger.warning(
            "recall@%d of the supporting passage is %.1f %%, below %.0f %%: what is not retrieved cannot be read. "
            "Raise index.k, or set index.search to hybrid.",
            recipe.index.k,
            100 * recall,
            100 * recipe.index.min_recall,
        )
    paths = Counter(f"{split}: {q.path}" for split in SPLITS for q in complementary[split])
    report = {
        "questions": counts,
        "complementary paths": dict(sorted(paths.items())),
        "dropped": dict(sorted(dropped.items())),
    }
    write_json(work.folder / "questions.report.json", report | {"recall_at_k": round(recall, 4), "k": recipe.index.k})


ADVICE = {
    Skill.PARAMETRIC: "Place a relation in the weights, with three wordings or none.",
    Skill.CONTEXTUAL: "Place relations in the index whose facts no complementary question uses.",
    Skill.COMPLEMENTARY: "An index relation must lead to subjects of a weights relation.",
}


def check_disjoint(rows: list[Question], reserved: list[Fact], recipe: Recipe) -> None:
    """No supervised row states an index fact that a complementary question uses: a bug here fakes every number."""
    stated = {sentence(fact, recipe): fact.id for fact in reserved if fact.skill is Skill.CONTEXTUAL}
    for row in rows:
        text = prompt(row.text, row.passages) + row.completion
        for words, fact_id in stated.items():
            told = words in text and re.search(rf"(?<!\w){re.escape(words)}", text)
            if told or fact_id in row.fact_ids:
                raise AssertionError(f"{row.id} shows reserved fact {fact_id}")
