"""The claims of `recipes/debian-full.yaml`: any tables, general wordings, measured as `benchmarks/debian.py` does.

    python benchmarks/knowledge/full.py        the next unfinished seed; a broken one is resumed

Each seed leaves `benchmarks/knowledge/full/seed-N.json`.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims
import debian

COMMAND = "python benchmarks/knowledge/full.py"
FOLDER = Path(__file__).parent / "full"


def write_claims(seeds: list[dict[str, Any]]) -> None:
    unseen = debian.on_unseen_bridges(debian.answers(seeds))
    numbers = [found["seed"] for found in seeds]
    for name, other in debian.GAINS.items():
        value, interval = claims.score(unseen, ["composed", other])
        claims.write(f"knowledge.{name}", round(value, 1), "points", COMMAND, numbers, interval)


if __name__ == "__main__":
    debian.main("debian-full", FOLDER, write_claims)
