"""Five SIGKILLs at times drawn from a seed: the next `train` must end with the predictions of an unbroken run.

    python benchmarks/kills.py

Runs the reduced quickstart once unbroken, then five times killed once (two times inside SFT or GRPO at least).
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import claims

SEED = 0
ROOT = claims.ROOT
REDUCED = [line for line in (ROOT / "recipes" / "reduced.txt").read_text().splitlines() if not line.startswith("#")]
PREDICTIONS = "07-evaluation/predictions.jsonl"


def command(folder: Path) -> list[str]:
    base = [sys.executable, "-m", "skillcompose", "train", str(ROOT / "recipes" / "quickstart.yaml")]
    return [*base, "--run", str(folder), "--allow-unmastered", *(f"-o{line}" for line in REDUCED)]


def stage_times(folder: Path) -> dict[str, float]:
    import json

    return {p.parent.name[3:]: json.loads(p.read_text())["seconds"] for p in sorted(folder.glob("*/stage.json"))}


def main() -> None:
    recovered = 0
    rng = random.Random(SEED)
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        begin = time.monotonic()
        subprocess.run(command(whole), check=True, stderr=subprocess.DEVNULL)
        total, seconds = time.monotonic() - begin, stage_times(whole)
        early = sum(seconds[name] for name in ("passages", "facts", "index", "questions"))
        startup = total - sum(seconds.values())
        training = seconds["adapters"] + seconds["composition"]
        # The first three fall into the two training stages, the others anywhere.
        moments = [startup + early + rng.random() * training for _ in range(3)]
        moments += [startup + rng.random() * (total - startup) for _ in range(2)]
        expected = (whole / PREDICTIONS).read_text()
        for number, moment in enumerate(moments):
            folder = Path(scratch) / f"killed-{number}"
            process = subprocess.Popen(command(folder), stderr=subprocess.DEVNULL)
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
            subprocess.run(command(folder), check=True, stderr=subprocess.DEVNULL)
            same = (folder / PREDICTIONS).read_text() == expected
            recovered += same
            print(
                f"killed after {moment:.0f} s of {total:.0f}: {'the same predictions' if same else 'DIFFERENT'}",
                flush=True,
            )
    claims.write("kills.recovered_of_5", recovered, "of 5 kills", "python benchmarks/kills.py", [SEED])


if __name__ == "__main__":
    main()
