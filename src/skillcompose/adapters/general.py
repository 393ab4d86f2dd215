"""What the base model says when nobody asks about the knowledge base: conversations that training should not change.

Given the opening of a user's turn, an instruct model writes a question of its own, and then answers it (Magpie,
arXiv 2406.08464). So they need no data beside the model. Adapters are penalised for their drift on them (`drift`);
among the rows of consolidation and replay they are `kept`: their loss is what is changed of the base. Left alone it
mostly asks for advice; what people ask for in a few words begins with one of `STARTS`.
"""

import logging
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skillcompose.generation import Sampling, generate
from skillcompose.memory import release_memory
from skillcompose.models import in_template, load_base
from skillcompose.packing import Row
from skillcompose.progress import Progress
from skillcompose.types import read_jsonl, write_jsonl

ASKED_TOKENS, ANSWER_TOKENS = 40, 24  # an answer's beginning has most of what can be forgotten
STARTS = ("", "What is", "Who", "Which", "Where", "When", "How many", "Name")
EACH = 8  # conversations with each start, sampled in one batch
MARK = "\N{OBJECT REPLACEMENT CHARACTER}"
logger = logging.getLogger(__name__)


def write_general(
    base: str, tokenizer: PreTrainedTokenizerBase, count: int, seed: int, file: Path, progress: Progress
) -> None:
    """Sample `count` conversations of the base with itself; those in which the question was cut are left out.

    A model without a chat template has no turns to open; then there are none.
    """
    rows: list[Row] = []
    if count and not tokenizer.chat_template:
        logger.warning("%s has no chat template, so nothing keeps what it could do besides", base)
    elif count:
        model = load_base(base)
        torch.manual_seed(seed)
        batches = range(0, count, EACH * len(STARTS))
        for _ in progress.each(batches, "conversations of the base", len(batches)):
            rows += _conversations(model, tokenizer)
        if not rows:
            logger.warning("%s ended none of its conversations, so nothing keeps what it could do besides", base)
        del model
        release_memory()
    write_jsonl(file, rows[:count])


def read_general(file: Path) -> list[Row]:
    return read_jsonl(file, Row)


def _conversations(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    """Questions in the chat template, each with the greedy answer; one that is cut has no end."""
    opening, _, closing = in_template(tokenizer, [{"role": "user", "content": MARK}]).partition(MARK)

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    own = model.generation_config.eos_token_id  # some models end a turn with another token than a text
    ends = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}

    def said(row: list[int]) -> list[int]:
        return row[: next((place for place, token in enumerate(row, 1) if token in ends), len(row))]

    def ended(row: list[int]) -> bool:
        return row[-1] in ends

    begun = [ids(opening + start) for start in STARTS]
    asked = map(said, generate(model, tokenizer, begun, EACH, Sampling(ASKED_TOKENS, 1.0)))
    starts = [start for start in STARTS for _ in range(EACH)]
    whole = [(start, row) for start, row in zip(starts, asked, strict=True) if ended(row)]
    texts = {(start + tokenizer.decode(row, skip_special_tokens=True)).strip() for start, row in whole} - {""}
    prompts = [opening + text + closing for text in sorted(texts)]
    if not prompts:
        return []
    answers = map(said, generate(model, tokenizer, [ids(prompt) for prompt in prompts], 1, Sampling(ANSWER_TOKENS)))
    rows = zip(prompts, answers, strict=True)
    return [Row(p, tokenizer.decode(row, skip_special_tokens=True), False, ended(row), kept=True) for p, row in rows]
