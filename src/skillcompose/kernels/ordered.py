"""Frozen weights in the order in which a processor multiplies them.

torch orders a weight of bf16 anew for every product, with a few rows a good part of the time; in fp32 its BLAS reads a
weight for a few rows at a third of the speed of memory. The products are the same.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

MANY = 256  # rows of fp32, for which the BLAS is a tenth faster


@contextmanager
def ordered(model: torch.nn.Module) -> Iterator[None]:
    """Meanwhile the weights must not change, and nothing has a gradient."""
    layers = order(model)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def order(model: torch.nn.Module) -> list[torch.nn.Linear]:
    """Let linear layers multiply with ordered copies of their weights; returns them, none where torch cannot."""
    # What torch's own compiler calls; other builds of torch have no oneDNN.
    names = ("_is_mkldnn_bf16_supported", "_reorder_linear_weight", "_linear_pointwise")
    there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not there or not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return []
    dtypes = [torch.float32, *[torch.bfloat16] * torch.ops.mkldnn._is_mkldnn_bf16_supported()]
    layers = [
        layer
        for name, layer in model.named_modules()
        if type(layer) is torch.nn.Linear and layer.weight.dtype in dtypes and layer.weight.device.type == "cpu"
        if ".lora_" not in name  # merged meanwhile, or too small
    ]
    for layer in layers:
        layer.forward = _product(layer)  # type: ignore[assignment, method-assign]
    return layers


def _product(layer: torch.nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)
    bias, dtype = layer.bias, layer.weight.dtype

    def forward(x: torch.Tensor) -> torch.Tensor:
        if dtype == torch.float32 and x.numel() > MANY * x.shape[-1]:
            return torch.nn.functional.linear(x, layer.weight, bias)
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x.to(dtype), weight, bias, "none", [], "")
        return out

    return forward
