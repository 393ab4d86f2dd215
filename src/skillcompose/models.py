"""A base model, its tokenizer and its adapters, always loaded the same way, and never from a hub by accident."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from skillcompose.errors import ModelError
from skillcompose.kernels import LAYOUTS, attention, elementwise, lora
from skillcompose.kernels.ordered import order, ordered
from skillcompose.libraries import inexact
from skillcompose.machine import device, fast_dtype, use_cores
from skillcompose.types import read_json


def quiet_libraries() -> None:
    """Silence what a user cannot act on; our own bars and messages take its place."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    import datasets

    datasets.disable_progress_bars()
    # PEFT 0.21 still reads the name that transformers 5.23 renamed; harmless.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
    # The built-in model has no torch.jit or pinned memory on a CPU.
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    logging.getLogger("accelerate").setLevel(logging.ERROR)


@contextmanager
def fetching(name: str) -> Iterator[None]:
    """What the hub's client says of a name is an OSError of many lines."""
    try:
        yield
    except OSError as error:
        why = str(error).partition("\n")[0]
        raise ModelError(
            f"{name!r} cannot be loaded: {why} Check the name, or fetch it where there is a network"
        ) from error


def load_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    with fetching(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def in_template(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> str:
    """Messages in the model's own chat format, up to where its answer begins, without room to think first."""
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=False))


def load_base(folder: str, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The base model in `dtype`, or in the fast one; frozen and in evaluation mode.

    Raises:
        ModelError: It cannot be loaded, or has recurrent layers.
    """
    quiet_libraries()
    use_cores()
    with fetching(folder):
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype or fast_dtype(), trust_remote_code=False, use_safetensors=True
        )
    if any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in DynamicCache(config=model.config).layers):
        # Rows that share a sequence would be read as one text.
        raise ModelError(f"{folder}: {model.config.model_type} has recurrent layers; name a model with attention alone")
    # Sampling defaults that the model ships with would otherwise steer generation silently.
    model.generation_config.do_sample = False
    with_kernels(model)
    if model.dtype == torch.bfloat16:
        _compute_in_bf16(model.base_model)
    return model.requires_grad_(False).eval().to(device())


def with_kernels(model: PreTrainedModel) -> PreTrainedModel:
    """The model, with the layers of `kernels` where it has such ones."""
    if device().type == "cpu" and model.config.model_type in LAYOUTS:
        model.set_attn_implementation(attention.NAME)
        elementwise.replace(model)
    return model


def _compute_in_bf16(layers: PreTrainedModel) -> None:
    """LoRA's weights stay in fp32 and are multiplied in bf16 as the base's are, wherever the model is called."""
    inner = layers.forward

    @wraps(inner)
    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device().type, torch.bfloat16):
            return inner(*args, **kwargs)

    layers.forward = forward


def new_adapter(base: PreTrainedModel, settings: dict[str, Any], seed: int) -> PeftModel:
    """A fresh LoRA `default` on a base model, in fp32.

    Raises:
        ModelError: The model has none of the modules or layers that the settings name.
    """
    set_seed(seed)
    config = _ours(LoraConfig(**{"lora_dropout": 0.0} | settings, task_type="CAUSAL_LM"))
    try:
        return get_peft_model(base, config)
    except ValueError as error:
        raise ModelError(f"{base.name_or_path} cannot be given this LoRA: {error}") from error


def _ours(config: LoraConfig) -> LoraConfig:
    """PEFT's way to bring one's own layer for a kind of module; it is not saved with the configuration."""
    config._register_custom_module({torch.nn.Linear: lora.Linear})
    return config


def load_adapter(base: PreTrainedModel, folder: Path, name: str = "default", trainable: bool = False) -> PeftModel:
    """Put one LoRA folder on a base model.

    Raises:
        ModelError: No safetensors in the folder, or the adapter is more than base + scale * B A.
    """
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(f"{folder} has no adapter_model.safetensors; pickled adapters are not loaded")
    if found := inexact(read_json(folder / "adapter_config.json")):
        raise ModelError(f"{folder} uses {', '.join(found)}; only plain LoRA is loaded")
    if isinstance(base, PeftModel):
        base.load_adapter(str(folder), adapter_name=name, is_trainable=trainable)
        return base
    config = _ours(LoraConfig.from_pretrained(str(folder)))
    return PeftModel.from_pretrained(base, str(folder), adapter_name=name, is_trainable=trainable, config=config)


@contextmanager
def using(model: PeftModel, name: str | None) -> Iterator[None]:
    """Answer with one adapter, or with the bare base when None.

    The adapter is merged meanwhile, which saves two small products per linear layer and token. In bf16 each weight is
    rounded, by chance up or down, so what an adapter adds is kept over many weights; answers were as often right. The
    old weights are put back, not recomputed.
    """
    if name is None:
        with model.disable_adapter(), ordered(model):
            yield
        return
    model.set_adapter(name)
    layers = _layers(model, name)
    weights = [layer.get_base_layer().weight for layer in layers]
    old = [weight.data for weight in weights]
    try:
        for layer in layers:
            _merge(layer, name)
            layer.merged_adapters.append(name)
        with ordered(model):
            yield
    finally:
        for layer, weight, value in zip(layers, weights, old, strict=True):
            weight.data = value
            layer.merged_adapters.clear()


def load_merged(folder: str, adapter: Path) -> PreTrainedModel:
    """A base model with one LoRA folder in its weights for good, rounded as `using` does."""
    model = load_adapter(load_base(folder), adapter)
    for layer in _layers(model, "default"):
        _merge(layer, "default")
    merged: PreTrainedModel = model.unload()
    order(merged)
    return merged


def _layers(model: PeftModel, name: str) -> list[LoraLayer]:
    return [layer for layer in model.modules() if isinstance(layer, LoraLayer) and name in layer.lora_A]


def _merge(layer: LoraLayer, name: str) -> None:
    weight = layer.get_base_layer().weight
    a, b = (factor[name].weight.data.to(weight.dtype) for factor in (layer.lora_A, layer.lora_B))
    left, right = (a.T, b.T) if layer.fan_in_fan_out else (b, a)
    # In bf16 as exact as a sum in fp32: both round once.
    weight.data = torch.addmm(weight.data, left, right, alpha=layer.scaling[name])
