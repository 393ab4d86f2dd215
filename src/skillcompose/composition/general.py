"""What the base model says when nobody asks about the knowledge base: rows that keep it from being forgotten.

Given the opening of a user's turn, an instruct model writes a question of its own, and then answers it (Magpie,
arXiv 2406.08464). So the rows need no data beside the model, and are in the languages and subjects that it knows.
"""

import json
import logging
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skillcompose.generation import Sampling, generate
from skillcompose.memory import release_memory
from skillcompose.models import load_base
from skillcompose.packing import Row
from skillcompose.progress import Progress
from skillcompose.types import write_jsonl

ASKED_TOKENS, ANSWER_TOKENS = 48, 48
TOGETHER = 64  # conversations sampled in one batch
MARK = "\N{OBJECT REPLACEMENT CHARACTER}"
logger = logging.getLogger(__name__)


def general_rows(
    base: str, tokenizer: PreTrainedTokenizerBase, count: int, seed: int, file: Path, progress: Progress
) -> list[Row]:
    """About `count` conversations of the base with itself, from `file` where they are there already.

    A model without a chat template has no turns to open; then there are none.
    """
    if count and not tokenizer.chat_template:
        logger.warning("%s has no chat template, so nothing keeps what it could do besides", base)
        return []
    if count and not file.is_file():
        model = load_base(base)
        torch.manual_seed(seed)
        batches = range(0, count, TOGETHER)
        rows = [
            row
            for _ in progress.each(batches, "conversations of the base", len(batches))
            for row in _conversations(model, tokenizer)
        ]
        write_jsonl(file, map(asdict, rows[:count]))
        del model
        release_memory()
    return [Row(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()] if count else []


def _conversations(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    """Questions in the chat template, each with the greedy answer; one that is cut has no end."""
    turns = [{"role": "user", "content": MARK}]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    opening, _, closing = text.partition(MARK)

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    def ended(row: list[int]) -> bool:
        return row[-1] == tokenizer.eos_token_id

    asked = generate(model, tokenizer, [ids(opening)], TOGETHER, Sampling(ASKED_TOKENS, 1.0))
    texts = {tokenizer.decode(row, skip_special_tokens=True).strip() for row in asked if ended(row)} - {""}
    prompts = [opening + text + closing for text in sorted(texts)]
    if not prompts:
        return []
    answers = generate(model, tokenizer, [ids(prompt) for prompt in prompts], 1, Sampling(ANSWER_TOKENS))
    rows = zip(prompts, answers, strict=True)
    return [Row(p, tokenizer.decode(row, skip_special_tokens=True), reads=False, ends=ended(row)) for p, row in rows]
