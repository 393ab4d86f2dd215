"""How long `make test` takes once installed, and how much of the package it covers.

python benchmarks/tests.py
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import claims

COMMAND = "python benchmarks/tests.py"


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "coverage.json"
        begin = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-q", "--cov", f"--cov-report=json:{report}"]
        subprocess.run(command, cwd=claims.ROOT, check=True)
        minutes = (time.monotonic() - begin) / 60
        covered = json.loads(report.read_text())["totals"]["percent_covered"]
    claims.write("tests.minutes", round(minutes, 1), "min", COMMAND, [0])
    claims.write("tests.coverage", round(covered, 1), "% of statements", COMMAND, [0])


if __name__ == "__main__":
    main()
