"""Atomic SFT on the demo's rows against stock TRL's SFTTrainer. Each side in its own process, in turn.

    python benchmarks/speed/sft.py        the claims `speed.sft_*`; trains nothing but 24 batches of 8 rows a side

Both sides get the same base, LoRA and rows, half of them with passages, the learning rate zero; the mean loss over
all completion tokens is compared. Stock groups its rows by length, bf16 base where that is faster here.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims
from stock import LORA, stock_policy

ROWS, BATCH, SEED = 192, 8, 0


def side(name: str, questions: Path, scratch: Path) -> None:
    """Runs in a process of its own; prints seconds and mean loss as JSON."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    import skillcompose
    from skillcompose.adapters.sft import AdapterTrainer, training_order
    from skillcompose.models import load_base, load_tokenizer, new_adapter, resolve
    from skillcompose.packing import by_passages, collate, packed
    from skillcompose.prompts import prompt
    from skillcompose.training import machine_settings
    from skillcompose.types import Question, read_jsonl

    recipe = skillcompose.Recipe.from_yaml(claims.ROOT / "recipes" / "quickstart.yaml")
    folder = resolve(recipe.model)
    tokenizer = load_tokenizer(folder)
    rng = random.Random(SEED)
    rows: list[Question] = []
    for skill in ("parametric", "contextual"):
        groups: dict[Any, list[Question]] = {}
        for number, question in enumerate(read_jsonl(questions / f"{skill}.train.jsonl", Question)):
            groups.setdefault(question.passages or number, []).append(question)
        chosen = rng.sample(sorted(groups.values(), key=lambda group: group[0].id), len(groups))
        rows += [q for group in chosen for q in group][: ROWS // 2]
    lengths = [len(tokenizer(q.completion, add_special_tokens=False).input_ids) + 1 for q in rows]
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

    model = stock_policy(folder, SEED) if name == "stock" else new_adapter(load_base(folder), LORA, SEED)
    settings = machine_settings(scratch, SEED) | {
        "save_strategy": "no",
        "learning_rate": 0.0,
        "max_length": None,
        "num_train_epochs": 1,
    }
    if name == "stock":
        trainer = SFTTrainer(
            model,
            SFTConfig(**settings, per_device_train_batch_size=BATCH, train_sampling_strategy="group_by_length"),
            train_dataset=Dataset.from_list(
                [{"prompt": prompt(q.text, q.passages), "completion": q.completion} for q in rows]
            ),
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        inner = trainer.data_collator
        trainer.data_collator = lambda examples: counted(examples, inner)
    else:
        # As the recipe trains them: eight closed-book rows a batch, or two sets of passages with four rows each.
        closed, read = by_passages(rows[: ROWS // 2]), by_passages(rows[ROWS // 2 :])
        batches = [training_order(closed, 1, BATCH, SEED), training_order(read, 1, 2, SEED)]
        sizes = [BATCH] * (len(closed) // BATCH) + [2] * (len(read) // 2)
        trainer = AdapterTrainer(
            model,
            SFTConfig(
                **settings,
                per_device_train_batch_size=1,
                train_sampling_strategy="sequential",
                remove_unused_columns=False,
            ),
            train_dataset=Dataset.from_list([{"number": i} for i in range(len(sizes))]),
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        flat = iter([packed(group, tokenizer) for part in batches for group in part])
        ready = [[next(flat) for _ in range(size)] for size in sizes]
        trainer.data_collator = lambda examples: counted(ready[examples[0]["number"]], collate)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    mean = sum(loss * count for loss, count in zip(losses, tokens, strict=False)) / sum(tokens[: len(losses)])
    print(json.dumps({"seconds": sum(times), "loss": mean, "tokens": sum(lengths)}))


def run(name: str, questions: Path, dtype: str | None = None) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, __file__, "--side", name, "--questions", str(questions), "--scratch", scratch]
        wanted = {"SKILLCOMPOSE_DTYPE": dtype} if dtype else {}
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | wanted)
        if done.returncode:
            raise SystemExit(f"{name}:\n{done.stderr[-3000:]}")
        result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--side")
    parser.add_argument("--questions", type=Path)
    parser.add_argument("--scratch", type=Path)
    options = parser.parse_args()
    if options.side:
        side(options.side, options.questions, options.scratch)
        return
    import skillcompose

    recipe = skillcompose.Recipe.from_yaml(claims.ROOT / "recipes" / "quickstart.yaml")
    with tempfile.TemporaryDirectory() as folder:
        questions = skillcompose.train(recipe, folder, until="questions").stage("questions")
        exact = [run(name, questions, "float32")["loss"] for name in ("stock", "ours")]
        turns = [(run("stock", questions), run("ours", questions)) for _ in range(options.repeats)]
    stock, ours = (statistics.median(found["seconds"] for found in side_) for side_ in zip(*turns, strict=True))
    difference = abs(exact[1] - exact[0]) / exact[0]
    print(f"stock {stock:.1f} s, ours {ours:.1f} s, {stock / ours:.2f} times; fp32 losses differ by {difference:.1e}")
    if difference > 1e-4:
        raise SystemExit(f"the losses differ: {exact}")
    command = "python benchmarks/speed/sft.py"
    claims.write("speed.sft_ratio_same_allocator", round(stock / ours, 2), "times stock TRL", command, [SEED])


if __name__ == "__main__":
    main()
