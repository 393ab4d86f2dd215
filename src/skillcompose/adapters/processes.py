"""Both adapters at once, each trained in a process of its own with half of the cores.

A small model's step has as much bookkeeping and as many short operations as arithmetic, so a second thread takes off
only a quarter of it; two processes do two steps in the time of one and a bit.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from skillcompose import allocator
from skillcompose.errors import TrainingError
from skillcompose.machine import cores, device
from skillcompose.pipeline import Work
from skillcompose.types import Skill

LARGE = 50_000_000  # bytes of weights; a smaller model is trained before a second process has started


def threads_each(base: str, skills: tuple[Skill, ...]) -> int:
    """Threads for each of so many processes, 0 where one process does it better."""
    weights = sum(path.stat().st_size for path in Path(base).glob("*.safetensors"))
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    threads = int(os.environ.get("OMP_NUM_THREADS", "0")) or cores()
    return threads // len(skills) if alone and device().type == "cpu" and weights > LARGE else 0


def train_at_once(work: Work, skills: tuple[Skill, ...], threads: int) -> None:
    """Each skill's adapter; an interrupted one goes on with the next call.

    Raises:
        TrainingError: What a process said, or that it was killed.
    """
    environment = os.environ | allocator.environment() | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "skillcompose.adapters", str(work.run.folder.resolve()), work.progress.title]
    processes = {
        skill: subprocess.Popen([*command, skill, str(row)], stdout=subprocess.PIPE, text=True, env=environment)
        for row, skill in enumerate(skills)
    }
    try:
        for skill, process in processes.items():
            said, _ = process.communicate()
            if process.returncode:
                why = json.loads(said)["error"] if said.startswith("{") else f"ended with {process.returncode}"
                if process.returncode == -signal.SIGKILL:
                    why = "was killed; most likely memory ran out: OMP_NUM_THREADS=1 trains one after the other"
                error = TrainingError(f"{skill} adapter: {why}")
                error.stage = "adapters"
                raise error
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.wait()
