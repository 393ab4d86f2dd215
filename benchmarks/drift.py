"""How much of the base does an adapter keep, and what does keeping it cost? A penalty on drift, at several weights.

    python benchmarks/drift.py RUN SKILL [WEIGHT...]        as runs/debian-0 contextual 0 1000 10000

Trains the skill's adapter of a run anew with each weight (0: no penalty) and writes to `drift.json`
its loss over the last thirty steps, what it masters of 120 validation questions for each number of hops, its
divergence from the base in nats a token on a quarter of the run's conversations, which the penalty was not given, and
how many of the general questions of `general.py` it answers.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import claims
import torch
from general import answered

from skillcompose.adapters import GENERAL, measure, read_general, rows_of, train_adapter
from skillcompose.allocator import start_again
from skillcompose.models import load_adapter, load_base, load_tokenizer
from skillcompose.pipeline import load_recipe
from skillcompose.progress import Progress
from skillcompose.run import Run
from skillcompose.stages import Work
from skillcompose.types import Question, Skill, read_json, read_jsonl, write_json

FILE = Path(__file__).parent / "drift.json"
ASKED, LAST = 120, 30


def trained(run: Run, skill: Skill, weight: float) -> dict[str, Any]:
    recipe = load_recipe(run)
    recipe = recipe.model_copy(update={"adapters": recipe.adapters.model_copy(update={"drift": weight})})
    folder = run.folder.with_name(f"{run.folder.name}-drift-{skill}-{weight:g}")
    work = Work(recipe, run.stage("adapters"), run, Progress(), allow_unmastered=True)
    general = read_general(run.stage("adapters") / GENERAL)
    held, given = general[: len(general) // 4 or 1], general[len(general) // 4 or 1 :]
    settings = getattr(recipe.adapters, skill)
    train_adapter(
        replace(work, folder=folder), skill, rows_of(work, skill), settings.sft, f"weight {weight:g}",
        lora=settings.lora, conversations=given,
    )  # fmt: skip
    base = recipe.base()
    tokenizer = load_tokenizer(base)
    model = load_adapter(load_base(base), folder / skill)
    apart, tokens = 0.0, 0
    for row in held:
        ids = tokenizer(row.prompt + row.completion, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            adapted = model(ids).logits.float().log_softmax(-1)
            with model.disable_adapter():
                own = model(ids).logits.float().log_softmax(-1)
        apart += float(torch.nn.functional.kl_div(adapted, own, reduction="sum", log_target=True))
        tokens += ids.shape[1]
    questions = read_jsonl(run.stage("questions") / f"{skill}.validation.jsonl", Question)
    losses = [entry["loss"] for entry in read_json(folder / skill / "training.json")["history"][-LAST:]]
    found = {
        "mastery": measure(model, tokenizer, questions, "default", ASKED, work),
        "loss": sum(losses) / len(losses),
        "nats_a_token": apart / tokens,
        "general": sum(answered(base, tokenizer, folder / skill, work.progress)),
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
    for weight in map(float, sys.argv[3:] or (0, 1000, 10_000)):
        own[f"{weight:g}"] = trained(run, skill, weight)
        write_json(FILE, found)
    print("| weight | loss | nats a token | general questions | mastered |\n|---|---|---|---|---|")
    for name, row in own.items():
        right = ", ".join(f"{part['correct']} of {part['asked']}" for part in row["mastery"])
        print(f"| {name} | {row['loss']:.3f} | {row['nats_a_token']:.4f} | {row['general']} | {right} |")


if __name__ == "__main__":
    main()
