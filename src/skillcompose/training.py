"""What SFT and GRPO share: settings, what both train on, progress, checkpoints that are whole."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from torch.nn.utils.rnn import pad_sequence
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig, SFTConfig

from skillcompose.errors import ModelError, RecipeError, TrainingError
from skillcompose.kernels import LAYOUTS
from skillcompose.kernels.head import head_at, token_log_probs
from skillcompose.libraries import GRPO, LIBRARY_SETTINGS
from skillcompose.packing import IGNORED, KEPT
from skillcompose.progress import Progress
from skillcompose.recipe import Recipe
from skillcompose.stages import Work
from skillcompose.types import Question, Skill, read_jsonl

COMPLETE = "complete"


def machine_settings(output_dir: Path, seed: int) -> dict[str, Any]:
    """Settings of every trainer. bf16 autocast stays off: the base is loaded in its fast dtype, LoRA in fp32."""
    return {
        "output_dir": str(output_dir),
        "seed": seed,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "activation_checkpointing": False,
        "save_strategy": "steps",
        "save_total_limit": 2,
        "logging_steps": 1,
        "logging_first_step": True,
    }


def check_settings(recipe: Recipe) -> None:
    """Give TRL and PEFT every setting of theirs, and load a reward of the user's, before hours are spent.

    Raises:
        ModelError: Several cards are visible.
        RecipeError: What they do not take, each with its place.
        TrainingError: The reward cannot be loaded.
    """
    if torch.cuda.device_count() > 1:
        raise ModelError("several cards are visible, and one process trains; name one: CUDA_VISIBLE_DEVICES=0")
    ours = machine_settings(Path(), recipe.seed)
    problems = []
    for place, kind in LIBRARY_SETTINGS.items():
        try:
            settings = recipe.at(place) or {}
            if kind == "lora":
                LoraConfig(**settings)
            elif kind == "sft":
                SFTConfig(**ours | settings)
            else:
                GRPOConfig(**ours | GRPO | settings)
        except (TypeError, ValueError) as error:
            problems.append((place, " ".join(str(error).split())))
    if problems:
        raise RecipeError(str(recipe.source), problems)
    if recipe.composition.reward != "exact_match":
        from skillcompose.composition.rewards import own_reward  # it imports what imports this

        own_reward(recipe)


def check_questions(work: Work) -> None:
    """That RL has enough of them, before hours are spent.

    Raises:
        TrainingError: They are fewer than a step asks.
    """
    recipe, settings = work.recipe, work.recipe.composition
    grpo = GRPOConfig(**machine_settings(Path(), recipe.seed) | GRPO | settings.grpo)
    asked, prompts = len(complementary_questions(work)), grpo.generation_batch_size // grpo.num_generations
    if asked < prompts:
        raise TrainingError(
            f"{asked} training questions for RL are fewer than the {prompts} prompts of one step; lower "
            "composition.grpo.gradient_accumulation_steps"
        )


def complementary_questions(work: Work) -> list[Question]:
    """The complementary training questions, which gold traces show and RL asks."""
    return read_jsonl(work.read("questions") / f"{Skill.COMPLEMENTARY}.train.jsonl", Question)


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end: a kill can leave half of one behind."""
    found = [path for path in folder.glob("checkpoint-*") if (path / COMPLETE).is_file()]
    return str(max(found, key=lambda path: int(path.name.split("-")[1]))) if found else None


def label_losses(
    wrapped: torch.nn.Module, model: Any, batch: dict[str, torch.Tensor], temperature: float = 1.0
) -> torch.Tensor:
    """Losses (N,) of the labelled tokens of a collated batch; `wrapped` is what to call for `model`.

    What is taught costs its negative log-probability, what is kept the divergence KL(base || adapted).
    """
    following = batch["labels"].roll(-1, 1)
    following[:, -1] = IGNORED
    taught, kept = following >= 0, following == KEPT
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"} | {
        "attention_mask": masks(model, batch)
    }
    arguments = (wrapped, model, inputs, taught, following[taught], temperature)
    if not kept.any():
        return -token_log_probs(*arguments)[0]
    base = _of_base(model, batch, kept, temperature)
    log_probs, _, adapted = token_log_probs(*arguments, kept)
    return torch.cat([-log_probs, torch.nn.functional.kl_div(adapted, base, reduction="none", log_target=True).sum(-1)])


def masks(model: Any, batch: dict[str, torch.Tensor]) -> Any:
    """What each token sees, for models that look back a window only a mask for each kind of layer.

    Models of `LAYOUTS` see everything, as they do where they answer.
    """
    config, seen = model.config.get_text_config(), batch["attention_mask"]
    window = getattr(config, "sliding_window", None)
    found = {"full_attention": seen}
    if window and seen.shape[-1] > window and config.model_type not in LAYOUTS:
        at = batch["position_ids"]
        found["sliding_attention"] = seen & (at[:, :, None] - at[:, None] < window)[:, None]
    if config._attn_implementation == "eager":  # it adds the mask instead of choosing by it
        least = torch.finfo(model.dtype).min
        found = {name: torch.zeros_like(m, dtype=model.dtype).masked_fill(~m, least) for name, m in found.items()}
    if "sliding_attention" not in found:
        return found["full_attention"]
    return found if getattr(config, "layer_types", None) else found["sliding_attention"]


@torch.no_grad()
def _of_base(model: PeftModel, batch: dict[str, torch.Tensor], where: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-probabilities (N, V) that the base gives after the tokens at `where`: rows that see only themselves."""
    ids, positions = batch["input_ids"][where], batch["position_ids"][where]
    rows = ids.tensor_split((positions == 0).nonzero()[1:, 0].cpu())
    there = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    with model.disable_adapter(), head_at(model, there.bool()):
        padded = pad_sequence(list(rows), batch_first=True)
        logits = model(input_ids=padded, attention_mask=there, use_cache=False).logits
    return (logits.float() / temperature).log_softmax(-1)


class Watch(TrainerCallback):
    """Moves the progress bar, keeps the log, and marks checkpoints as whole."""

    def __init__(self, progress: Progress, what: str) -> None:
        self.progress, self.what = progress, what
        self.bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar = self.progress.bar(self.what, state.max_steps, initial=state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        last = state.log_history[-1]
        shown = {name: f"{last[name]:.2f}" for name in ("loss", "reward") if last.get(name) is not None}
        self.bar.set_postfix(shown, refresh=False)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar.close()


def adapter_digest(model: PeftModel) -> str:
    found = hashlib.sha256()
    for name, value in sorted(model.named_parameters(), key=lambda pair: pair[0]):
        if ".default." in name:
            found.update(name.encode())
            found.update(value.detach().cpu().float().numpy().tobytes())
    return found.hexdigest()


def check_trainable(model: PeftModel) -> str:
    """The digest of `default` before training.

    Raises:
        TrainingError: Nothing would train, or something else than `default` would.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not names or not all(".default." in name for name in names):
        wrong = "no parameter is trainable" if not names else f"{names[0]} would train"
        raise TrainingError(f"{wrong}; only the adapter named 'default' may train")
    return adapter_digest(model)


def check_moved(model: PeftModel, before: str) -> None:
    """
    Raises:
        TrainingError: The weights are still what `check_trainable` saw.
    """
    if adapter_digest(model) == before:
        raise TrainingError(
            "the adapter did not change: it needs a learning rate above zero and more steps than warm-up"
        )
