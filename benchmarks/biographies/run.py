"""The proof: `recipes/biographies-cpu.yaml` on three seeds, and what else could explain its numbers.

    python benchmarks/biographies/run.py        the next unfinished arm; a broken one is resumed

Two calls at once take two arms, each with its share of the cores (`OMP_NUM_THREADS`); on two cores that was no faster
than one after the other. Times are claimed of runs that had every core.

An arm is one way to train a policy from the same questions. Each leaves `benchmarks/biographies/ARM-SEED.json`: the
tokens it cost and what it got right, question by question. Arms share the stages up to the adapters with `default` of
their seed, are asked the same test questions, and those without RL train on as many tokens as `default` did after the
point where they part from it; `patient` ones until validation has stopped rising, or for two million tokens. Tokens
are counted alike everywhere: each sampled one, and prompt and completion of each row that is trained on.
"""

import logging
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims
from arm import KEPT, PATIENT, Arm
from arms import ARMS, FOLDER, RECIPE

import skillcompose
from skillcompose.adapters import ATOMIC
from skillcompose.allocator import start_again
from skillcompose.errors import RunError, TrainingError
from skillcompose.evaluation.ladder import Prediction
from skillcompose.run import STAGE_NAMES, Run, file_digest
from skillcompose.types import Level, Skill, read_json, read_jsonl, write_json

COMMAND = "python benchmarks/biographies/run.py"
ORDER = [
    *((name, seed) for seed in (0, 1, 2) for name in ("default", "start_sft_comp")),
    # One seed each: of the run that was made last.
    *((name, 1) for name in ("joint", "sft_comp", "sft_mixed", "consolidation_only", "sum_grpo", "rl_alone")),
    *((name, 1) for name in ("parametric_only", "contextual_only", "start_sft_comp_rl")),
    *((f"{name}{PATIENT}", 1) for name in ("start_sft_comp", "sft_comp", "sft_mixed")),
]


def main() -> None:
    start_again()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    FOLDER.mkdir(exist_ok=True)
    with ExitStack() as held:
        for name, seed in ORDER:
            started = name == "default" or done("default", seed)
            if started and not done(name, seed) and taken(name, seed, held):
                measure(name, seed)
                break
    write_claims([read_json(path) for path in sorted(FOLDER.glob("*-*.json"))])


def done(name: str, seed: int) -> bool:
    return (FOLDER / f"{name}-{seed}.json").is_file()


def taken(name: str, seed: int, held: ExitStack) -> bool:
    """Whether this process has the arm now, and no other."""
    try:
        held.enter_context(Run(claims.ROOT / "runs" / f"biographies-{seed}-{name}").lock())
    except RunError:
        return False
    return True


def measure(name: str, seed: int) -> None:
    recipe = skillcompose.Recipe.from_yaml(RECIPE, {"seed": seed})
    folder = claims.ROOT / "runs" / f"biographies-{seed}"
    # What is kept of a run before took no time now.
    whole = not (folder / "recipe.json").is_file() and "OMP_NUM_THREADS" not in os.environ
    arm, failure = Arm(name, recipe, Run(folder)), None
    if name != "default":
        beside_default(arm)
    begin = time.monotonic()
    try:
        tokens, adapter = ARMS[name](arm)
    except TrainingError as error:  # no reward to learn from: the arm ends where it started
        tokens, adapter, failure = arm.atomic_tokens(), arm.work.folder / "start", str(error)
    record = {
        "arm": name,
        "seed": seed,
        "tokens": tokens,
        "failure": failure,
        "minutes": round((time.monotonic() - begin) / 60, 1),
        "commit": claims.commit(),
        "machine": claims.machine(),
        "probe": arm.probe(adapter),
        "columns": KEPT,
        "start": start_of(arm),
    }
    if name == "default":
        # The evaluation has asked already, every rung of the ladder.
        found = read_jsonl(arm.run.stage("evaluation") / "predictions.jsonl", Prediction)
        record["predictions"] = [[getattr(prediction, column) for column in KEPT] for prediction in found]
        if whole:
            record["seconds"] = {stage: arm.run.record(stage)["seconds"] for stage in STAGE_NAMES}  # type: ignore[index]
        record["metrics"] = read_json(arm.run.stage("evaluation") / "metrics.json")
        record["probe_base"] = arm.probe(None)
        record["mastery"] = {s: read_json(arm.run.stage(s) / "mastery.json") for s in ("adapters", "composition")}
        record["training"] = read_json(arm.run.stage("composition") / "training.json")
        record["breaks"] = read_json(arm.run.stage("evaluation") / "breaks.json")
    else:
        record["predictions"] = arm.asked(name, adapter)
        if (arm.work.folder / "training.json").is_file():
            record["training"] = read_json(arm.work.folder / "training.json")
    write_json(FOLDER / f"{name}-{seed}.json", record)


def start_of(arm: Arm) -> str:
    return file_digest(arm.run.stage("composition") / "start" / "adapter_model.safetensors")


def beside_default(arm: Arm) -> None:
    """Arms are compared question by question with the run of `default` that they start from.

    Where its folder is gone it is made again. Another machine rounds differently: then `default` is another one too.
    """
    skillcompose.train(arm.recipe, arm.run.folder, until="composition", allow_unmastered=True)
    file = FOLDER / f"default-{arm.seed}.json"
    if read_json(file).get("start") != start_of(arm):
        raise SystemExit(f"{file} was measured on another run; remove it, and the arms of its seed, to measure anew")


def write_claims(records: list[dict[str, Any]]) -> None:
    rows = [
        dict(zip(record["columns"], row, strict=True)) | {"seed": record["seed"]}
        for record in records
        for row in record["predictions"]
    ]
    unseen = [row for row in rows if row["skill"] == Skill.COMPLEMENTARY and not row["seen"]]

    def claim(name: str, value: float, unit: str, seeds: list[int], interval: list[float] | None = None) -> None:
        claims.write(f"biographies.{name}", round(value, 1), unit, COMMAND, seeds, interval)

    for rung in ("composed", "traced", "start", "exact_sum", *(arm for arm in ARMS if arm != "default")):
        seeds = sorted({row["seed"] for row in unseen if row["rung"] == rung})
        for level in Level if seeds else ():
            value, interval = claims.score([row for row in unseen if row["level"] == level], [rung])
            name = level if rung == "composed" else f"{rung}.{level}"
            claim(name, value, "% exact match", seeds, interval)
    done = [record for record in records if record["arm"] == "default"]
    seeds = sorted(record["seed"] for record in done)
    for skill in ATOMIC:
        value, interval = claims.score([row for row in rows if row["skill"] == skill], [skill, "composed"])
        claim(f"loss_{skill}", value, "points", seeds, interval)
    kept = [(own, base) for record in done for own, base in zip(record["probe"], record["probe_base"], strict=True)]
    loss = 100 * sum(base - own for own, base in kept) / len(kept)
    claim("general_probe_loss", loss, "points", seeds)
    for when, rung in (("before", "start"), ("after", "composed")):
        breaks = [record["breaks"][rung] for record in done]
        share = 100 * sum(b["at_passages"] for b in breaks) / sum(b["wrong"] for b in breaks)
        claims.write(f"diagnosis.context_first_error_{when}", round(share, 1), "% of first errors", COMMAND, seeds)
    if here := [record for record in claims.measured_here(done) if "seconds" in record]:
        minutes = sum(sum(record["seconds"].values()) for record in here) / len(here) / 60
        claim(claims.by_dtype("minutes"), minutes, "min a seed", sorted(record["seed"] for record in here))


if __name__ == "__main__":
    main()
