"""The mastery gate: exact match on held-out wordings, by skill and number of hops."""

import logging
import random
from collections.abc import Iterator
from typing import Any

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from skillcompose.errors import MasteryError
from skillcompose.generation import completions
from skillcompose.metrics import exact_match
from skillcompose.models import using
from skillcompose.prompts import prompt
from skillcompose.sections import Mastery
from skillcompose.stages import Work
from skillcompose.types import Question, Skill

logger = logging.getLogger(__name__)
REMEDY = {
    "adapters": {
        Skill.PARAMETRIC: "more epochs or a larger rank in adapters.parametric, more wordings in facts.relations",
        Skill.CONTEXTUAL: "more questions.contextual_rows or epochs in adapters.contextual, a better recall in index",
    },
    "composition": {
        Skill.PARAMETRIC: "more composition.consolidation.rows",
        Skill.CONTEXTUAL: "more composition.consolidation.rows, or a smaller first number in composition.weights",
    },
}


def sample(questions: list[Question], count: int, seed: int) -> list[Question]:
    """At most `count` questions, the same ones for the same seed."""
    chosen = sorted(questions, key=lambda q: q.id)
    return chosen if len(chosen) <= count else random.Random(f"sample {seed}").sample(chosen, count)


def measure(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: list[Question],
    adapter: str,
    count: int,
    work: Work,
) -> list[dict[str, Any]]:
    """Exact match by number of hops, greedy, where the passage was retrieved; of `count` questions at most:
    `[{"hops", "correct", "asked", "of"}]`."""
    results = []
    for hops in (1, 2):
        asked = sample([q for q in questions if q.hops == hops and q.retrieved], count, work.recipe.seed)
        prompts = [prompt(q.text, q.passages) for q in asked]
        with using(model, adapter):
            what = f"mastery of {questions[0].skill}, {hops} hop{'s' * (hops > 1)}"
            said = completions(model, tokenizer, prompts, work.recipe.max_new_tokens, work.progress, what)
        correct = sum(exact_match(one.text, q.answers) for one, q in zip(said, asked, strict=True))
        results.append({"hops": hops, "correct": correct, "asked": len(asked), "of": count})
    return results


def below(results: dict[str, Any], gate: Mastery) -> Iterator[tuple[Skill, dict[str, Any], float]]:
    """What is below its threshold, and that, by more than a standard error: some dozens of questions cannot tell 45 %
    from 50."""
    for skill in (Skill.PARAMETRIC, Skill.CONTEXTUAL):
        for row, least in zip(results.get(skill, []), getattr(gate, skill), strict=False):
            asked = row["asked"]
            if asked and row["correct"] / asked < least - (least * (1 - least) / asked) ** 0.5:
                yield skill, row, least


def check_mastery(results: dict[str, Any], gate: Mastery, stage: str, allow: bool) -> None:
    """Raise on every skill and number of hops that is below its threshold, unless allowed."""
    failures = []
    for skill, row, least in below(results, gate):
        share, count = row["correct"] / row["asked"], f"{row['correct']} of {row['asked']}"
        failures.append(
            f"{skill}, {row['hops']} hop{'s' * (row['hops'] > 1)}: {share:.0%} exact match ({count}), "
            f"{100 * (least - share):.0f} points below the gate of {least:.0%}. Try {REMEDY[stage][skill]}."
        )
    if failures and allow:
        logger.warning("below the mastery gate, going on as asked:\n%s", "\n".join(failures))
    elif failures:
        raise MasteryError("\n".join([*failures, "--allow-unmastered goes on regardless; the report will say so."]))
