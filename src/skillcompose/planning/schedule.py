"""How often the trainers of a recipe read, and sample: what their settings of TRL come to."""

from typing import Any, NamedTuple

from skillcompose.libraries import GRPO
from skillcompose.recipe import Recipe


def passes(sft: dict[str, Any], sequences: float) -> float:
    """How often training reads so many sequences: its epochs, or what `max_steps` makes of them."""
    batch = int(sft.get("per_device_train_batch_size", 8)) * int(sft.get("gradient_accumulation_steps", 1))
    steps = int(sft.get("max_steps", -1))
    return steps * batch / max(1.0, sequences) if steps > 0 else int(sft.get("num_train_epochs", 1))


class Rollouts(NamedTuple):
    prompts: int
    """That are sampled at once."""
    samples: int
    """Completions of each."""
    steps: int
    scored: int
    """Prompts of one step."""
    uses: float
    """Steps that train on what was sampled at once."""


def rollouts(recipe: Recipe) -> Rollouts:
    grpo = GRPO | recipe.composition.grpo
    samples, rows = int(grpo["num_generations"]), int(grpo["per_device_train_batch_size"])
    update = int(grpo["gradient_accumulation_steps"])
    batches = int(grpo.get("steps_per_generation") or int(grpo.get("generation_batch_size") or rows * update) // rows)
    uses = batches * int(grpo.get("num_iterations") or 1) / update
    return Rollouts(rows * batches // samples, samples, int(grpo["max_steps"]), rows * update // samples, uses)
