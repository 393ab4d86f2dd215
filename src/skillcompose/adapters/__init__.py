"""Stage 5: one LoRA per atomic skill, each trained alone on the frozen base; then the mastery gate.

`general.jsonl` holds conversations of the base, which the adapters should not change, here and in the next stage.
"""

import random
from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback

from skillcompose.adapters.general import read_general, write_general
from skillcompose.adapters.mastery import check_mastery, measure
from skillcompose.adapters.processes import threads_each, train_at_once
from skillcompose.adapters.sft import train_adapter
from skillcompose.builtin import fingerprint
from skillcompose.models import load_adapter, load_base, load_tokenizer
from skillcompose.packing import Group, by_passages, packed
from skillcompose.run import digest
from skillcompose.stages import Work
from skillcompose.training import check_questions, check_settings
from skillcompose.types import Question, Skill, read_json, read_jsonl, write_json

ATOMIC = (Skill.PARAMETRIC, Skill.CONTEXTUAL)
GENERAL = "general.jsonl"
VERSION = 1  # raise it when `write_general` would sample other rows
__all__ = [
    "ATOMIC",
    "GENERAL",
    "check_mastery",
    "measure",
    "read_general",
    "rows_of",
    "run",
    "tokens_of",
    "train_adapter",
    "train_skill",
]


def run(work: Work) -> None:
    check_settings(work.recipe)
    check_questions(work)
    base = work.recipe.base()
    tokenizer = load_tokenizer(base)
    general, sampled = work.folder / GENERAL, work.folder / "general.json"
    # Kept by their key when the questions change: with other threads others would be sampled, and all trained anew.
    key = digest([VERSION, fingerprint(base), work.recipe.adapters.general, work.recipe.seed])
    if not (general.is_file() and sampled.is_file() and read_json(sampled) == key):
        write_general(base, tokenizer, work.recipe.adapters.general, work.recipe.seed, general, work.progress)
        write_json(sampled, key)
    threads = threads_each(base, ATOMIC)
    if threads:
        train_at_once(work, ATOMIC, threads)
    else:
        for skill in ATOMIC:
            train_skill(work, skill)
    model = load_base(base)
    results: dict[str, Any] = {}
    for skill in ATOMIC:
        model = load_adapter(model, work.folder / skill, skill)
    gate = work.recipe.adapters.mastery
    for skill in ATOMIC:
        questions = read_jsonl(work.read("questions") / f"{skill}.validation.jsonl", Question)
        results[skill] = measure(model, tokenizer, questions, skill, gate.questions, work)
    write_json(work.folder / "mastery.json", results)
    check_mastery(results, gate, "adapters", work.allow_unmastered)


def train_skill(work: Work, skill: Skill, callbacks: Sequence[TrainerCallback] = ()) -> None:
    """One skill's adapter, on its own."""
    settings, general = getattr(work.recipe.adapters, skill), read_general(work.folder / GENERAL)
    train_adapter(
        work, skill, rows_of(work, skill), settings.sft, f"{skill} adapter",
        lora=settings.lora, conversations=general, callbacks=callbacks,
    )  # fmt: skip


def rows_of(work: Work, skill: Skill) -> list[Group]:
    """Without those of one fact behind its subject: in the adapter they teach recall, and cost composition."""
    questions = read_jsonl(work.read("questions") / f"{skill}.train.jsonl", Question)
    groups = by_passages([question for question in questions if not question.named])
    random.Random(f"{skill} {work.recipe.seed}").shuffle(groups)
    return groups


def tokens_of(work: Work, skill: Skill) -> int:
    """That the skill's adapter is trained on, those of all epochs."""
    tokenizer = load_tokenizer(work.recipe.base())
    epochs = int(getattr(work.recipe.adapters, skill).sft.get("num_train_epochs", 1))
    return epochs * sum(len(packed(group, tokenizer)["input_ids"]) for group in rows_of(work, skill))
