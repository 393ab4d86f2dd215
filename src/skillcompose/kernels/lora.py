"""A linear layer with LoRA as one step: base, A and B are multiplied into the same result, forwards and backwards.

PEFT makes a tensor of the layer's width for the product with B, one for its scale and one for the sum, and as many
backwards; with a small model these passes cost as much as the arithmetic.
"""

from typing import Any

import torch
from peft.tuners import lora


class Linear(lora.Linear):
    """PEFT's layer; several adapters at once, dropout, variants and odd base layers are left to PEFT."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        active, base = self.active_adapters, self.base_layer
        name = active[0] if len(active) == 1 else None
        if (
            name not in self.lora_A
            or self.disable_adapters
            or self.merged
            or args
            or kwargs
            or name in self.lora_variant
            or type(base) is not torch.nn.Linear
            or base.weight.requires_grad
            or self.lora_bias[name]
            or not isinstance(self.lora_dropout[name], torch.nn.Identity)
        ):
            out: torch.Tensor = super().forward(x, *args, **kwargs)
            return out
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        out = _Product.apply(x, base.weight, base.bias, a, b, self.scaling[name])  # type: ignore[no-untyped-call]
        return out


class _Product(torch.autograd.Function):
    """x W' + bias + scale (x A') B' in the dtype of a frozen W, with gradients of x, A and B."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        a, b = a.to(weight.dtype), b.to(weight.dtype)
        rows = x.reshape(-1, x.shape[-1]).to(weight.dtype)
        low = (rows @ a.T).mul_(scale)
        out = torch.nn.functional.linear(rows, weight, bias).addmm_(low, b.T)
        ctx.save_for_backward(rows, weight, a, b, low)
        ctx.scale = scale
        return out.view(*x.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight, a, b, low = ctx.saved_tensors
        grad = grads[0].reshape(-1, len(weight))
        low_grad = (grad @ b).mul_(ctx.scale)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (grad @ weight).addmm_(low_grad, a).view(*grads[0].shape[:-1], weight.shape[1])
        return of_x, None, None, low_grad.T @ rows, grad.T @ low, None
