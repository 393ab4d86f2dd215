"""The ladder as a table: used by the command line and the report, without loading a model."""

from pathlib import Path
from typing import Any

from skillcompose.types import Answer, Level, read_json

RUNGS = {
    "floor_majority": "floor: majority answer",
    "floor_own_value": "floor: the subject's own value",
    "floor_nearest_name": "floor: value of the nearest name",
    "untuned_chat": "untuned model, chat template, two examples, passages",
    "base_passages": "base + passages",
    "parametric": "parametric adapter",
    "contextual": "contextual adapter",
    "exact_sum": "exact sum",
    "start": "consolidated start",
    "traced": "after gold traces",
    "one_pass": "composed (GRPO), nothing asked again",
    "composed": "composed (GRPO)",
    "full_rag_untuned": "full RAG, two-step, untuned model",
    "full_rag_contextual": "full RAG, two-step, contextual adapter",
}


def percent(found: dict[str, Any] | None) -> str:
    if not found:
        return ""
    low, high = found["interval"]
    return f"{100 * found['share']:.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def counted(cells: list[dict[str, Any] | None]) -> str:
    """Few questions are on seen bridges, so their number is shown."""
    there = [found for found in cells if found]
    return f"{sum(c['correct'] for c in there)} of {sum(c['asked'] for c in there)}" if there else ""


def ladder_table(metrics: dict[str, Any]) -> list[list[str]]:
    """Rows of text, header first: the ladder on unseen bridges, and the atomic skills where a rung has them."""
    header = [
        "rung",
        *(level.value.replace("_", "-") for level in Level),
        "macro",
        "seen bridges",
        "closed book 1/2 hops",
        "passages 1/2 hops",
    ]
    rows = [header]
    for rung, label in RUNGS.items():
        found = metrics.get(rung)
        if found is None:
            continue
        unseen, seen = found.get("unseen", {}), found.get("seen", {})
        share = unseen.get("macro")
        rows.append(
            [
                label,
                *(percent(unseen.get(level.value)) for level in Level),
                "" if share is None else f"{100 * share:.0f}",
                counted([seen.get(level.value) for level in Level]),
                *(
                    "/".join(f"{100 * c['share']:.0f}" if c else "-" for c in found.get(skill, []))
                    for skill in ("parametric", "contextual")
                ),
            ]
        )
    return rows


def as_shown(folder: Path) -> str:
    """What the command line prints of a finished evaluation."""
    advice, metrics = read_json(folder / "breaks.json")["composed"]["advice"], read_json(folder / "metrics.json")
    parts = [
        "Exact match in percent on test questions; unseen bridges unless said otherwise; [95 % interval].",
        as_text(ladder_table(metrics)),
        probes_text(metrics),
        confidence_text(metrics["composed"]),
        advice,
        held_out_text(metrics["composed"]),
        f"Report: {folder / 'report.html'}",
    ]
    return "\n\n".join(filter(None, parts))


def probes_text(metrics: dict[str, Any]) -> str:
    """A line for each kind of probe that was asked; empty when none was."""
    lines = []
    for kind in ("reversed", "reworded"):
        shares = [f"{label} {percent(metrics[r][kind])}" for r, label in RUNGS.items() if kind in metrics.get(r, {})]
        lines += [f"{kind} probes: {', '.join(shares)}"] if shares else []
    return "\n".join(lines)


def confidence_text(found: dict[str, Any]) -> str:
    """How many answers on unseen bridges are so sure, and how many of them are right."""
    cells = {least: cell for least, cell in found.get("confident", {}).items() if cell}
    every = counted([found["unseen"][level.value] for level in Level]) if cells else ""
    parts = [f"of {least} and more: {cell['correct']} of {cell['asked']}" for least, cell in cells.items()]
    return f"Right answers by confidence: {every} in all; {'; '.join(parts)}." if parts else ""


def held_out_text(found: dict[str, Any]) -> str:
    """What measures generalisation costs the policy: paths that it was not trained on."""
    if not any(found.get("unseen", {}).get(level.value) for level in (Level.COMPOSITION, Level.ZERO_SHOT)):
        return ""
    return (
        "Composition and zero-shot ask paths that were kept from training. A policy to ship trains on every path: "
        "questions.hold_out=false."
    )


def as_text(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def as_markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def hops_shown(answer: Answer) -> str:
    """A line for each hop: what it says, and the place that it was read at; then how sure the policy is."""
    lines = []
    for hop in answer.hops:
        place = "in no passage"
        if hop.passage is not None:
            cited = answer.passages[hop.passage - 1].passage
            place = (
                f"{cited.source}#{cited.anchor}, {cited.position}"
                if cited.anchor
                else f"{cited.source}, {cited.position}"
            )
        lines.append(f"  {hop.text}  [{place}]\n")
    return "".join([*lines, f"  confidence {answer.confidence:.2f}\n"])
