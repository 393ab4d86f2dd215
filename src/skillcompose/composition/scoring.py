"""Log-probabilities of completions with each prompt computed once, and a self-test against plain forwards."""

from copy import deepcopy
from itertools import groupby
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from skillcompose.kernels.head import token_log_probs
from skillcompose.models import with_kernels
from skillcompose.packing import IGNORED, Packed, collate

LAYERS, TOKENS, PROMPT, ANSWER = 2, 128, 7, 5
TOLERANCE = 1e-3  # relative, in fp32


def score(
    wrapped: Any, model: Any, temperature: float, ids: torch.Tensor, mask: torch.Tensor, keep: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropies of the last `keep` tokens of each row, (B, keep), zero where the mask is false.

    Prompts are left-padded, completions right-padded. Each distinct prompt is computed once, and so is each distinct
    completion of it; padding is not computed. Entropies carry no gradient. `wrapped` is what to call for `model`.
    """
    distinct, back = torch.unique(torch.cat([ids, mask], 1), dim=0, return_inverse=True)
    tokens, seen = distinct[:, : ids.shape[1]], distinct[:, ids.shape[1] :].bool()
    prompts = [row[m].tolist() for row, m in zip(tokens[:, :-keep], seen[:, :-keep], strict=True)]
    completions = [row[m].tolist() for row, m in zip(tokens[:, -keep:], seen[:, -keep:], strict=True)]
    sequences: list[Packed] = []
    where: list[tuple[int, int]] = []
    for prompt, group in groupby(range(len(prompts)), key=prompts.__getitem__):
        sequence = {"input_ids": prompt[:], "position_ids": [*range(len(prompt))], "branches": [0] * len(prompt)}
        for branch, row in enumerate(group, 1):
            # The prompt's last token predicts the first one of every completion, whose last one predicts nothing.
            completion = completions[row]
            size, inputs = len(sequence["input_ids"]), completion[:-1]
            positions = [len(prompt) - 1, *range(size, size + len(inputs))]
            where += [(len(sequences), position) for position in positions[: len(completion)]]
            sequence["input_ids"] += inputs
            sequence["position_ids"] += range(len(prompt), len(prompt) + len(inputs))
            sequence["branches"] += [branch] * len(inputs)
        sequences.append(sequence | {"labels": [IGNORED] * len(sequence["input_ids"])})
    batch = {n: t.to(ids.device) for n, t in collate(sequences).items() if n != "labels"}
    # With a shape and a type of their own: there may be none, where all are cut and masked.
    index = tuple(torch.tensor(where, dtype=torch.long, device=ids.device).view(-1, 2).T)
    wanted = torch.tensor([token for row in completions for token in row], dtype=torch.long, device=ids.device)
    kept = seen[:, -keep:]
    empty = torch.zeros(kept.shape, device=ids.device)
    logps, entropies = (
        empty.masked_scatter(kept, found)[back]
        for found in token_log_probs(wrapped, model, batch, index, wanted, temperature)[:2]
    )
    return logps, entropies


def agrees(base: PreTrainedModel) -> bool:
    """Whether log-probabilities and gradients are those of transformers' own forward, on two narrow random layers of
    the base's kind: they stand on how it hands on masks and positions, and on kernels of this processor."""
    with torch.random.fork_rng(devices=[base.device] if base.device.type == "cuda" else []):
        torch.manual_seed(0)
        config = small(base.config)
        plain: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
        ids = torch.randint(1, TOKENS, (6, PROMPT + ANSWER), device=base.device)
    ids[:, :PROMPT] = ids[::3, :PROMPT].repeat_interleave(3, 0)
    mask = torch.ones_like(ids)
    mask[:3, :2] = 0  # the first prompt is shorter
    mask[1, -2:] = 0  # an answer that ended early
    plain = plain.to(base.device).eval()
    for name, weight in plain.named_parameters():  # norms, embeddings and head are frozen, as when a LoRA is trained
        weight.requires_grad_(weight.dim() == 2 and ".layers." in name)
    ours = with_kernels(deepcopy(plain))
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = plain(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, PROMPT - 1 : -1]
    wanted = logits.log_softmax(-1).gather(-1, ids[:, PROMPT:, None])[..., 0] * mask[:, PROMPT:]
    found, _ = score(ours, ours, 1.0, ids, mask.bool(), ANSWER)
    pairs = [(found, wanted)]
    for scores in (found, wanted):
        (scores * scores.detach()).sum().backward()
    weights = zip(ours.parameters(), plain.parameters(), strict=True)
    pairs += [(a.grad, b.grad) for a, b in weights if b.requires_grad]
    return all(bool((a - b).norm() <= TOLERANCE * b.norm()) for a, b in pairs)


def small(config: PretrainedConfig) -> PretrainedConfig:
    """The same kind of model with two narrow layers."""
    found = deepcopy(config)
    group = config.num_attention_heads // config.num_key_value_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    by_layer = {k: v[:LAYERS] for k, v in vars(config).items() if isinstance(v, list) and len(v) > LAYERS}
    found.update(
        by_layer
        | {
            "num_hidden_layers": LAYERS,
            "num_attention_heads": group,
            "num_key_value_heads": 1,
            "head_dim": width,
            "hidden_size": group * width,
            "intermediate_size": 2 * width,
            "vocab_size": TOKENS,
            "pad_token_id": 0,
            "bos_token_id": 0,
            "eos_token_id": 0,
        }
    )
    return found
