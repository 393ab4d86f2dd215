"""Broken and hostile inputs: does each end in a reason that names it, and the run in the end?

    python benchmarks/knowledge/hostile.py        the claims `knowledge.hostile_*`

Every document gets a knowledge base of its own with one good file beside it, and a process of its own: it must finish
within a minute, with the good file read and the other one named in `passages.report.json`. Every table is named in a
recipe: the command must end in one message, no traceback. Then 1 GiB of real text in one file, at the default limit.
The makers are those of the tests (`tests/hostile_files.py`).
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent.parent / "tests"))
import claims
import yaml
from hostile_files import HOSTILE, HOSTILE_TABLES, ODD

from skillcompose.files import printable

COMMAND = "python benchmarks/knowledge/hostile.py"
SECONDS = 60
Found = dict[str, object]


def train(recipe: Path, run: Path, until: str) -> tuple[int, str, int, float]:
    """Exit code, what it said, peak resident bytes, seconds. `wait4` counts the process and its children."""
    command = [sys.executable, "-m", "skillcompose", "train", str(recipe), "--run", str(run), "--until", until]
    begin = time.monotonic()
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(["timeout", str(SECONDS), *command], stdout=said, stderr=said)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read().decode(errors="replace")
    return child.returncode, text, usage.ru_maxrss * 1024, time.monotonic() - begin


def recipe_in(folder: Path, tables: dict[str, str], owner: str) -> Path:
    """The demo's recipe on another folder; `owner` is the table that the weights' relations are in."""
    data = yaml.safe_load((claims.ROOT / "recipes" / "quickstart.yaml").read_text())
    data |= {"knowledge_base": str(folder)}
    data["facts"]["tables"] = {name: {"key": key} for name, key in tables.items()}
    for relation in data["facts"]["relations"].values():
        if relation["table"] == "owners.csv" != owner:
            relation |= {"table": owner, "column": "owner"}
    path = folder.parent / "recipe.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def document(name: str, reason: str | None) -> tuple[bool, str, int, float]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "kb"
        folder.mkdir()
        for table in ("owners.csv", "packages.csv"):
            (folder / table).write_bytes((claims.ROOT / "examples" / "debian" / table).read_bytes())
        (folder / "good.md").write_text("# Good\n\nText.")
        (ODD[name] if reason is None else HOSTILE[name][0])(folder / name)
        recipe = recipe_in(folder, {"owners.csv": "package", "packages.csv": "package"}, "owners.csv")
        code, said, peak, seconds = train(recipe, Path(place) / "run", "passages")
        report = Path(place) / "run" / "01-passages" / "passages.report.json"
        if code or not (report.parent / "stage.json").is_file():
            return False, f"exit code {code}: {said[-200:]}", peak, seconds
        found = json.loads(report.read_text())
    why = found["unread"].get(printable(name), "")
    if reason is None:
        return found["documents"] == 2, why or f"read, {found['passages']} passages", peak, seconds
    return bool(re.search(reason, why)) and found["documents"] == 1, why or "read", peak, seconds


def table(name: str, reason: str) -> tuple[bool, str, int, float]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "kb"
        folder.mkdir()
        (folder / "packages.csv").write_bytes((claims.ROOT / "examples" / "debian" / "packages.csv").read_bytes())
        HOSTILE_TABLES[name][0](folder / name.partition("#")[0])
        recipe = recipe_in(folder, {name: "package", "packages.csv": "package"}, name)
        code, said, peak, seconds = train(recipe, Path(place) / "run", "facts")
    lines = [line for line in said.splitlines() if re.search(reason, line)]
    return code == 1 and bool(lines) and "Traceback" not in said, (lines or [said[-200:]])[0].strip(), peak, seconds


def gigabyte() -> tuple[bool, str, int, float]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "kb"
        folder.mkdir()
        for name in ("owners.csv", "packages.csv"):
            (folder / name).write_bytes((claims.ROOT / "examples" / "debian" / name).read_bytes())
        (folder / "good.md").write_text("# Good\n\nText.")
        paragraph = ("The rules of the house are written down here, one after another. " * 16 + "\n\n").encode()
        with (folder / "big.txt").open("wb") as file:
            for _ in range(2**30 // (len(paragraph) * 1024) + 1):
                file.write(paragraph * 1024)
        recipe = recipe_in(folder, {"owners.csv": "package", "packages.csv": "package"}, "owners.csv")
        code, said, peak, seconds = train(recipe, Path(place) / "run", "passages")
        report = Path(place) / "run" / "01-passages" / "passages.report.json"
        why = said[-200:] if code else json.loads(report.read_text())["unread"].get("big.txt", "read")
    return code == 0 and "max_megabytes" in why, why, peak, seconds


def main() -> None:
    found = {name: document(name, reason) for name, (_, reason) in HOSTILE.items()}
    found |= {name: table(name, reason) for name, (_, reason) in HOSTILE_TABLES.items()}
    odd = {name: document(name, None) for name in ODD}
    big = {"1 GiB of text": gigabyte()}
    print("| input | ends as it should | what is said | peak MiB | seconds |\n|---|---|---|---|---|")
    for name, (right, why, peak, seconds) in (found | odd | big).items():
        shown = " ".join(printable(why).replace("|", "/").split())
        print(f"| `{printable(name)}` | {'yes' if right else 'NO'} | {shown} | {peak / 2**20:.0f} | {seconds:.1f} |")
    named = sum(right for right, *_ in found.values())
    claims.write("knowledge.hostile_inputs_named", named, f"of {len(found)}", COMMAND, [0])
    read = sum(right for right, *_ in odd.values())
    claims.write("knowledge.hostile_inputs_read", read, f"of {len(odd)} odd ones", COMMAND, [0])
    claims.write("knowledge.gigabyte_text_memory", round(big["1 GiB of text"][2] / 2**30, 2), "GiB, peak", COMMAND, [0])


if __name__ == "__main__":
    main()
