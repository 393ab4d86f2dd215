"""How long the demo computes, and how fast its policy answers.

python benchmarks/quickstart.py        uses runs/quickstart when it is finished, else trains it
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import claims

import skillcompose
from skillcompose.allocator import start_again
from skillcompose.run import STAGE_NAMES, Run

QUESTIONS = (
    "Who maintains the efficient, featureful word processor with collaboration?",
    "Which version does the package that git-ftp depends on have?",
    "Who takes care of the package suggested by quilt?",
)
COMMAND = "python benchmarks/quickstart.py"


def main() -> None:
    start_again()
    recipe = skillcompose.Recipe.from_yaml(claims.ROOT / "recipes" / "quickstart.yaml")
    run = Run(claims.ROOT / "runs" / "quickstart")
    # As `make demo` does it.
    command = [sys.executable, "-m", "skillcompose", "train", str(recipe.source), "--run", str(run.folder)]
    subprocess.run(command, check=True)
    policy = skillcompose.Policy.from_run(run.folder)
    policy.answer(QUESTIONS[0])
    times = []
    for question in QUESTIONS * 3:
        begin = time.monotonic()
        policy.answer(question)
        times.append(time.monotonic() - begin)
    # Only now: what multiplies here, as `by_dtype` does, takes the threads of what answers their time to spin.
    seconds = sum(run.record(name)["seconds"] for name in STAGE_NAMES)  # type: ignore[index]
    claims.write(claims.by_dtype("quickstart.minutes"), round(seconds / 60, 1), "min", COMMAND, [recipe.seed])
    name, median = claims.by_dtype("quickstart.ask_seconds"), round(statistics.median(times), 2)
    claims.write(name, median, "s, median of 9", COMMAND, [recipe.seed])


if __name__ == "__main__":
    main()
