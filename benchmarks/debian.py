"""The claims of `recipes/debian.yaml`: three seeds, one after another, then the pooled numbers.

    python benchmarks/debian.py        the next unfinished seed; a broken one is resumed

Each seed leaves `benchmarks/debian/seed-N.json` (what each rung got right, question by question). With the seeds that
are there, the pooled claims are written to `results.json`; a claim names the seeds it stands on.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import claims

import skillcompose
from skillcompose.allocator import start_again
from skillcompose.run import STAGE_NAMES
from skillcompose.types import read_json, write_json

SEEDS = (0, 1, 2)
COMMAND = "python benchmarks/debian.py"
FOLDER = claims.ROOT / "benchmarks" / "debian"
KEPT = ("rung", "question", "skill", "level", "hops", "bridge", "seen", "retrieved", "correct")


def main() -> None:
    start_again()
    import logging

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    left = [seed for seed in SEEDS if not (FOLDER / f"seed-{seed}.json").is_file()]
    if left:
        measure(left[0])
    write_claims([read_json(path) for path in sorted(FOLDER.glob("seed-*.json"))])


def measure(seed: int) -> None:
    recipe = skillcompose.Recipe.from_yaml(claims.ROOT / "recipes" / "debian.yaml", {"seed": seed})
    run = skillcompose.train(recipe, claims.ROOT / "runs" / f"debian-{seed}", allow_unmastered=True)
    import json

    text = (run.stage("evaluation") / "predictions.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    seconds = {name: run.record(name)["seconds"] for name in STAGE_NAMES}  # type: ignore[index]
    FOLDER.mkdir(exist_ok=True)
    write_json(
        FOLDER / f"seed-{seed}.json",
        {
            "seed": seed,
            "commit": claims.commit(),
            "machine": claims.machine(),
            "seconds": seconds,
            "mastery": {stage: read_json(run.stage(stage) / "mastery.json") for stage in ("adapters", "composition")},
            "grpo": read_json(run.stage("composition") / "training.json"),
            "cost": read_json(run.stage("evaluation") / "timing.json"),
            "metrics": read_json(run.stage("evaluation") / "metrics.json"),
            "columns": KEPT,
            "predictions": [[row[name] for name in KEPT] for row in rows],
        },
    )


def write_claims(seeds: list[dict[str, Any]]) -> None:
    rows = [
        dict(zip(found["columns"], row, strict=True)) | {"seed": found["seed"]}
        for found in seeds
        for row in found["predictions"]
    ]
    numbers = [found["seed"] for found in seeds]
    unseen = [r for r in rows if r["skill"] == "complementary" and not r["seen"]]

    def claim(name: str, value: float, interval: list[float] | None = None, unit: str = "points") -> None:
        claims.write(f"debian.{name}", round(value, 1), unit, COMMAND, numbers, interval)

    composed, interval = claims.score(unseen, ["composed"])
    claim("composed", composed, interval, "% exact match")
    for name, other in (("gain_over_base_passages", "base_passages"), ("gain_over_start", "start")):
        claim(name, *claims.score(unseen, ["composed", other]))
    full, interval = claims.score(unseen, ["full_rag_contextual"])
    claim("full_rag", full, interval, "% exact match")
    for skill in ("parametric", "contextual"):
        atomic = [r for r in rows if r["skill"] == skill]
        claim(f"loss_{skill}", *claims.score(atomic, [skill, "composed"]))
    claim("minutes", sum(sum(found["seconds"].values()) for found in seeds) / len(seeds) / 60, unit="min a seed")


if __name__ == "__main__":
    main()
