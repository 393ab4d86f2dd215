"""What each way to search finds: the test questions whose supporting passage is known, by each ranking and by all."""

import random
import time
from typing import Any

from skillcompose.index import Retriever
from skillcompose.index.writing import sentence
from skillcompose.pipeline import load_recipe
from skillcompose.prompts import normalise
from skillcompose.run import Run
from skillcompose.types import Fact, Question, Skill, read_jsonl

DEPTH = 10
QUESTIONS = 300
"""At most so many: each is searched for by itself, as it is when a policy is asked."""


def measure(run: Run) -> dict[str, Any]:
    """`{"k", "asked", "searches": {name: {"recall_at_1", "recall_at_k", "mrr_at_10", "milliseconds"}}}`.

    A question's supporting passage has the title of its first fact's row and states that fact: of a long section the
    other pieces, which have the title too, are of no help.

    Raises:
        RunError: The questions stage has not finished.
    """
    recipe, folder = load_recipe(run), run.require("questions")
    retriever = Retriever.load(run.require("index"), recipe.beside)
    facts = read_jsonl(run.require("facts") / "facts.jsonl", Fact)
    support = {fact.id: (normalise(fact.key), sentence(fact, recipe)) for fact in facts}
    skills = (Skill.CONTEXTUAL, Skill.COMPLEMENTARY)
    asked = {q.text: support[q.fact_ids[0]] for s in skills for q in read_jsonl(folder / f"{s}.test.jsonl", Question)}
    chosen = random.Random(f"retrieval {recipe.seed}").sample(sorted(asked.items()), min(len(asked), QUESTIONS))
    k = recipe.index.k
    searches = {name: (name,) for name in retriever.rankings} if len(retriever.rankings) > 1 else {}
    found = {name: _search(retriever, chosen, k, by) for name, by in {**searches, recipe.index.search: ()}.items()}
    return {"k": k, "asked": len(chosen), "searches": found}


def _search(
    retriever: Retriever, asked: list[tuple[str, tuple[str, str]]], k: int, by: tuple[str, ...]
) -> dict[str, float]:
    ranks = []
    retriever.search([asked[0][0]], DEPTH, by=by)  # the first search warms caches
    begin = time.monotonic()
    for text, (title, stated) in asked:
        (hits,) = retriever.search([text], max(k, DEPTH), by=by)
        there = (normalise(hit.passage.title) == title and stated in hit.passage.text for hit in hits)
        ranks.append(next((rank for rank, found in enumerate(there, 1) if found), 0))
    milliseconds = 1000 * (time.monotonic() - begin) / len(asked)
    return {
        "recall_at_1": _mean([rank == 1 for rank in ranks]),
        "recall_at_k": _mean([0 < rank <= k for rank in ranks]),
        "mrr_at_10": _mean([1 / rank if 0 < rank <= DEPTH else 0.0 for rank in ranks]),
        "milliseconds": round(milliseconds, 2),
    }


def _mean(values: list[bool] | list[float]) -> float:
    return round(sum(values) / len(values), 4)


def as_text(found: dict[str, Any]) -> str:
    """A table; `words` is BM25, `sparse` the learned one."""
    head = f"recall@{found['k']}"
    lines = [f"{'':8}{'recall@1':>10}{head:>10}{'MRR@10':>10}{'ms':>8}"]
    for name, one in found["searches"].items():
        shares = "".join(f"{one[what]:>10.3f}" for what in ("recall_at_1", "recall_at_k", "mrr_at_10"))
        lines.append(f"{name:8}{shares}{one['milliseconds']:>8.1f}")
    return "\n".join(
        [*lines, f"{found['asked']} test questions, one after another; words: BM25, sparse: learned sparse"]
    )
