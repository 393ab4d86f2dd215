"""The process that trains one adapter: `python -m skillcompose.adapters RUN TITLE SKILL ROW THREADS`.

It prints `{"error": ...}` when it fails. Its input is a signal: the parent closes it when the other adapter's process
has ended, and from then on this one may use THREADS threads.
"""

import ctypes
import json
import logging
import signal
import sys
from contextlib import suppress

from skillcompose.adapters import ATOMIC, tokens_of, train_skill
from skillcompose.adapters.processes import AllCores
from skillcompose.errors import SkillComposeError
from skillcompose.pipeline import load_recipe
from skillcompose.progress import Progress
from skillcompose.run import Run
from skillcompose.stages import Work
from skillcompose.types import Skill


def main() -> None:
    folder, title, skill, row, threads = sys.argv[1:]
    with suppress(OSError, AttributeError):  # not on Linux
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: do not outlive who asked for it
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("skillcompose").setLevel(logging.INFO)
    run = Run(folder)
    try:
        work = Work(load_recipe(run), run.stage("adapters"), run, Progress(title, int(row)))
        beside = sum(tokens_of(work, other) for other in ATOMIC if other != skill)
        train_skill(work, Skill(skill), [AllCores(int(threads), beside)])
    except SkillComposeError as error:
        print(json.dumps({"error": str(error)}))
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
