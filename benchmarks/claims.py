"""`results.json`: claim -> value, unit, interval, seeds, command, commit, date, machine. Scripts write it, nobody else.

python benchmarks/claims.py        rewrite the tables between the `results` marks of the README
"""

import json
import re
import subprocess
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results.json"
MARKS = re.compile(r"(<!-- results: ([\w.* ]+) -->\n).*?(<!-- /results -->)", re.S)


def read() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


def write(
    claim: str, value: float, unit: str, command: str, seeds: list[int], interval: list[float] | None = None
) -> None:
    """Record one claim; the commit is the one that the working tree stands on."""
    results = read()
    results[claim] = {
        "value": value,
        "unit": unit,
        "interval": interval,
        "seeds": seeds,
        "command": command,
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
    }
    RESULTS.write_text(json.dumps(dict(sorted(results.items())), indent=2) + "\n")
    rewrite_readme()


def score(rows: list[dict[str, Any]], rungs: list[str]) -> tuple[float, list[float]]:
    """Share of the first rung, or the paired difference of two, in percent, with a 95 % bootstrap over bridges.

    Macro-averaged over levels (atomic questions have none); a question counts only if every rung answered it.
    """
    from skillcompose.metrics import bootstrap, macro_mean

    answers: dict[tuple[int, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        answers[row["seed"], row["question"]][row["rung"]] = row
    scores, clusters, levels = [], [], []
    for (seed, question), found in answers.items():
        if all(rung in found for rung in rungs):
            first, *other = (found[rung] for rung in rungs)
            scores.append(float(first["correct"]) - sum(float(row["correct"]) for row in other))
            clusters.append(f"{seed} {first['bridge'] or question}")
            levels.append(first["level"] or "")
    low, high = bootstrap(scores, clusters, levels, differences=len(rungs) > 1)
    return 100 * macro_mean(list(zip(levels, scores, strict=True))), [round(100 * low, 1), round(100 * high, 1)]


def commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()


def machine() -> str:
    from skillcompose.machine import memory, processor

    return f"{processor()}, {memory():.0f} GiB"


def by_dtype(claim: str) -> str:
    """Times where bf16 is not the faster one are claims of their own, beside those of machines where it is."""
    import torch

    from skillcompose.machine import fast_dtype

    return claim if fast_dtype() == torch.bfloat16 else f"{claim}_fp32"


def measured_here(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of this machine, which a claim names: the minutes of two machines have no mean."""
    return [record for record in records if record["machine"] == machine()]


def table(patterns: str) -> str:
    results = read()
    rows = ["| claim | value | 95 % interval | seeds | machine | commit, date |", "|---|---|---|---|---|---|"]
    for claim, found in results.items():
        if any(re.fullmatch(p.replace(".", r"\.").replace("*", ".*"), claim) for p in patterns.split()):
            low_high = "" if found["interval"] is None else f"{found['interval'][0]:g} to {found['interval'][1]:g}"
            seeds = ", ".join(map(str, found["seeds"]))
            rows.append(
                f"| `{claim}` | {found['value']:g} {found['unit']} | {low_high} | {seeds} | {found['machine']} "
                f"| {found['commit']}, {found['date']} |"
            )
    return "\n".join(rows) + "\n"


def rendered(text: str) -> str:
    return MARKS.sub(lambda found: found.group(1) + table(found.group(2)) + found.group(3), text)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs calls it for every page of `docs/`: tables stand there between the same marks."""
    return rendered(markdown)


def rewrite_readme() -> None:
    readme = ROOT / "README.md"
    readme.write_text(rendered(readme.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    rewrite_readme()
