"""Rows as token sequences in which a shared prompt prefix (the passages) stands once.

Four questions about the same passages cost as much as two rows, and nothing changes: each row attends to the prefix
and to itself only, at the positions that it would have alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from skillcompose.prompts import prompt
from skillcompose.types import Question

IGNORED = -100
KEPT = -200
PADDING = -1
TOGETHER = 8


@dataclass(frozen=True)
class Row:
    prompt: str
    completion: str
    reads: bool
    """Whether the prompt begins with passages."""
    ends: bool = True
    """Whether the completion is whole: a cut one teaches no end."""
    kept: bool = False
    """Whether each token, the prompt's too, is to stay as likely as the base has it, instead of being taught."""


Group = list[Row]
"""Rows of one sequence. Those that read share their passages; the others stand there to save padding."""

Packed = dict[str, list[int]]
"""A sequence to train on: `input_ids`, `labels`, `position_ids` and `branches`, all of one length."""


def group(questions: Iterable[Question]) -> Group:
    return [_row(question) for question in questions]


def _row(question: Question) -> Row:
    """Of a named fact, the sentence that names its subject is given and not taught: taught, "the package that X needs"
    became X itself."""
    asked, said = prompt(question.text, question.passages), question.completion
    if question.named:
        given, said = said.split("\n", 1)
        asked += f"{given}\n"
    return Row(asked, said, bool(question.passages))


def by_passages(questions: Iterable[Question]) -> list[Group]:
    """Questions about the same passages together, at most `TOGETHER`, one closed book alone, in the order in which they
    first occur.

    With all sixty that some passages had, attention over one sequence took more than 24 GiB.
    """
    found: dict[Any, list[Question]] = {}
    for number, question in enumerate(questions):
        found.setdefault(question.passages or number, []).append(question)
    return [group(some[at : at + TOGETHER]) for some in found.values() for at in range(0, len(some), TOGETHER)]


def packed(rows: Group, tokenizer: PreTrainedTokenizerBase) -> Packed:
    """One sequence: the prefix that reading rows share (branch 0), then what each row adds to it.

    `labels` are completions with their end token, -200 for what is kept, -100 elsewhere; `branches` are positive for
    rows that see the prefix, negative for those that do not.
    """
    prompts = [tokenizer(row.prompt, add_special_tokens=False).input_ids for row in rows]
    # A row's last prompt token predicts its completion, so it stays in the row's own branch.
    columns = zip(*(ids[:-1] for ids, row in zip(prompts, rows, strict=True) if row.reads), strict=False)
    prefix = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
    ids, labels, positions, branches = prefix[:], [IGNORED] * len(prefix), [*range(len(prefix))], [0] * len(prefix)
    for number, (head, row) in enumerate(zip(prompts, rows, strict=True), 2):
        shared = len(prefix) if row.reads else 0
        answer = [*tokenizer(row.completion, add_special_tokens=False).input_ids, *[tokenizer.eos_token_id] * row.ends]
        own = head[shared:] + answer
        ids += own
        labels += [IGNORED, *[KEPT] * (len(own) - 1)] if row.kept else [IGNORED] * (len(head) - shared) + answer
        positions += range(shared, len(head) + len(answer))
        branches += [number if row.reads else -number] * len(own)
    return {"input_ids": ids, "labels": labels, "position_ids": positions, "branches": branches}


def collate(sequences: list[Packed]) -> dict[str, torch.Tensor]:
    """Right-padded (B, T) tensors, and the mask (B, 1, T, T): a row sees itself and, if it reads, the prefix.

    The model must take a custom 4D mask, as `sdpa` attention does.
    """
    width = max(len(found["input_ids"]) for found in sequences)

    def padded(name: str, value: int) -> torch.Tensor:
        return torch.tensor([[*found[name], *[value] * (width - len(found[name]))] for found in sequences])

    branches = padded("branches", PADDING)
    # Padding sees padding: a row of the mask without any True would become NaN.
    seen = branches[:, :, None] == branches[:, None, :]
    seen |= (branches > 0)[:, :, None] & (branches == 0)[:, None, :]
    return {
        "input_ids": padded("input_ids", 0),
        "labels": padded("labels", IGNORED),
        "position_ids": padded("position_ids", 0),
        "attention_mask": (seen & torch.ones(width, width, dtype=torch.bool).tril())[:, None],
    }
