"""How long the demo computes, and how fast its policy answers.

python benchmarks/quickstart.py        uses runs/quickstart when it is finished, else trains it
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import claims

import skillcompose
from skillcompose.run import STAGE_NAMES

QUESTIONS = (
    "Who maintains the efficient, featureful word processor with collaboration?",
    "Which version does the package that git-ftp depends on have?",
    "Who takes care of the package suggested by quilt?",
)
COMMAND = "python benchmarks/quickstart.py"


def main() -> None:
    recipe = skillcompose.Recipe.from_yaml(claims.ROOT / "recipes" / "quickstart.yaml")
    run = skillcompose.train(recipe, claims.ROOT / "runs" / "quickstart")
    seconds = sum(run.record(name)["seconds"] for name in STAGE_NAMES)  # type: ignore[index]
    claims.write("quickstart.minutes", round(seconds / 60, 1), "min", COMMAND, [recipe.seed])
    policy = skillcompose.Policy.from_run(run.folder)
    policy.answer(QUESTIONS[0])
    times = []
    for question in QUESTIONS * 3:
        begin = time.monotonic()
        policy.answer(question)
        times.append(time.monotonic() - begin)
    claims.write("quickstart.ask_seconds", round(statistics.median(times), 2), "s, median of 9", COMMAND, [recipe.seed])


if __name__ == "__main__":
    main()
