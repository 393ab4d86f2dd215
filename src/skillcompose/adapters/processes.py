"""Both adapters at once, each trained in a process of its own with half of the cores.

A small model's step has as much bookkeeping and as many short operations as arithmetic, so a second thread takes off
only a quarter of it; two processes do two steps in the time of one and a bit. The one with more to do goes on with all
cores when the other has ended.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from itertools import accumulate
from tempfile import TemporaryFile
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from skillcompose import allocator
from skillcompose.builtin import on_disk
from skillcompose.errors import TrainingError
from skillcompose.machine import cores, device, fast_dtype
from skillcompose.stages import Work
from skillcompose.types import Skill

LARGE = 50_000_000  # bytes of weights; a smaller model is trained before a second process has started
LOOKING = 0.2  # seconds until a process is looked at again


def threads_each(base: str, skills: tuple[Skill, ...]) -> int:
    """Threads for each of so many processes, 0 where one process does it better."""
    folder = on_disk(base)
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder else 0
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    threads = int(os.environ.get("OMP_NUM_THREADS", "0")) or cores()
    return threads // len(skills) if alone and device().type == "cpu" and weights > LARGE else 0


def train_at_once(work: Work, skills: tuple[Skill, ...], threads: int) -> None:
    """Each skill's adapter; an interrupted one goes on with the next call.

    Raises:
        TrainingError: What a process said, or that it was killed.
    """
    # Measured once: on the edge two measurements beside each other could differ.
    dtype = {"SKILLCOMPOSE_DTYPE": str(fast_dtype()).removeprefix("torch.")}
    environment = os.environ | allocator.environment() | dtype | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "skillcompose.adapters", str(work.run.folder.resolve()), work.progress.title]
    with ExitStack() as opened:
        # Not pipes: nobody reads what is said before the end, and a full pipe stops who writes.
        said = {skill: opened.enter_context(TemporaryFile("w+")) for skill in skills}
        # A process that waits for the other reads its input, which ends then.
        processes = {
            skill: subprocess.Popen(
                [*command, skill, str(row), str(threads * len(skills))],
                stdin=subprocess.PIPE,
                stdout=said[skill],
                env=environment,
            )
            for row, skill in enumerate(skills)
        }
        left = dict(processes)
        try:
            while left:
                time.sleep(LOOKING)
                for skill in [skill for skill, process in left.items() if process.poll() is not None]:
                    said[skill].seek(0)
                    check_ended(skill, left.pop(skill).returncode, said[skill].read())
                    for pipe in (other.stdin for other in left.values() if other.stdin):
                        pipe.close()
        finally:
            for process in processes.values():
                process.terminate()
            for process in processes.values():
                process.wait()


def check_ended(skill: Skill, code: int, said: str) -> None:
    if not code:
        return
    why = json.loads(said)["error"] if said.startswith("{") else f"ended with {code}"
    if code == -signal.SIGKILL:
        why = "was killed; most likely memory ran out: OMP_NUM_THREADS=1 trains one after the other"
    raise TrainingError(f"{skill} adapter: {why}")


class AllCores(TrainerCallback):
    """From half of the cores to all of them, at a step that is fixed in advance: the first by which this process has
    trained on as many tokens as the other adapter has in all. There it waits until the other process has ended.

    Switching when the other ends would be sooner, but then the threads of each step, and with them the rounding, would
    depend on the clock.
    """

    def __init__(self, threads: int, tokens: int) -> None:
        self.threads, self.tokens = threads, tokens
        self.step: int | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        rows = args.per_device_train_batch_size * args.gradient_accumulation_steps
        seen = accumulate(map(len, kwargs["train_dataloader"].dataset["input_ids"]))
        self.step = next((row // rows + 1 for row, tokens in enumerate(seen) if tokens >= self.tokens), None)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.step is not None and state.global_step >= self.step:
            sys.stdin.read()
            torch.set_num_threads(self.threads)
            self.step = None
