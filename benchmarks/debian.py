"""The claims of `recipes/debian.yaml`: three seeds, one after another, then the pooled numbers.

    python benchmarks/debian.py        the next unfinished seed; a broken one is resumed

Each seed leaves `benchmarks/debian/seed-N.json` (what each rung got right, question by question). With the seeds that
are there, the pooled claims are written to `results.json`; a claim names the seeds it stands on.
"""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import claims

import skillcompose
from skillcompose.allocator import start_again
from skillcompose.run import STAGE_NAMES, Run
from skillcompose.types import read_json, write_json

SEEDS = (0, 1, 2)
COMMAND = "python benchmarks/debian.py"
FOLDER = claims.ROOT / "benchmarks" / "debian"
KEPT = ("rung", "question", "skill", "level", "hops", "bridge", "seen", "retrieved", "correct")


def main(
    name: str = "debian", folder: Path = FOLDER, write: Callable[[list[dict[str, Any]]], None] | None = None
) -> None:
    """Measure the next seed of a recipe, then write the claims of all that are there."""
    start_again()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    left = [seed for seed in SEEDS if not (folder / f"seed-{seed}.json").is_file()]
    if left:
        measure(name, folder, left[0])
    (write or write_claims)([read_json(path) for path in sorted(folder.glob("seed-*.json"))])


def measure(name: str, folder: Path, seed: int) -> None:
    recipe = skillcompose.Recipe.from_yaml(claims.ROOT / "recipes" / f"{name}.yaml", {"seed": seed})
    run = Run(claims.ROOT / "runs" / f"{name}-{seed}")
    whole = not (run.folder / "recipe.json").is_file()  # what is kept of a run before took no time now
    skillcompose.train(recipe, run.folder, allow_unmastered=True)
    text = (run.stage("evaluation") / "predictions.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.split("\n") if line]
    seconds = {"seconds": {name: run.record(name)["seconds"] for name in STAGE_NAMES}}  # type: ignore[index]
    folder.mkdir(exist_ok=True)
    write_json(
        folder / f"seed-{seed}.json",
        {
            "seed": seed,
            "commit": claims.commit(),
            "machine": claims.machine(),
            "mastery": {stage: read_json(run.stage(stage) / "mastery.json") for stage in ("adapters", "composition")},
            "grpo": read_json(run.stage("composition") / "training.json"),
            "cost": read_json(run.stage("evaluation") / "timing.json"),
            "metrics": read_json(run.stage("evaluation") / "metrics.json"),
            "columns": KEPT,
            "predictions": [[row[name] for name in KEPT] for row in rows],
        }
        | (seconds if whole else {}),
    )


def answers(seeds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row an answer, with its seed."""
    return [
        dict(zip(found["columns"], row, strict=True)) | {"seed": found["seed"]}
        for found in seeds
        for row in found["predictions"]
    ]


def on_unseen_bridges(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [r for r in rows if r["skill"] == "complementary" and not r["seen"]]


GAINS = {"gain_over_base_passages": "base_passages", "gain_over_start": "start"}


def write_claims(seeds: list[dict[str, Any]]) -> None:
    rows = answers(seeds)
    numbers = [found["seed"] for found in seeds]
    unseen = on_unseen_bridges(rows)

    def claim(
        name: str,
        value: float,
        interval: list[float] | None = None,
        unit: str = "points",
        seeds: list[int] = numbers,
    ) -> None:
        claims.write(f"debian.{name}", round(value, 1), unit, COMMAND, seeds, interval)

    composed, interval = claims.score(unseen, ["composed"])
    claim("composed", composed, interval, "% exact match")
    for name, other in (GAINS | {"gain_over_traced": "traced"}).items():
        claim(name, *claims.score(unseen, ["composed", other]))
    full, interval = claims.score(unseen, ["full_rag_contextual"])
    claim("full_rag", full, interval, "% exact match")
    for skill in ("parametric", "contextual"):
        atomic = [r for r in rows if r["skill"] == skill]
        claim(f"loss_{skill}", *claims.score(atomic, [skill, "composed"]))
    if here := [found for found in claims.measured_here(seeds) if "seconds" in found]:
        minutes = sum(sum(found["seconds"].values()) for found in here) / len(here) / 60
        claim(claims.by_dtype("minutes"), minutes, unit="min a seed", seeds=[found["seed"] for found in here])


if __name__ == "__main__":
    main()
