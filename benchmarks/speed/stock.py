"""What the comparisons share: a process for each side, and stock as someone who knows the libraries sets it up."""

import os
import subprocess
import sys
from typing import Any

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


def in_own_process(script: str, *arguments: Any, dtype: str | None = None) -> str:
    """The last line that one side printed; its memory, threads and caches are its own."""
    wanted = {"SKILLCOMPOSE_DTYPE": dtype} if dtype else {}
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | wanted)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}:\n{done.stderr[-3000:]}")
    return done.stdout.splitlines()[-1] if done.stdout else ""
