"""Sampling and greedy decoding that prefill each prompt once and drop rows that have finished.

`transformers.generate` prefills every copy of a prompt and computes finished rows to the end; with passages in the
prompt that is most of the work. Here a group shares its prompt's keys and values, which is exact.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skillcompose.kernels.cache import GrowingCache
from skillcompose.prefill import prefill, together
from skillcompose.progress import Progress

BATCH_TOKENS = 24_000  # prompts and answers of one batch, padding included


@dataclass(frozen=True)
class Sampling:
    """`temperature` 0 is greedy; `line`: the first line is all that is wanted."""

    max_new_tokens: int
    temperature: float = 0.0
    line: bool = False


class Written(NamedTuple):
    """A completion without outer blanks, and the probability of each of its lines."""

    text: str
    lines: Sequence[float]

    @property
    def confidence(self) -> float:
        """The probability of the whole."""
        return math.prod(self.lines)


class Tokens(list[int]):
    """A completion as it grows, the end token included; greedy ones know how likely each token is."""

    def __init__(self, line: bool = False) -> None:
        self.log_probs: list[float] = []
        self.line = line
        """Its first line is all that is wanted."""

    def ended(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        return self[-1] == tokenizer.eos_token_id or (self.line and self.broken(tokenizer))

    def broken(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether its first line has an end."""
        return "\n" in tokenizer.decode(self, skip_special_tokens=True).lstrip()


def written(tokenizer: PreTrainedTokenizerBase, ids: Tokens) -> Written:
    """A whole completion, from its tokens; of a line that is not whole nothing."""
    if ids.line and not ids.broken(tokenizer):
        return Written("", [1.0])
    text = tokenizer.decode(ids, skip_special_tokens=True)
    line = -text[: len(text) - len(text.lstrip())].count("\n")  # blank lines count to the one beside them
    text = text.strip()
    lines = [0.0] * (text.count("\n") + 1)
    for value, log_prob in zip(ids, ids.log_probs, strict=True):
        lines[min(max(line, 0), len(lines) - 1)] += log_prob
        line += tokenizer.decode([value]).count("\n")
    return Written(text, [math.exp(log_prob) for log_prob in lines])


def completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    progress: Progress | None = None,
    what: str = "answering",
    line: bool = False,
) -> list[Written]:
    """One greedy completion per prompt, in the order of the prompts; or its first line, where it has more."""
    encoded = [tokenizer(text, add_special_tokens=False).input_ids for text in prompts]
    found = [Written("", [])] * len(prompts)
    batches: list[list[int]] = []
    for i in together(encoded):
        batch = [*batches[-1], i] if batches else []
        if not batch or len(batch) * (max(len(encoded[j]) for j in batch) + max_new_tokens) > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(i)
    for batch in progress.each(batches, what, len(batches)) if progress else batches:
        rows = generate(model, tokenizer, [encoded[i] for i in batch], 1, Sampling(max_new_tokens, line=line))
        for i, ids in zip(batch, rows, strict=True):
            found[i] = written(tokenizer, ids)
    return found


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    num_generations: int,
    sampling: Sampling,
) -> list[Tokens]:
    """Complete tokenised prompts, `num_generations` times each, group by group.

    Sampled tokens come from torch's global generator, so a trainer's checkpoint reproduces them.

    Returns:
        `len(prompts) * num_generations` completions.
    """
    rows: list[Tokens] = []
    was_training = model.training
    model.eval()
    try:
        for rows in steps(model, tokenizer, prompts, num_generations, sampling):  # noqa: B007
            pass
    finally:
        model.train(was_training)
    return rows


@torch.inference_mode()
def steps(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    num_generations: int,
    sampling: Sampling,
) -> Iterator[list[Tokens]]:
    """As `generate`, with the rows after every token: always the same lists, which grow.

    The model must be in evaluation mode.
    """
    place = next(model.parameters()).device
    end = tokenizer.eos_token_id
    cache, logits, mask = prefill(model, end, prompts)
    group = cache.repeat(num_generations)
    logits = logits.repeat_interleave(num_generations, 0)
    mask = mask.repeat_interleave(num_generations, 0)
    position = mask.sum(-1)
    rows = [Tokens(sampling.line) for _ in range(len(logits))]
    alive = list(range(len(rows)))
    finished = [False] * len(rows)
    for step in range(sampling.max_new_tokens):
        token = choose(logits, sampling.temperature)[:, 0]
        likely = token_log_probs(logits, token) if sampling.temperature == 0 else [0.0] * len(token)
        for i, (row, value, log_prob) in enumerate(zip(alive, token.tolist(), likely, strict=True)):
            if not finished[i]:
                rows[row].append(value)
                rows[row].log_probs.append(log_prob)
                finished[i] = rows[row].ended(tokenizer)
        yield rows
        if all(finished) or step + 1 == sampling.max_new_tokens:
            break
        # Prompts keep equally many rows: a finished one fills the place of one that another prompt still needs.
        parts = [sorted(range(i, i + group), key=finished.__getitem__) for i in range(0, len(alive), group)]
        needed = [number for number, part in enumerate(parts) if not finished[part[0]]]
        most = max(sum(not finished[i] for i in part) for part in parts)
        # Selecting copies the cache, so wait until an eighth of the rows can go.
        if len(needed) * most <= len(alive) * 7 // 8:
            kept = [i for number in needed for i in parts[number][:most]]
            keep, group = torch.tensor(kept, device=place), most
            cache.keep(torch.tensor(needed, device=place), keep)
            alive, finished = [alive[i] for i in kept], [finished[i] for i in kept]
            token, mask, position = token[keep], mask[keep], position[keep]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        logits = next_logits(model, cache, token, mask, position)
        position = position + 1


@torch.inference_mode()
def sample_counts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    samples: int,
    sampling: Sampling,
    wanted: Callable[[int, list[int]], bool],
) -> list[list[tuple[list[int], int]]]:
    """For each prompt, the completions among so many samples that were `wanted(prompt, ids)` at every token.

    Samples that are equal so far are one row with a count, and draw their next tokens from the same logits: the counts
    have the distribution of samples drawn one by one, for a fraction of the work where they agree.

    Returns:
        `(ids, count)` of each distinct completion, the end token included where it was reached.
    """
    place, end = next(model.parameters()).device, tokenizer.eos_token_id
    found: list[list[tuple[list[int], int]]] = [[] for _ in prompts]
    cache, logits, mask = prefill(model, end, prompts)
    rows: list[tuple[int, list[int], int]] = [(number, [], samples) for number in range(len(prompts))]
    for step in range(sampling.max_new_tokens):
        new: list[tuple[int, list[int], int]] = []
        parents: list[int] = []
        for parent, (number, ids, count) in enumerate(rows):
            drawn = Counter(choose(logits[parent : parent + 1], sampling.temperature, count)[0].tolist())
            for token, times in sorted(drawn.items()):
                row = (number, [*ids, token], times)
                if not wanted(number, row[1]):
                    continue
                if token == end or step + 1 == sampling.max_new_tokens:
                    found[number].append(row[1:])
                else:
                    new.append(row)
                    parents.append(parent)
        if not new:
            break
        if parents != list(range(len(rows))):
            kept = torch.tensor(parents, device=place)
            cache.batch_select_indices(kept)
            mask = mask[kept]
        rows = new
        token = torch.tensor([ids[-1] for _, ids, _ in rows], device=place)
        position = mask.sum(-1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        logits = next_logits(model, cache, token, mask, position)
    return found


def next_logits(
    model: PreTrainedModel, cache: GrowingCache, token: torch.Tensor, mask: torch.Tensor, position: torch.Tensor
) -> torch.Tensor:
    """The logits (B, V) behind one more token (B,); `mask` (B, T) counts it already."""
    logits: torch.Tensor = model(
        input_ids=token[:, None],
        attention_mask=mask[:, None, None].bool() if cache.shares else mask,
        position_ids=position[:, None],
        past_key_values=cache,
        use_cache=True,
    ).logits[:, -1]
    return logits


def choose(logits: torch.Tensor, temperature: float = 0.0, draws: int = 1) -> torch.Tensor:
    """Tokens (B, draws) from logits (B, V). Not `multinomial`: it draws a number for every token of the vocabulary."""
    logits = logits.float()  # the largest of bf16 is found five times as slowly
    if temperature == 0:
        return logits.argmax(-1, keepdim=True).expand(-1, draws)
    upto = torch.softmax(logits if temperature == 1 else logits / temperature, -1).cumsum_(-1)
    # In (0, total], so that a token of probability zero is never found.
    drawn = (1 - torch.rand(len(upto), draws, device=upto.device)) * upto[:, -1:]
    return torch.searchsorted(upto, drawn)


def token_log_probs(logits: torch.Tensor, token: torch.Tensor) -> list[float]:
    """Of tokens (B,) in logits (B, V), at temperature 1."""
    logits = logits.float()
    found: list[float] = (logits.gather(-1, token[:, None])[:, 0] - logits.logsumexp(-1)).tolist()
    return found
