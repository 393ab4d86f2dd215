"""Atomic SFT on the demo's rows against stock TRL's SFTTrainer. Each side in its own process, in turn.

    python benchmarks/speed/sft.py        the claims `speed.sft_*`; trains nothing but 24 batches of 8 rows a side

All sides get the same base, LoRA and rows, half of them with passages, the learning rate zero; the mean loss over
all completion tokens is compared. `stock` groups its rows by length, bf16 base where that is faster here, checkpointing
off; `installed` is what one gets who sets nothing: the model by its name, TRL's own defaults.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims
from stock import LORA, in_own_process, stock_policy

ROWS, BATCH, SEED = 192, 8, 0


def side(name: str, model_name: str, questions: Path, count: int, scratch: Path) -> None:
    """Runs in a process of its own; prints seconds and mean loss as JSON."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from skillcompose.adapters.sft import AdapterTrainer, training_order
    from skillcompose.builtin import resolve
    from skillcompose.models import load_base, load_tokenizer, new_adapter
    from skillcompose.packing import by_passages, collate, packed
    from skillcompose.training import machine_settings
    from skillcompose.types import Question, read_jsonl

    folder = resolve(model_name)
    tokenizer = load_tokenizer(folder)
    rng = random.Random(SEED)
    # Half closed-book rows, half with passages, four about each set of them.
    closed, read = (
        rng.sample(groups, count // 2 // len(groups[0]))
        for groups in (
            by_passages(read_jsonl(questions / f"{skill}.train.jsonl", Question))
            for skill in ("parametric", "contextual")
        )
    )
    rows = [row for group in [*closed, *read] for row in group]
    times: list[float] = []
    tokens: list[int] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            times.append(-time.monotonic())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            times[-1] += time.monotonic()

    def counted(examples: Any, collator: Any) -> Any:
        batch = collator(examples)
        tokens.append(int((batch["labels"] != -100).sum()))
        return batch

    makers: dict[str, Any] = {
        "stock": lambda: stock_policy(folder, SEED),
        "ours": lambda: new_adapter(load_base(folder), LORA, SEED),
        "installed": lambda: folder,
    }
    model = makers[name]()
    settings = machine_settings(scratch, SEED) | {
        "save_strategy": "no",
        "learning_rate": 0.0,
        "max_length": None,
        "num_train_epochs": 1,
    }
    if name != "ours":
        config = SFTConfig(**settings, per_device_train_batch_size=BATCH, train_sampling_strategy="group_by_length")
        if name == "installed":
            kept = ["output_dir", "seed", "use_cpu", "report_to", "save_strategy", "learning_rate", "num_train_epochs"]
            kept += ["logging_steps", "disable_tqdm"]
            config = SFTConfig(**{key: settings[key] for key in kept}, per_device_train_batch_size=BATCH)
        trainer = SFTTrainer(
            model,
            config,
            train_dataset=Dataset.from_list([{"prompt": row.prompt, "completion": row.completion} for row in rows]),
            processing_class=tokenizer,
            callbacks=[Clock()],
            peft_config=LoraConfig(**LORA, task_type="CAUSAL_LM") if name == "installed" else None,
        )
        inner = trainer.data_collator
        trainer.data_collator = lambda examples: counted(examples, inner)
    else:
        # As the recipe trains them: eight closed-book rows a batch, or two sets of passages with four rows each.
        kinds = (closed, BATCH), (read, 2)
        batches = [training_order([packed(g, tokenizer) for g in some], 1, size, SEED) for some, size in kinds]
        sizes = [BATCH] * (len(closed) // BATCH) + [2] * (len(read) // 2)
        trainer = AdapterTrainer(
            model,
            SFTConfig(
                **settings,
                per_device_train_batch_size=1,
                train_sampling_strategy="sequential",
                remove_unused_columns=False,
            ),
            # TRL takes rows with `input_ids` as they are; the collator puts each batch in the place of its number.
            train_dataset=Dataset.from_list([{"input_ids": [0], "number": i} for i in range(len(sizes))]),
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        flat = iter([sequence for part in batches for sequence in part])
        ready = [[next(flat) for _ in range(size)] for size in sizes]
        trainer.data_collator = lambda examples: counted(ready[examples[0]["number"]], collate)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    mean = sum(loss * count for loss, count in zip(losses, tokens, strict=False)) / sum(tokens[: len(losses)])
    print(json.dumps({"seconds": sum(times), "loss": mean}))


def run(name: str, model: str, questions: Path, rows: int = ROWS, dtype: str | None = None) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch:
        given = ["--model", model, "--questions", questions, "--rows", rows, "--scratch", scratch]
        found = in_own_process(__file__, "--side", name, *given, dtype=dtype)
    result: dict[str, float] = json.loads(found)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--side")
    parser.add_argument("--model")
    parser.add_argument("--questions", type=Path)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--scratch", type=Path)
    options = parser.parse_args()
    if options.side:
        side(options.side, options.model, options.questions, options.rows, options.scratch)
        return
    import skillcompose

    recipe = skillcompose.Recipe.from_yaml(claims.ROOT / "recipes" / "quickstart.yaml")
    with tempfile.TemporaryDirectory() as folder:
        questions = skillcompose.train(recipe, folder, until="questions").stage("questions")
        exact = [run(name, recipe.model, questions, dtype="float32")["loss"] for name in ("stock", "ours")]
        sides = ("stock", "ours", "installed")
        turns = [[run(name, recipe.model, questions) for name in sides] for _ in range(options.repeats)]
    seconds = [[found["seconds"] for found in turn] for turn in turns]
    stock, ours, installed = map(statistics.median, zip(*seconds, strict=True))
    difference = abs(exact[1] - exact[0]) / exact[0]
    print(f"stock {stock:.1f} s, as installed {installed:.1f} s, ours {ours:.1f} s: {stock / ours:.2f} and "
          f"{installed / ours:.2f} times; fp32 losses differ by {difference:.1e}")  # fmt: skip
    if difference > 1e-4:
        raise SystemExit(f"the losses differ: {exact}")
    command = "python benchmarks/speed/sft.py"
    claims.write("speed.sft_ratio_same_allocator", round(stock / ours, 2), "times stock TRL", command, [SEED])
    claims.write("speed.sft_ratio_shipped", round(installed / ours, 2), "times TRL as installed", command, [SEED])


if __name__ == "__main__":
    main()
