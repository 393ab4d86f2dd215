"""What a recipe would do, cost and know, before it runs; and what it cost beside that afterwards."""

from dataclasses import asdict, dataclass
from pathlib import Path

from skillcompose.facts import extract
from skillcompose.pipeline import Step, plan
from skillcompose.planning.amounts import Amounts, amounts, counter
from skillcompose.planning.costs import Cost, costs, shapes
from skillcompose.planning.placement import capacity, places
from skillcompose.planning.rates import local, rates_of
from skillcompose.recipe import Recipe
from skillcompose.results import as_text
from skillcompose.run import STAGE_NAMES, Run
from skillcompose.types import Fact, read_json, write_json

PLAN = "plan.json"


@dataclass(frozen=True)
class Prediction:
    """`unknown` says why there are no seconds."""

    costs: dict[str, Cost]
    amounts: Amounts
    facts: list[Fact]
    layers: int
    unknown: str = ""


def predict(recipe: Recipe, run: Run, counted: bool, measure: bool = True) -> Prediction:
    """The costs of every stage. `counted`: the run's questions are those that will be asked. With `measure` this
    machine is measured when it has not been yet."""
    base = local(recipe.model, recipe)
    facts = extract(recipe).facts
    found = amounts(recipe, run, facts, counter(base), counted)
    rates, unknown = rates_of(recipe, measure)
    numbers = {name.partition(".layers.")[2].partition(".")[0] for name in shapes(base)} - {""}
    return Prediction(costs(recipe, found, rates, base), found, facts, len(numbers), unknown)


def store(recipe: Recipe, run: Run, counted: bool) -> None:
    """Write what is predicted into the run, to be compared with what it takes; nothing where nobody has measured."""
    if rates_of(recipe, measure=False)[0] is None:
        (run.folder / PLAN).unlink(missing_ok=True)  # of another machine or model
        return
    found = predict(recipe, run, counted, measure=False)
    stages = {name: asdict(cost) for name, cost in found.costs.items()}
    write_json(run.folder / PLAN, {"counted": found.amounts.counted, "stages": stages})


def explain(recipe: Recipe, folder: str | Path, force: str | None = None) -> str:
    """The plan as text: stages with their costs, relations with their places, what the weights are to hold."""
    steps = plan(recipe, folder, force)
    found = predict(recipe, Run(folder), not next(step.runs for step in steps if step.name == "questions"))
    rows = [["stage", "", "minutes", "memory", "disk", "why"]]
    for step in steps:
        cost = found.costs[step.name]
        shown = [minutes(cost.seconds), gib(cost.memory), mib(cost.disk)] if step.runs else ["", "", ""]
        rows.append([step.name, "run" if step.runs else "skip", *shown, step.reason])
    table = [
        ["relation", "place", "facts", "values", "joined", "remark"],
        *([p.relation, p.place, str(p.facts), str(p.values), str(p.joined), p.remark] for p in
          places(found.facts, recipe)),
    ]  # fmt: skip
    known = capacity(recipe, found.facts, found.amounts, found.layers)
    return "\n".join([as_text(rows), "", *_summary(steps, found), "", as_text(table), "", *known])


def _summary(steps: list[Step], found: Prediction) -> list[str]:
    left = [found.costs[step.name] for step in steps if step.runs]
    if not left:
        return ["Nothing is to be done."]
    more = f"checkpoints take {mib(max(cost.meanwhile for cost in left))} more meanwhile"
    if found.unknown:
        return [f"Minutes and memory are unknown: {found.unknown}.", f"Disk: {mib(sum(c.disk for c in left))}; {more}."]
    rows = "counted" if found.amounts.counted else "estimated from the facts until stage questions has run"
    return [
        f"In all {minutes(sum(cost.seconds or 0 for cost in left))} minutes, {gib(max(cost.memory for cost in left))} "
        f"at most, {mib(sum(cost.disk for cost in left))} on disk; {more}.",
        f"Measured on this machine; rows and tokens are {rows}.",
    ]


def spent(run: Run, now: dict[str, float] | None = None) -> list[list[str]]:
    """Stage, minutes that were predicted, minutes that it took (its last part, where it was interrupted), as rows of
    text. `now` has the seconds of stages that are not finished yet."""
    known = read_json(run.folder / PLAN)["stages"] if (run.folder / PLAN).is_file() else {}
    rows = [["stage", "predicted minutes", "took"]]
    sums = [0.0, 0.0]
    for name in STAGE_NAMES:
        record = run.record(name)
        took = record["seconds"] if record else (now or {}).get(name)
        predicted = known.get(name, {}).get("seconds")
        sums = [sums[0] + (predicted or 0), sums[1] + (took or 0)]
        rows.append([name, minutes(predicted), minutes(took)])
    return [*rows, ["in all", minutes(sums[0] if known else None), minutes(sums[1])]]


def minutes(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds / 60:.1f}"


def gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size else "?"


def mib(size: float) -> str:
    return f"{size / 2**20:.0f} MiB"
