"""The exact sum of LoRA adapters as one adapter: the factors are concatenated, no cross terms, no truncation.

PEFT's `linear` adds the factors (and with them the cross terms A1 B2), its `cat` is silently wrong for rsLoRA and
others (peft#3761). Here the scale of each adapter is split evenly between A and B, the result has scale 1, and
adapters that this is not exact for are refused.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file

from skillcompose.errors import AdapterError
from skillcompose.libraries import inexact
from skillcompose.types import read_json, write_json

PREFIX = "base_model.model."


def merge_adapters(folders: list[Path], weights: list[float], target: Path) -> None:
    """Write the weighted sum of the adapters in `folders` to `target`.

    Ranks, scales and target modules may differ; a module that one adapter lacks gets the others' share.

    Raises:
        AdapterError: An adapter that cannot be summed exactly.
    """
    skills = [_read(folder, weight) for folder, weight in zip(folders, weights, strict=True)]
    modules = sorted({name for _, factors, _ in skills for name in factors})
    merged: dict[str, torch.Tensor] = {}
    ranks: dict[str, int] = {}
    for module in modules:
        found = [_balanced(module, config, factors, weight) for config, factors, weight in skills if module in factors]
        merged[f"{module}.lora_A.weight"] = torch.cat([a for a, _ in found], 0)
        merged[f"{module}.lora_B.weight"] = torch.cat([b for _, b in found], 1)
        ranks[module.removeprefix(PREFIX)] = merged[f"{module}.lora_A.weight"].shape[0]
    largest = max(ranks.values())
    odd = {name: rank for name, rank in ranks.items() if rank != largest}
    config = skills[0][0] | {
        "r": largest,
        "lora_alpha": largest,
        "use_rslora": False,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "inference_mode": False,
        # Every module by its full name: what chose among them before must not choose again.
        "target_modules": sorted(ranks),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "rank_pattern": odd,
        "alpha_pattern": odd,
    }
    target.mkdir(parents=True, exist_ok=True)
    save_file(merged, target / "adapter_model.safetensors", metadata={"format": "pt"})
    write_json(target / "adapter_config.json", config)


def _read(folder: Path, weight: float) -> tuple[dict[str, Any], dict[str, tuple[torch.Tensor, torch.Tensor]], float]:
    try:
        config = read_json(folder / "adapter_config.json")
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, json.JSONDecodeError) as error:
        raise AdapterError(f"{folder} is not a LoRA adapter in safetensors: {error}") from error
    if found := inexact(config):
        raise AdapterError(f"{folder} uses {', '.join(found)}; only plain LoRA can be summed exactly, train it without")
    names = {name.rsplit(".lora_", 1)[0] for name in tensors}
    try:
        factors = {n: (tensors[f"{n}.lora_A.weight"].float(), tensors[f"{n}.lora_B.weight"].float()) for n in names}
    except KeyError as error:
        raise AdapterError(f"{folder} lacks {error}, so it is not plain LoRA") from error
    return config, factors, weight


def _balanced(
    module: str, config: dict[str, Any], factors: dict[str, tuple[torch.Tensor, torch.Tensor]], weight: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B with the scale and the weight in them, in equal parts: RL then moves both at the same speed.

    With weight 0 a fresh pair, which adds nothing and can learn: of two zeros neither ever moves.
    """
    a, b = factors[module]
    if weight == 0:
        draw = torch.Generator().manual_seed(zlib.crc32(module.encode()))
        return torch.randn(a.shape, generator=draw) / a.shape[1] ** 0.5, torch.zeros_like(b)
    patterns = config.get("alpha_pattern") or {}
    alpha = patterns.get(get_pattern_key(patterns, module.removeprefix(PREFIX)), config["lora_alpha"])
    scale = weight * alpha / (a.shape[0] ** 0.5 if config.get("use_rslora") else a.shape[0])
    root = abs(scale) ** 0.5
    return a * (root if scale >= 0 else -root), b * root
