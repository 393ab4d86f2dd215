"""What the allocator and skipped groups add to a GRPO step; `grpo.py` compares with stock without both.

    python benchmarks/speed/extras.py        the claims `speed.grpo_allocator_ratio`, `speed.grpo_skipping_ratio`

The third step of ours with prompts of 400 tokens and no reference, three ways in turn: as it is, with mimalloc
preloaded as `skillcompose train` does, and with two of the four groups without a gradient, as behind gold traces. The
first step takes its memory from the kernel with either allocator; what differs is whether the next ones do.
"""

import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims
import grpo
from stock import Series

MODEL, PROMPT, MICRO, STEPS, REPEATS = "builtin:smollm2-135m-instruct", 400, 16, 3, 5
WAYS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "allocator": {"preload": True},
    "skipping": {"equal": grpo.PROMPTS // 2},
}


def turn() -> dict[str, Any]:
    found = {way: grpo.run("ours", MODEL, PROMPT, MICRO, beta=0.0, steps=STEPS, **how) for way, how in WAYS.items()}
    return {way: grpo.times(one) for way, one in found.items()}


def main() -> None:
    series = Series("extras")
    turns = [series.entry(f"turn {number}", turn) for number in range(REPEATS)]
    for way in WAYS:
        sampling, training, memory = (
            statistics.median(found[way][key] for found in turns) for key in ("sampling", "seconds", "memory")
        )
        print(f"{way:10} sampling {sampling:5.1f} s, training {training:5.1f} s, peak {memory:4.1f} GiB")
        if way != "as it is":
            ratio = statistics.median(grpo.step_of(found["as it is"]) / grpo.step_of(found[way]) for found in turns)
            command = "python benchmarks/speed/extras.py"
            claims.write(f"speed.grpo_{way}_ratio", round(ratio, 2), "times without", command, [grpo.SEED])


if __name__ == "__main__":
    main()
