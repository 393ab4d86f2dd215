"""LoRA that leaves alone what the base is used for, so that new skills cost none of the old ones.

An adapter adds B A x to what a layer makes of x. If no row of A has a part in the directions in which the x of the
base's own conversations lie, it adds next to nothing to them, whatever it learns. So A is projected after every step of
the optimiser, as gradients are in arXiv 2103.09762 (GPM) and edits in arXiv 2410.02355 (AlphaEdit); what comes out is a
plain LoRA.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

SHARE = 0.5  # of a layer's input directions: 95 to 99 % of what conversations put there, and what is left holds facts
AT_ONCE = 1 << 30  # bytes


class NullSpace(TrainerCallback):
    """Keeps the adapter `default` out of the conversations; must come before callbacks that read its weights."""

    def __init__(self, model: PeftModel, tokenizer: PreTrainedTokenizerBase, conversations: Sequence[str]) -> None:
        self.used = used_directions(model, tokenizer, conversations)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._project(kwargs["model"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._project(kwargs["model"])

    @torch.no_grad()
    def _project(self, model: PeftModel) -> None:
        for name, layer in _adapted(model).items():
            a, used = layer.lora_A["default"].weight, self.used[name]
            a.addmm_(a @ used, used.T, alpha=-1)


@torch.no_grad()
def used_directions(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, conversations: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Layer with LoRA -> orthonormal directions (d, SHARE * d) in which its inputs are largest while the base talks."""
    found: dict[str, torch.Tensor] = {}
    for layers in _at_once(_adapted(model)):
        sums, first = _products(model, tokenizer, conversations, layers)
        own = {name: _largest(sums.pop(name)) for name in list(sums)}
        found |= {name: own[leader] for name, leader in first.items()}
    return found


def _at_once(layers: dict[str, LoraLayer]) -> Iterator[dict[str, LoraLayer]]:
    """Groups of layers whose inputs' products fit into memory together."""
    group: dict[str, LoraLayer] = {}
    size = 0
    for name, layer in layers.items():
        own = 4 * layer.in_features**2
        if group and size + own > AT_ONCE:
            yield group
            group, size = {}, 0
        group[name] = layer
        size += own
    yield group


def _products(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, conversations: Sequence[str], layers: dict[str, LoraLayer]
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """X'X (d, d) of the inputs X that layers are given, and layer -> the first of those that are given the same."""
    sums: dict[str, torch.Tensor] = {}
    first: dict[str, str] = {}
    last: tuple[Any, str] = (None, "")

    def see(name: str, layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal last
        if inputs[0] is not last[0]:
            last = inputs[0], name
            rows = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
            sums[name] = sums[name].addmm_(rows.T, rows) if name in sums else rows.T @ rows
        first[name] = last[1]

    hooks = [layer.register_forward_pre_hook(partial(see, name)) for name, layer in layers.items()]
    try:
        with model.disable_adapter():
            for text in conversations:
                ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
                model.get_base_model().base_model(input_ids=ids.to(model.device), use_cache=False)  # without the head
    finally:
        for hook in hooks:
            hook.remove()
    return sums, first


def _largest(products: torch.Tensor) -> torch.Tensor:
    return torch.linalg.eigh(products).eigenvectors[:, -int(SHARE * len(products)) :].contiguous()


def _adapted(model: PeftModel) -> dict[str, Any]:
    modules = model.named_modules()
    return {name: layer for name, layer in modules if isinstance(layer, LoraLayer) and "default" in layer.lora_A}
