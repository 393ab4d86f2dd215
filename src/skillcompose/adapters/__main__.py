"""The process that trains one adapter: `python -m skillcompose.adapters RUN TITLE SKILL ROW`. It says what is wrong."""

import ctypes
import json
import logging
import signal
import sys
from contextlib import suppress

from skillcompose.adapters import train_skill
from skillcompose.errors import TrainingError
from skillcompose.pipeline import Work, load_recipe
from skillcompose.progress import Progress
from skillcompose.run import Run
from skillcompose.types import Skill


def main() -> None:
    folder, title, skill, row = sys.argv[1:]
    with suppress(OSError, AttributeError):  # not on Linux
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: do not outlive who asked for it
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("skillcompose").setLevel(logging.INFO)
    run = Run(folder)
    try:
        train_skill(Work(load_recipe(run), run.stage("adapters"), run, Progress(title, int(row))), Skill(skill))
    except TrainingError as error:
        print(json.dumps({"error": str(error)}))
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
