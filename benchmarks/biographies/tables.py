"""RESULTS.md and its plot from the JSON of every arm that has finished.

python benchmarks/biographies/tables.py
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims

from skillcompose.types import Level, Skill, read_json, write_text

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDER = Path(__file__).parent
NOTES = FOLDER / "notes.md"
LADDER = ("base_passages", "start", "traced", "composed")
CONTROL = "start_sft_comp"
Row = dict[str, Any]


def main() -> None:
    records = [read_json(path) for path in sorted(FOLDER.glob("*-*.json"))]
    rows = [
        dict(zip(record["columns"], row, strict=True)) | {"seed": record["seed"]}
        for record in records
        for row in record["predictions"]
    ]
    arms = list(dict.fromkeys(r["arm"] for r in records if r["arm"] != "default"))
    rungs = [rung for rung in (*LADDER, *arms) if any(row["rung"] == rung for row in rows)]
    parts = [
        "# Synthetic biographies: what was measured",
        "Written by `python benchmarks/biographies/tables.py` from the JSON files beside it, which "
        "`python benchmarks/biographies/run.py` leaves, one arm a call. Exact match in percent; in brackets the 95 % "
        "interval of a bootstrap over bridges; `composed` is the recipe's policy.",
        "## Unseen bridges",
        levels(rows, rungs, lambda row: not row["seen"]),
        "![exact match by arm](levels.png)",
        "## Seen bridges",
        levels(rows, rungs, lambda row: row["seen"]),
        "## Differences, paired, unseen bridges",
        differences(
            rows,
            [("composed", rung) for rung in rungs if rung != "composed"]
            + [(rung, CONTROL) for rung in rungs if CONTROL in rungs and rung not in (*LADDER, CONTROL)],
        ),
        "## By number of hops, unseen bridges",
        by_hops(rows, rungs),
        "## Path by path, unseen bridges",
        paths(rows, [rung for rung in rungs if rung != "base_passages"]),
        "## Atomic skills",
        atomic(rows, ["parametric", "contextual", *rungs]),
        "## Cost",
        cost(records),
        NOTES.read_text(encoding="utf-8").strip(),
    ]
    write_text(FOLDER / "RESULTS.md", "\n\n".join(parts) + "\n")
    plot(rows, rungs)


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(rows: list[Row], rungs: list[str]) -> str:
    asked = sum(row["rung"] == rungs[0] for row in rows)
    if not asked:
        return ""
    value, (low, high) = claims.score(rows, rungs)
    return f"{value:.1f} [{low:.0f}, {high:.0f}] of {asked}"


def complementary(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["skill"] == Skill.COMPLEMENTARY]


def levels(rows: list[Row], rungs: list[str], of: Callable[[Row], bool]) -> str:
    asked = [row for row in complementary(rows) if of(row)]
    by_level = {level: [row for row in asked if row["level"] == level] for level in Level}
    lines = [[rung, *(cell(some, [rung]) for some in by_level.values())] for rung in rungs]
    return table(["arm", *(level.replace("_", "-") for level in Level)], lines)


def differences(rows: list[Row], pairs: list[tuple[str, str]]) -> str:
    asked = [row for row in complementary(rows) if not row["seen"]]
    by_level = {level: [row for row in asked if row["level"] == level] for level in Level}
    lines = []
    for pair in pairs:
        # Only seeds that have both.
        seeds = set.intersection(*({row["seed"] for row in asked if row["rung"] == rung} for rung in pair))
        both = [[row for row in some if row["seed"] in seeds] for some in (*by_level.values(), asked)]
        lines.append([" - ".join(pair), *(cell(some, list(pair)) for some in both)])
    return table(["difference", *(level.replace("_", "-") for level in Level), "macro"], lines)


def by_hops(rows: list[Row], rungs: list[str]) -> str:
    """Macro-averages over the levels."""
    asked = [row for row in complementary(rows) if not row["seen"]]
    found = sorted({row["hops"] for row in asked})
    lines = [[rung, *(cell([row for row in asked if row["hops"] == hops], [rung]) for hops in found)] for rung in rungs]
    return table(["arm", *(f"{hops} hops" for hops in found)], lines)


def paths(rows: list[Row], rungs: list[str]) -> str:
    """Right answers of those asked, the seeds together."""
    asked = [row for row in complementary(rows) if not row["seen"]]
    found = sorted({(list(Level).index(row["level"]), row["hops"], row["path"]) for row in asked})
    lines = []
    for level, hops, path in found:
        right = [[row["correct"] for row in asked if (row["path"], row["rung"]) == (path, rung)] for rung in rungs]
        cells = [f"{sum(own)} of {len(own)}" if own else "" for own in right]
        lines.append([path, list(Level)[level].replace("_", "-"), str(hops), *cells])
    return table(["path", "level", "hops", *rungs], lines)


def atomic(rows: list[Row], rungs: list[str]) -> str:
    kinds = [(skill, hops) for skill in (Skill.PARAMETRIC, Skill.CONTEXTUAL) for hops in (1, 2)]
    lines = []
    for rung in rungs:
        by_kind = [[row for row in rows if (row["skill"], row["hops"]) == kind] for kind in kinds]
        cells = [cell(some, [rung]) for some in by_kind]
        if any(cells):
            lines.append([rung, *cells])
    return table(["arm", *(f"{skill}, {hops} hop{'s' * (hops - 1)}" for skill, hops in kinds)], lines)


def cost(records: list[Row]) -> str:
    lines = []
    for record in records:
        probe = f"{sum(record['probe'])} of {len(record['probe'])}"
        minutes = sum(record["seconds"].values()) / 60 if "seconds" in record else record["minutes"]
        alone = "seconds" in record or record["arm"] != "default"
        took = f"{minutes:.0f}" if alone else f"{minutes:.0f} (in part, or beside another arm)"
        found = [record["arm"], str(record["seed"]), f"{record['tokens'] / 1e6:.2f}", took, probe]
        lines.append([*found, f"{record['commit']}, {record['machine']}", record["failure"] or ""])
    for record in records:
        if "probe_base" in record:
            found = ["the base model", str(record["seed"]), "", ""]
            lines.append([*found, f"{sum(record['probe_base'])} of {len(record['probe_base'])}", "", ""])
    header = ["arm", "seed", "million tokens", "minutes", "general questions", "commit, machine", "failed"]
    return table(header, lines)


def plot(rows: list[Row], rungs: list[str]) -> None:
    """Bars pool the seeds, with the bootstrap's interval; a dot is one seed."""
    asked = [row for row in complementary(rows) if not row["seen"]]
    figure, axes = plt.subplots(1, len(Level), figsize=(3.4 * len(Level), 0.9 + 0.36 * len(rungs)), sharey=True)
    for axis, level in zip(axes, Level, strict=True):
        for place, rung in enumerate(reversed(rungs)):
            some = [row for row in asked if row["level"] == level and row["rung"] == rung]
            if not some:
                continue
            value, (low, high) = claims.score(some, [rung])
            colour = "tab:blue" if rung == "composed" else "lightsteelblue"
            # A macro-average's bootstrap need not hold its centre.
            error = [[max(0, value - low)], [max(0, high - value)]]
            axis.barh(place, value, color=colour, xerr=error, ecolor="grey", capsize=2)
            for seed in sorted({row["seed"] for row in some}):
                own, _ = claims.score([row for row in some if row["seed"] == seed], [rung])
                axis.plot(own, place, ".", color="black", markersize=5)
        axis.set(title=level.replace("_", "-"), xlim=(0, 100), xlabel="exact match, %")
    axes[0].set_yticks(range(len(rungs)), list(reversed(rungs)))
    figure.tight_layout()
    figure.savefig(FOLDER / "levels.png", dpi=110)


if __name__ == "__main__":
    main()
