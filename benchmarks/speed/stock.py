"""What the comparisons share: processes, series, profiles, and stock as someone who knows the libraries sets it up."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims

from skillcompose.allocator import environment

LORA = {"r": 32, "lora_alpha": 64, "target_modules": "all-linear"}


def stock_policy(folder: str, seed: int) -> Any:
    """The base in the dtype that is faster here, transformers' own attention, LoRA in fp32."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    from skillcompose.machine import fast_dtype
    from skillcompose.models import quiet_libraries

    quiet_libraries()
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=fast_dtype()).requires_grad_(False)
    set_seed(seed)
    return get_peft_model(base, LoraConfig(**LORA, task_type="CAUSAL_LM"))


def in_own_process(script: str, *arguments: Any, dtype: str | None = None, preload: bool = False) -> str:
    """The last line that one side printed; its memory, threads and caches are its own, `preload` its allocator."""
    wanted = ({"SKILLCOMPOSE_DTYPE": dtype} if dtype else {}) | (environment() if preload else {})
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | wanted)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}:\n{done.stderr[-3000:]}")
    return done.stdout.splitlines()[-1] if done.stdout else ""


class Series:
    """Measurements by name in one JSON file: an interrupted series goes on where it was."""

    def __init__(self, name: str) -> None:
        self.file = Path(__file__).parent / f"{name}.json"
        self.done: dict[str, Any] = json.loads(self.file.read_text()) if self.file.is_file() else {}

    def entry(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if name not in self.done:
            self.done[name] = measure() | {"commit": claims.commit(), "machine": claims.machine()}
            self.file.write_text(json.dumps(self.done, indent=1) + "\n")
            print(name, self.done[name], flush=True)
        found: dict[str, Any] = self.done[name]
        return found


KINDS = {
    "products": ("mm", "bmm", "addmm", "baddbmm", "mkldnn"),
    "attention": ("scaled_dot_product", "flash_attention"),
    "softmax, log-softmax": ("softmax", "logsumexp"),
    "copies and casts": ("copy_", "cat", "index", "clone", "fill", "zero", "gather", "scatter"),
    "optimiser": ("_foreach", "_fused", "optimizer"),
}


def shares(trace: Any, wall: float) -> dict[str, float]:
    """Of the wall time: kinds of operations by their own time; what no operation accounts for is Python."""
    spent = dict.fromkeys([*KINDS, "other elementwise"], 0.0)
    for event in trace.key_averages():
        own = event.self_cpu_time_total / 1e6 / wall
        kind = next((kind for kind, names in KINDS.items() if any(n in event.key for n in names)), "other elementwise")
        spent[kind] += own
    rounded = {kind: round(share, 3) for kind, share in spent.items()}
    return rounded | {"Python and the profiler": round(1 - sum(spent.values()), 3)}
