"""The settings of TRL and PEFT that a recipe may hold, and what is wrong with them, without importing either.

Their names are read from the installed sources: importing TRL takes six seconds.
"""

import ast
import difflib
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

OWNED = {
    "output_dir": "the run folder decides",
    "seed": "set `seed` at the top of the recipe",
    "data_seed": "set `seed` at the top of the recipe",
    "use_cpu": "chosen from the machine",
    "bf16": "chosen from the machine",
    "fp16": "chosen from the machine",
    "report_to": "a run writes its own metrics",
    "resume_from_checkpoint": "`skillcompose train` resumes by itself",
    "save_strategy": "checkpoints are written by `save_steps`",
    "eval_strategy": "GRPO validates every `composition.validate_steps`",
    "load_best_model_at_end": "validation chooses among the steps",
    "push_to_hub": "a run stays on this machine",
    "save_only_model": "a run goes on from what a checkpoint holds",
    "packing": "rows are short; use per_device_train_batch_size",
    "max_length": "rows are never truncated",
    "train_sampling_strategy": "the order of rows is fixed by the seed",
    "remove_unused_columns": "rows hold what the trainer reads",
    "temperature_eval": "evaluation is greedy",
    "task_type": "always CAUSAL_LM",
    "use_vllm": "completions come from skillcompose's own decoding",
    **dict.fromkeys(
        ("top_p", "top_k", "min_p", "repetition_penalty", "generation_kwargs"),
        "completions are drawn from the whole distribution; `temperature` is yours",
    ),
}
UNREAD = {
    "sft": {
        "gradient_checkpointing": "transformers calls it `activation_checkpointing` now",
        "loss_type": "the loss is that of the labelled tokens",
        "label_smoothing_factor": "the loss is that of the labelled tokens",
    },
    "grpo": {
        "gradient_checkpointing": "transformers calls it `activation_checkpointing` now",
        **dict.fromkeys(("entropy_coef", "use_adaptive_entropy"), "entropies are measured and have no gradient"),
        "num_train_epochs": "`max_steps` decides",
        "cast_lm_head_to_fp32": "logits are computed in fp32 where it matters",
        "sync_ref_model": "TRL has none of it for LoRA",
        "reward_weights": "`composition.reward` alone pays",
    },
}
"""Settings of the library that would change nothing, or break what computes the loss."""
CHOICES: dict[str, tuple[Any, ...]] = {
    "loss_type": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "scale_rewards": ("group", "batch", "none", True, False),
    "importance_sampling_level": ("token", "sequence"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
}
"""Of GRPO's settings: TRL looks at their values when it first computes with them, hours later."""
TIED = ("lm_head", "embed_tokens")
"""Modules that may share their weights: merged into one, the adapter would change both."""
INEXACT = (
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "target_parameters",
    "layer_replication",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "use_qalora",
    "kasa_config",
    "arrow_config",
    "velora_config",
)
GRPO: dict[str, Any] = {
    "max_steps": 100,
    "loss_type": "dr_grpo",
    "scale_rewards": "group",
    "beta": 0.0,
    "num_generations": 8,
    "temperature": 1.0,
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 4,
    "lr_scheduler_type": "constant_with_warmup",
    "warmup_steps": 2,
    "save_steps": 10,
    "max_grad_norm": 1.0,
}
"""Defaults that fit a CPU; the recipe's `composition.grpo` comes on top."""
NUMBER = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+))e([-+]?)(\d+)", re.I)
LIBRARY_SETTINGS = {
    "adapters.parametric.lora": "lora",
    "adapters.parametric.sft": "sft",
    "adapters.contextual.lora": "lora",
    "adapters.contextual.sft": "sft",
    "composition.consolidation.sft": "sft",
    "composition.traces.sft": "sft",
    "composition.grpo": "grpo",
}
SOURCES = {
    "lora": [("peft", "tuners/lora/config.py", "LoraConfig"), ("peft", "config.py", "PeftConfig")],
    "sft": [("trl", "trainer/sft_config.py", "SFTConfig")],
    "grpo": [("trl", "trainer/grpo_config.py", "GRPOConfig")],
}
TRAINING_ARGUMENTS = [
    ("trl", "trainer/base_config.py", "_BaseConfig"),
    ("transformers", "training_args.py", "TrainingArguments"),
]


def nearest(name: str, valid: Any) -> str:
    """The end of a message about a name that is not valid: the one that was meant, or those there are."""
    options = sorted(map(str, valid))
    if found := difflib.get_close_matches(name, options, n=1, cutoff=0.5):
        return f"; did you mean {found[0]!r}?"
    more = ["..."] if len(options) > 12 else []
    return f"; valid: {', '.join(options[:12] + more)}" if options else "; there is none"


@cache
def library_fields(kind: str) -> dict[str, str]:
    """Names of a configuration class with their annotations, read from the source."""
    names: dict[str, str] = {}
    for package, file, class_name in SOURCES[kind] + (TRAINING_ARGUMENTS if kind != "lora" else []):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        path = Path(spec.origin).parent / file
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name == class_name:
                names |= {
                    item.target.id: ast.unparse(item.annotation)
                    for item in node.body
                    if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
                }
    return names


def _is_number(annotation: str) -> bool:
    return set(re.findall(r"\w+", annotation)) <= {"int", "float", "None", "Optional"}


def inexact(lora: dict[str, Any]) -> list[str]:
    """Settings of a LoRA by which its adapter is not plainly base + scale * B A, so that no sum of it is exact."""
    found = [name for name in INEXACT if lora.get(name)]
    if lora.get("bias", "none") != "none":
        found.append("bias")
    if str(lora.get("init_lora_weights", "")).lower().startswith(("pissa", "olora", "corda", "loftq")):
        found.append("init_lora_weights")
    return found


def _aims_at(targets: Any, module: str) -> bool:
    """As PEFT matches `target_modules`: a list of names or of their ends, or a regular expression."""
    if isinstance(targets, list):
        return any(str(target).rpartition(".")[2] == module for target in targets)
    try:
        return any(re.fullmatch(str(targets), prefix + module) for prefix in ("", "model."))
    except re.error:
        return False


def problems_at(place: str, settings: dict[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with the settings that stand at one of `LIBRARY_SETTINGS`."""
    kind, problems = LIBRARY_SETTINGS[place], []
    for name, value in settings.items():
        if name in OWNED:
            problems.append((f"{place}.{name}", f"is set by skillcompose: {OWNED[name]}"))
        elif name in UNREAD.get(kind, {}):
            problems.append((f"{place}.{name}", f"has no effect here: {UNREAD[kind][name]}"))
        elif name not in (valid := library_fields(kind)):
            problems.append((f"{place}.{name}", "is not a setting of the library" + nearest(str(name), valid)))
        elif isinstance(value, str) and (found := NUMBER.fullmatch(value)):
            digits, sign, power = found.groups()
            meant = f"{digits}{'' if '.' in digits else '.0'}e{sign or '+'}{power}"
            problems.append((f"{place}.{name}", f"{value!r} is text to YAML, a number is {meant}"))
        elif isinstance(value, str) and _is_number(valid[name]):
            problems.append((f"{place}.{name}", f"is the text {value!r}, not a number"))
    if kind == "lora":
        unsound = "makes an adapter that cannot be summed exactly with another; leave it out"
        problems += [(f"{place}.{name}", unsound) for name in inexact(settings)]
        if tied := [name for name in TIED if _aims_at(settings.get("target_modules"), name)]:
            where = f"names {' and '.join(tied)}, which can share weights; name layers"
            problems.append((f"{place}.target_modules", where))
    epochs = settings.get("num_train_epochs", 1)
    if kind == "sft" and not (isinstance(epochs, int | float) and epochs >= 1 and epochs == int(epochs)):
        problems.append((f"{place}.num_train_epochs", f"is {epochs!r}, not a whole number from 1 on"))
    if kind == "grpo":
        for name, options in CHOICES.items():
            if name in settings and settings[name] not in options:
                problems.append((f"{place}.{name}", f"is {settings[name]!r}" + nearest(str(settings[name]), options)))
        merged = GRPO | settings
        rows, group = merged["per_device_train_batch_size"], merged["num_generations"]
        if isinstance(rows, int) and isinstance(group, int) and (group < 2 or rows % group):
            wrong = f"is {group}; it must be 2 or more, and the {rows} rows of per_device_train_batch_size whole groups"
            problems.append((f"{place}.num_generations", wrong))
        size = merged.get("generation_batch_size")
        if isinstance(rows, int) and isinstance(size, int) and (size < rows or size % rows):
            wrong = f"is {size}; it must be a multiple of the {rows} rows of per_device_train_batch_size"
            problems.append((f"{place}.generation_batch_size", wrong))
    return problems
