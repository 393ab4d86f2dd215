"""How many lines of Python the README needs to get an answer in an application; they are run as they stand.

python benchmarks/apps/readme.py     the claim `apps.readme_lines_to_answer`; needs the demo's finished run
"""

import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims


def main() -> None:
    text = (claims.ROOT / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text, re.S)[0]
    done = subprocess.run([sys.executable, "-c", code], cwd=claims.ROOT, capture_output=True, text=True, check=True)
    lines = [line for line in code.splitlines() if line.strip()]
    print(f"{len(lines)} lines print: {done.stdout.strip()}")
    if not done.stdout.split():
        raise SystemExit("they print nothing")
    command = "python benchmarks/apps/readme.py"
    claims.write("apps.readme_lines_to_answer", len(lines), "lines of Python", command, [0])


if __name__ == "__main__":
    main()
