"""Seconds and bytes of what a run does over and over, measured on this machine and kept in the cache.

python -m skillcompose.planning.rates SETTINGS        what one measurement does: JSON in, JSON of `Rates` out

A process of its own, so that its peak memory and the time of its imports are its own; half a minute. It trains the two
adapters as a run does: at once, in further processes with half of the cores each, where a run would.
`SKILLCOMPOSE_MEASURE=0` switches measuring off.
"""

import dataclasses
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from skillcompose import allocator
from skillcompose.builtin import cache_folder, on_disk, resolve
from skillcompose.recipe import Recipe
from skillcompose.run import digest
from skillcompose.types import read_json, write_json

VERSION = 6  # raise it when something else is measured
KINDS = ("parametric", "contextual", "merged")
SHORT, PREFIX, BRANCH = 36, 200, 36  # tokens of a row without passages, of passages, of a row about them
VARIETY = 20  # lengths
BRANCHES = {"contextual": 4, "merged": 10}
READ, ROWS, STEPS = 300, (4, 32), 6  # tokens of a prompt, rows that are decoded together, tokens decoded
SECONDS, BATCHES = 6.0, 3  # of training that is timed, and at least so many batches
TEXTS, WORDS = 32, 60  # that are embedded, and of each
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rates:
    """`train` and `bytes` are for a token of a training batch, by what is trained: short rows of the parametric
    adapter, rows that share passages of the contextual one, and those of the merged adapter; `alone` is the parametric
    one with nothing beside it."""

    imports: float
    load: float
    """Seconds to load the base model."""
    train: dict[str, float]
    prefill: float
    """Seconds for a token of a prompt."""
    step: float
    """Seconds for one more token of every row that is decoded together, whatever their number."""
    row: float
    """Seconds for each of these rows, on top."""
    merge: float
    """Seconds to merge the adapter into the weights before it answers, as every GRPO step does."""
    embed: float
    """Seconds for a word of a passage, by every model that ranks."""
    resident: int
    """Bytes of a process that has loaded the libraries and the base model."""
    bytes: dict[str, int]
    at_once: bool
    """Whether a run trains both adapters at the same time."""


def rates_of(recipe: Recipe, measure: bool = True) -> tuple[Rates | None, str]:
    """What this machine does a second, and why that is not known; measured when it is not in the cache yet."""
    used = [recipe.model, recipe.index.embedder]
    if recipe.index.search == "hybrid" and recipe.index.sparse:
        used.append(recipe.index.sparse)
    folders = [local(name, recipe) for name in used]
    base, embedder, *sparse = folders
    if base is None or None in folders:
        missing = used[folders.index(None)]
        return None, f"{missing} is not on this machine yet; `skillcompose fetch` or `train` fetches it"
    skills = (recipe.adapters.parametric, recipe.adapters.contextual)
    merged = {"r": sum(int(skill.lora.get("r", 8)) for skill in skills), "target_modules": "all-linear"}
    settings = {
        "base": str(base),
        "embedder": str(embedder),
        "sparse": str(sparse[0]) if sparse else None,
        "lora": dict(zip(KINDS, [*(skill.lora for skill in skills), merged], strict=True)),
        "batch": {kind: int(sft.get("per_device_train_batch_size", 8)) for kind, sft in sft_settings(recipe).items()},
    }
    weights = sorted((path.name, path.stat().st_size) for path in base.glob("*.safetensors"))
    key = digest([VERSION, machine(), weights, settings["lora"], settings["batch"], used[1:]])
    cache = cache_folder() / "rates.json"
    known: dict[str, Any] = read_json(cache) if cache.is_file() else {}
    if key not in known:
        if not measure:
            return None, "this machine was not measured; `skillcompose plan` does"
        if os.environ.get("SKILLCOMPOSE_MEASURE") == "0":
            return None, "measuring is switched off (SKILLCOMPOSE_MEASURE=0)"
        logger.info("measuring some batches on this machine, once for this model: a minute or two")
        done = _start(settings, {})
        said, complaint = done.communicate()
        if done.returncode:
            last = (complaint.strip().splitlines() or ["no message"])[-1]
            return None, f"the measurement failed: {last}"
        known[key] = json.loads(said.splitlines()[-1])
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_json(cache, known)
    return Rates(**known[key]), ""


def _start(settings: dict[str, Any], environment: dict[str, str]) -> "subprocess.Popen[str]":
    """A process that measures, with the allocator that a run has."""
    process = subprocess.Popen(
        [sys.executable, "-m", "skillcompose.planning.rates", json.dumps(settings)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | allocator.environment() | environment,
    )
    return process


def sft_settings(recipe: Recipe) -> dict[str, dict[str, Any]]:
    adapters, consolidation = recipe.adapters, recipe.composition.consolidation
    return dict(zip(KINDS, (adapters.parametric.sft, adapters.contextual.sft, consolidation.sft), strict=True))


def local(name: str, recipe: Recipe) -> Path | None:
    """The folder of a model that is on this machine; nothing is fetched."""
    if name.startswith("builtin:"):
        folder = cache_folder() / "models" / name.removeprefix("builtin:")
        return folder if folder.is_dir() else None
    return on_disk(resolve(name, recipe.beside))


def machine() -> list[Any]:
    """What the speed depends on, without asking torch, which takes seconds to load."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = sorted({line for line in info.splitlines() if line.startswith(("model name", "flags"))})
    settings = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "SKILLCOMPOSE_DTYPE")}
    settings["LD_PRELOAD"] = (os.environ | allocator.environment()).get("LD_PRELOAD")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [names, cores, settings, version("torch")]


def measured(settings: dict[str, Any]) -> Rates:
    begin = time.monotonic()
    import torch
    import trl.trainer.grpo_trainer  # noqa: F401  what the stages import too

    from skillcompose.adapters import ATOMIC
    from skillcompose.adapters.processes import threads_each
    from skillcompose.index.rankings import embed, expand, load_embedder, load_sparse
    from skillcompose.kernels.ordered import ordered
    from skillcompose.models import load_base

    imports = time.monotonic() - begin
    load, model = _timed(lambda: load_base(settings["base"]))
    resident = _memory("VmRSS")
    torch.manual_seed(0)
    with ordered(model):
        prefill, step, row = _decoding(model)
    threads = threads_each(settings["base"], ATOMIC)
    trained = {"merged": _training("merged", settings)}
    if threads:
        trained["alone"] = _training("parametric", settings)
        few = {"OMP_NUM_THREADS": str(threads)}
        processes = {kind: _start(settings | {"only": kind}, few) for kind in map(str, ATOMIC)}
        trained |= {kind: json.loads(process.communicate()[0].splitlines()[-1]) for kind, process in processes.items()}
    else:
        trained |= {kind: _training(kind, settings) for kind in map(str, ATOMIC)}
    train, used = ({kind: found[i] for kind, found in trained.items()} for i in (0, 1))
    merge = trained["merged"][2]
    embedder = load_embedder(settings["embedder"])
    texts = [" ".join(["word"] * WORDS)] * TEXTS
    embed(embedder, texts[:2])
    embedding, _ = _timed(lambda: embed(embedder, texts))
    if settings["sparse"]:
        expander = load_sparse(settings["sparse"])
        expand(expander, texts[:2])
        embedding += _timed(lambda: expand(expander, texts))[0]
    embedding /= TEXTS * WORDS
    return Rates(imports, load, train, prefill, step, row, merge, embedding, resident, used, bool(threads))


def _decoding(model: Any) -> tuple[float, float, float]:
    """Seconds for a prompt's token, for a step, and for each row of a step."""
    import torch

    from skillcompose.generation import next_logits
    from skillcompose.prefill import prefill

    prompts = [_tokens(READ, model) for _ in range(ROWS[1])]
    steps = []
    for rows in ROWS:
        prefill(model, 0, prompts[:2])
        read, (cache, logits, mask) = _timed(lambda rows=rows: prefill(model, 0, prompts[:rows]))  # type: ignore[misc]
        token, taken = logits.argmax(-1), []
        for _ in range(STEPS):
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            begin = time.monotonic()
            with torch.inference_mode():
                next_logits(model, cache, token, mask, mask.sum(-1) - 1)
            taken.append(time.monotonic() - begin)
        steps.append(sorted(taken)[STEPS // 2])
    row = max(0.0, (steps[1] - steps[0]) / (ROWS[1] - ROWS[0]))
    return read / (READ * ROWS[1]), max(0.0, steps[0] - row * ROWS[0]), row


def _training(kind: str, settings: dict[str, Any]) -> list[Any]:
    """Seconds and bytes for a token of a batch, and seconds to merge the adapter."""
    import torch

    from skillcompose.memory import release_memory
    from skillcompose.models import load_base, new_adapter, using
    from skillcompose.packing import collate
    from skillcompose.training import label_losses

    torch.manual_seed(0)
    model = load_base(settings["base"])
    adapted = new_adapter(model, settings["lora"][kind], 0)
    trained = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    adapted.train()
    release_memory()
    before = _memory("VmRSS") + 12 * sum(p.numel() for p in trained)  # gradient and moments
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    seconds = 0.0
    sizes: list[int] = []
    # Every batch of a run has another shape, and kernels are made for each shape: repeating one would be too fast.
    while len(sizes) <= BATCHES or seconds < SECONDS:
        batch = collate([_sequence(kind, model, len(sizes)) for _ in range(settings["batch"][kind])])
        begin = time.monotonic()
        loss: Any = label_losses(adapted, adapted, batch).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        sizes.append(int(batch["input_ids"].numel()))
        seconds += (time.monotonic() - begin) * (len(sizes) > 1)
    used = max(0, _memory("VmHWM") - before) // max(sizes)

    def merge() -> None:
        with using(adapted, "default"):
            pass

    return [seconds / sum(sizes[1:]), used, _timed(merge)[0]]


def _tokens(count: int, model: Any) -> list[int]:
    import torch

    return [int(token) for token in torch.randint(1, model.config.vocab_size, (count,))]


def _sequence(kind: str, model: Any, more: int) -> dict[str, list[int]]:
    """A sequence as `packing` makes them: some two thirds of what follows the passages is to be learnt."""
    if kind == "parametric":
        heads, prefix, size, sign = 1, 0, SHORT + more % VARIETY, -1
    else:
        heads, prefix, size, sign = BRANCHES[kind], PREFIX + 7 * (more % VARIETY), BRANCH, 1
    ids = _tokens(prefix + heads * size, model)
    learnt = [0] * (size // 3) + [1] * (size - size // 3)
    where = [0] * prefix + learnt * heads
    return {
        "input_ids": ids,
        "labels": [token if learn else -100 for token, learn in zip(ids, where, strict=True)],
        "position_ids": [*range(prefix), *(list(range(prefix, prefix + size)) * heads)],
        "branches": [0] * prefix + [sign * (number + 2) for number in range(heads) for _ in range(size)],
    }


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.monotonic()
    result = call()
    return time.monotonic() - begin, result


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def main() -> None:
    settings = json.loads(sys.argv[1])
    if kind := settings.get("only"):
        print(json.dumps(_training(kind, settings)))
    else:
        print(json.dumps(dataclasses.asdict(measured(settings))))


if __name__ == "__main__":
    main()
