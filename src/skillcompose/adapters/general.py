"""What the base model says when nobody asks about the knowledge base: conversations that training should not change.

Given the opening of a user's turn, an instruct model writes a question of its own, and then answers it (Magpie,
arXiv 2406.08464). So they need no data beside the model; `drift` keeps adapters out of them. Left alone the model
mostly asks for advice; what people ask for in a few words begins with one of `STARTS`.
"""

import json
import logging
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skillcompose.generation import Sampling, generate
from skillcompose.memory import release_memory
from skillcompose.models import in_template, load_base
from skillcompose.progress import Progress
from skillcompose.types import write_jsonl

ASKED_TOKENS, ANSWER_TOKENS = 40, 24
STARTS = ("", "What is", "Who", "Which", "Where", "When", "How many", "Name")
GENERAL = "general.jsonl"
EACH = 8  # conversations with each start, sampled in one batch
MARK = "\N{OBJECT REPLACEMENT CHARACTER}"
logger = logging.getLogger(__name__)


def write_general(
    base: str, tokenizer: PreTrainedTokenizerBase, count: int, seed: int, folder: Path, progress: Progress
) -> None:
    """Sample `count` conversations of the base with itself; those in which the question was cut are left out.

    A model without a chat template has no turns to open; then there are none.
    """
    texts: list[str] = []
    if count and not tokenizer.chat_template:
        logger.warning("%s has no chat template, so nothing keeps what it could do besides", base)
    elif count:
        model = load_base(base)
        torch.manual_seed(seed)
        batches = range(0, count, EACH * len(STARTS))
        for _ in progress.each(batches, "conversations of the base", len(batches)):
            texts += _conversations(model, tokenizer)
        if not texts:
            logger.warning("%s ended none of its conversations, so nothing keeps what it could do besides", base)
        del model
        release_memory()
    write_jsonl(folder / GENERAL, ({"text": text} for text in texts[:count]))


def read_general(folder: Path) -> list[str]:
    """The conversations that stage 5 left in its folder."""
    return [json.loads(line)["text"] for line in (folder / GENERAL).read_text(encoding="utf-8").split("\n") if line]


def _conversations(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Questions in the chat template, each with the beginning of the greedy answer."""
    opening, _, closing = in_template(tokenizer, [{"role": "user", "content": MARK}]).partition(MARK)

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    def ended(row: list[int]) -> bool:
        return row[-1] == tokenizer.eos_token_id

    begun = [ids(opening + start) for start in STARTS]
    asked = generate(model, tokenizer, begun, EACH, Sampling(ASKED_TOKENS, 1.0))
    starts = [start for start in STARTS for _ in range(EACH)]
    whole = [(start, row) for start, row in zip(starts, asked, strict=True) if ended(row)]
    texts = {(start + tokenizer.decode(row, skip_special_tokens=True)).strip() for start, row in whole} - {""}
    prompts = [opening + text + closing for text in sorted(texts)]
    if not prompts:
        return []
    answers = generate(model, tokenizer, [ids(prompt) for prompt in prompts], 1, Sampling(ANSWER_TOKENS))
    return [begun + tokenizer.decode(row) for begun, row in zip(prompts, answers, strict=True)]
