"""The LM head where it is needed: it is a third of a small model, and most positions have no use for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from skillcompose.kernels import LAYOUTS

ROWS = 32  # scores of so many tokens over the vocabulary stay in a processor's cache


@contextmanager
def head_at(model: torch.nn.Module, where: Any) -> Iterator[None]:
    """The LM head sees only the hidden states (N, H) that `where` indexes, so `model(...).logits` is (N, V).

    A hook, so that the call still goes through whatever wraps the model.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    hook = head.register_forward_pre_hook(lambda module, inputs: (inputs[0][where],))
    try:
        yield
    finally:
        hook.remove()


def token_log_probs(
    wrapped: torch.nn.Module,
    model: Any,
    batch: dict[str, torch.Tensor],
    where: Any,
    tokens: torch.Tensor,
    temperature: float = 1.0,
    whole: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Run the model once.

    Returns:
        Log-probabilities (N,) of `tokens` after the N positions that `where` indexes; the entropies (N,) there, without
        a gradient; and, with `whole`, the log-probabilities of the whole vocabulary (M, V) after its positions, else
        nothing. `whole` is a boolean mask, and with it `where` has to be one. `wrapped` is what is called (DDP, say),
        `model` the same model without what wraps it.
    """
    head = model.get_output_embeddings()
    # Others scale or cap the logits after the head, or train it.
    plain = type(head) is torch.nn.Linear and head.bias is None and not head.weight.requires_grad
    if plain and model.config.model_type in LAYOUTS:
        log_probs: Any = _LogProbs.apply
        vocabulary = torch.empty(0)

        def forward(hidden: torch.Tensor) -> torch.Tensor:
            nonlocal vocabulary
            if whole is not None:
                logits = torch.nn.functional.linear(hidden[whole], head.weight)
                vocabulary = _scaled(logits, temperature).log_softmax(-1)
            found: torch.Tensor = log_probs(hidden[where], head.weight, tokens, temperature)
            return found

        head.forward = forward
        try:
            both = wrapped(**batch, use_cache=False).logits
        finally:
            del head.forward
        return both[0], both[1].detach(), vocabulary
    either = where if whole is None else where | whole
    with head_at(model, either):
        logs = _scaled(wrapped(**batch, use_cache=False).logits, temperature).log_softmax(-1)
    logs, vocabulary = (logs, logs[:0]) if whole is None else (logs[where[either]], logs[whole[either]])
    with torch.no_grad():
        entropies = -(logs.exp() * logs).sum(-1)
    return logs.gather(-1, tokens[:, None])[:, 0], entropies, vocabulary


class _LogProbs(torch.autograd.Function):
    """Log-probabilities and entropies, (2, N), of hidden states (N, H); a few rows of the vocabulary at a time."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, tokens: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        logits = torch.nn.functional.linear(hidden, weight)
        found = torch.empty(2, len(tokens), device=hidden.device)
        for i in range(0, len(tokens), ROWS):
            logs = _scaled(logits[i : i + ROWS], temperature).log_softmax(-1)
            found[0, i : i + ROWS] = logs.gather(-1, tokens[i : i + ROWS, None])[:, 0]
            # Not a dot product: over a vocabulary that loses two more digits than a sum does.
            found[1, i : i + ROWS] = -logs.exp().mul_(logs).sum(-1)
        ctx.save_for_backward(logits, weight, tokens)
        ctx.temperature = temperature
        return found

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        logits, weight, tokens = ctx.saved_tensors
        scale = grads[0][0] / ctx.temperature
        spread = torch.empty_like(logits)
        for i in range(0, len(tokens), ROWS):
            part = _scaled(logits[i : i + ROWS], ctx.temperature).softmax(-1).mul_(-scale[i : i + ROWS, None])
            part.scatter_add_(-1, tokens[i : i + ROWS, None], scale[i : i + ROWS, None])
            spread[i : i + ROWS] = part
        return spread @ weight, None, None, None


def _scaled(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return logits.float() if temperature == 1 else logits.float() / temperature
