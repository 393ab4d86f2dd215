"""Synthesised or amplified? pass@k of the biographies' policies, on bridges that RL never asked about.

    python benchmarks/diagnosis/pass_at_k.py        60 questions a level, 256 samples each

Needs the run that `benchmarks/biographies/run.py` leaves, seed 0; goes on where it was interrupted. Writes the curves
and verdicts to `pass_at_k.json`, and the claims `diagnosis.pass256_*` when there are 256 samples.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims

from skillcompose.evaluation.pass_at_k import as_text, measure
from skillcompose.progress import Progress
from skillcompose.run import Run
from skillcompose.types import Level, write_json

COMMAND = "python benchmarks/diagnosis/pass_at_k.py"
RUN = claims.ROOT / "runs" / "biographies-0"
OTHERS = ("start_sft_comp", "start_sft_comp_rl")
SAMPLES = 256


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=RUN)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--questions", type=int, default=60, help="for each level")
    options = parser.parse_args()
    folders = {name: options.run.with_name(f"{options.run.name}-{name}") / "composed" for name in OTHERS}
    others = {name: folder for name, folder in folders.items() if folder.is_dir()}
    # Of an interrupted measurement the last call samples a part only.
    whole, begin = not any((options.run / "diagnosis").glob("*.jsonl")), time.monotonic()
    found = measure(
        Run(options.run), options.samples, options.questions, Progress(), others, (Level.IID, Level.ZERO_SHOT)
    )
    minutes = (time.monotonic() - begin) / 60
    print(as_text(found))
    record = {
        "samples": options.samples,
        "minutes": round(minutes, 1) if whole else None,
        "commit": claims.commit(),
        "machine": claims.machine(),
        "levels": found,
    }
    write_json(Path(__file__).parent / "pass_at_k.json", record)
    if options.samples == SAMPLES:
        for name, curve in found[Level.ZERO_SHOT]["curves"].items():
            if name != "chance":
                share, interval = curve["share"][-1], [round(100 * end, 1) for end in curve["interval"][-1]]
                claims.write(f"diagnosis.pass256_{name}", round(100 * share, 1), "%", COMMAND, [0], interval)
        if whole:
            policies = 2 + len(others)
            claims.write("diagnosis.sampling_minutes", round(minutes / policies, 1), "min a policy", COMMAND, [0])


if __name__ == "__main__":
    main()
