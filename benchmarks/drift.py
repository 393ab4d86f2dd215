"""How much of the base does an adapter keep, and what does keeping it cost? The penalty on drift at several weights.

    python benchmarks/drift.py RUN SKILL [WEIGHT...]        as runs/debian-0 contextual 0 1000 10000

Trains the skill's adapter of a run anew with each weight (0: no penalty) and writes to `drift.json` its loss over the
last thirty steps, what it masters of 120 validation questions for each number of hops, and its divergence from the base
in nats a token on a quarter of the run's conversations, which the penalty was not given.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import claims
import torch

from skillcompose import drift
from skillcompose.adapters import measure, read_general, rows_of, train_adapter
from skillcompose.allocator import start_again
from skillcompose.builtin import resolve
from skillcompose.models import load_adapter, load_base, load_tokenizer
from skillcompose.pipeline import Work, load_recipe
from skillcompose.progress import Progress
from skillcompose.run import Run
from skillcompose.types import Question, Skill, read_json, read_jsonl, write_json

FILE = Path(__file__).parent / "drift.json"
ASKED, LAST = 120, 30


def trained(run: Run, skill: Skill, weight: float) -> dict[str, Any]:
    recipe = load_recipe(run)
    folder = run.folder.with_name(f"{run.folder.name}-drift-{skill}-{weight:g}")
    work = Work(recipe, run.stage("adapters"), run, Progress(), allow_unmastered=True)
    base, settings = resolve(recipe.model, recipe.source.parent), getattr(recipe.adapters, skill)
    tokenizer = load_tokenizer(base)
    conversations = read_general(run.stage("adapters"))
    held = conversations[: len(conversations) // 4 or 1]
    drift.WEIGHT = weight
    train_adapter(
        base, tokenizer, rows_of(work, skill), folder, folder / "work", settings.sft, recipe.seed, work.progress,
        f"weight {weight:g}", lora=settings.lora, general=conversations[len(held) :] if weight else (),
    )  # fmt: skip
    model = load_adapter(load_base(base), folder)
    apart, tokens = 0.0, 0
    for text in held:
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            adapted = model(ids).logits.float().log_softmax(-1)
            with model.disable_adapter():
                own = model(ids).logits.float().log_softmax(-1)
        apart += float(torch.nn.functional.kl_div(adapted, own, reduction="sum", log_target=True))
        tokens += ids.shape[1]
    questions = read_jsonl(run.stage("questions") / f"{skill}.validation.jsonl", Question)
    losses = [entry["loss"] for entry in read_json(folder / "training.json")["history"][-LAST:]]
    found = {
        "mastery": measure(model, tokenizer, questions, "default", ASKED, work),
        "loss": sum(losses) / len(losses),
        "nats_a_token": apart / tokens,
        "commit": claims.commit(),
        "machine": claims.machine(),
    }
    shutil.rmtree(folder)
    return found


def main() -> None:
    start_again()
    run, skill = Run.open(Path(sys.argv[1])), Skill(sys.argv[2])
    found: dict[str, Any] = read_json(FILE) if FILE.is_file() else {}
    own = found.setdefault(run.folder.name, {}).setdefault(str(skill), {})
    for weight in map(float, sys.argv[3:] or (0, drift.WEIGHT)):
        own[f"{weight:g}"] = trained(run, skill, weight)
        write_json(FILE, found)
    print("| weight | loss | nats a token | mastered |\n|---|---|---|---|")
    for name, row in own.items():
        right = ", ".join(f"{part['correct']} of {part['asked']}" for part in row["mastery"])
        print(f"| {name} | {row['loss']:.3f} | {row['nats_a_token']:.4f} | {right} |")


if __name__ == "__main__":
    main()
