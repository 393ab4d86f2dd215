"""Milliseconds that one more token takes, for different numbers of rows that are decoded together.

    python benchmarks/speed/decoding.py        the claims `speed.token_ms_*`

SmolLM2-135M with an adapter, greedy or sampled as in GRPO, the dtype that is faster here; the median of 24 tokens. It
measures the checkout that `PYTHONPATH` names, so two commits are compared by running it in both, in turn.
"""

import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims
import torch

from skillcompose.allocator import start_again
from skillcompose.builtin import resolve
from skillcompose.generation import Sampling, steps
from skillcompose.models import load_base, load_tokenizer, new_adapter, using

SIZES = ((1, 300, 1), (4, 300, 1), (16, 300, 1), (48, 300, 1), (96, 120, 1), (8, 250, 8))
"""Prompts, their tokens, rows of each."""
TOKENS, SEED = 24, 0
COMMAND = "python benchmarks/speed/decoding.py"
LORA = {"r": 32, "lora_alpha": 64, "target_modules": "all-linear"}


def main() -> None:
    start_again()
    folder = resolve("builtin:smollm2-135m-instruct")
    words, model = len(load_tokenizer(folder)), new_adapter(load_base(folder), LORA, SEED)
    model.eval()
    endless = SimpleNamespace(eos_token_id=-1, pad_token_id=0)
    torch.manual_seed(SEED)
    with using(model, "default"):
        for prompts, length, group in SIZES:
            ids = torch.randint(1000, words - 1, (prompts, length)).tolist()
            sampling = Sampling(TOKENS + 1, float(group > 1))
            times = [time.monotonic() for _ in steps(model, endless, ids, group, sampling)]  # type: ignore[arg-type]
            taken = [1000 * (after - before) for before, after in pairwise(times)]
            name = f"{prompts}x{group}" if group > 1 else f"{prompts}"
            median = round(statistics.median(taken), 1)
            print(f"{prompts:3} prompts of {length} tokens, {group} rows each: {median:6} ms")
            claims.write(claims.by_dtype(f"speed.token_ms_{name}"), median, "ms a token, median of 24", COMMAND, [SEED])


if __name__ == "__main__":
    main()
