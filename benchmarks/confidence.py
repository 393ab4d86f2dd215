"""Does a policy's confidence tell right answers from wrong ones, and notice that its passage is missing?

    python benchmarks/confidence.py RUN...        finished runs, as runs/debian-0; the claims are of all that are kept

The composed policy answers the run's test questions again, and those on unseen bridges once more without the supporting
passage. What is found is kept in `confidence.json`, run by run. AUROC: how often the one of the two kinds is the surer
one of a pair; 0.5 says nothing, 1 everything.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import claims
from sklearn.metrics import roc_auc_score

from skillcompose.adapters import ATOMIC
from skillcompose.allocator import start_again
from skillcompose.evaluation.attribution import without_support
from skillcompose.evaluation.ladder import TestSet
from skillcompose.evaluation.summary import CONFIDENT
from skillcompose.metrics import exact_match
from skillcompose.models import load_merged, load_tokenizer
from skillcompose.pipeline import load_recipe
from skillcompose.progress import Progress
from skillcompose.prompts import prompt
from skillcompose.recall import Recall, answers
from skillcompose.run import Run
from skillcompose.stages import Work
from skillcompose.types import Fact, Question, Skill, read_json, read_jsonl, write_json

COMMAND = "python benchmarks/confidence.py RUN"
FILE = Path(__file__).parent / "confidence.json"


def measure(run: Run) -> dict[str, Any]:
    recipe = load_recipe(run)
    tests = TestSet(Work(recipe, run.folder, run, Progress()))
    base = recipe.base()
    model, tokenizer = load_merged(base, run.require("composition") / "composed"), load_tokenizer(base)
    facts = {fact.id: fact for fact in read_jsonl(run.stage("facts") / "facts.jsonl", Fact)}

    def ask(questions: Sequence[Question], what: str) -> list[tuple[bool, float]]:
        prompts = [prompt(q.text, q.passages) for q in questions]
        read, recall = [q.passages for q in questions], Recall.of(recipe)
        said = answers(model, tokenizer, prompts, read, recall, recipe.max_new_tokens, Progress(), what)
        return [(exact_match(one.text, q.answers), one.confidence) for one, q in zip(said, questions, strict=True)]

    found = {str(skill): ask(tests.atomic[skill], skill) for skill in ATOMIC}
    found[str(Skill.COMPLEMENTARY)] = ask(tests.headline, "unseen bridges")
    removed = ask([without_support(q, facts) for q in tests.headline if q.retrieved], "without support")
    there = [sure for (_, sure), q in zip(found[Skill.COMPLEMENTARY], tests.headline, strict=True) if q.retrieved]
    return {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "right": {name: by_confidence(rows) for name, rows in found.items()},
        "support": {
            "auroc": auroc([True] * len(there) + [False] * len(removed), there + [sure for _, sure in removed]),
            "above": {str(least): sum(sure >= least for _, sure in removed) for least in CONFIDENT},
            "asked": len(removed),
        },
        "commit": claims.commit(),
        "machine": claims.machine(),
    }


def by_confidence(rows: Sequence[tuple[bool, float]]) -> dict[str, Any]:
    above = {least: [right for right, sure in rows if sure >= least] for least in (0.0, *CONFIDENT)}
    return {
        "auroc": auroc([right for right, _ in rows], [sure for _, sure in rows]),
        "above": {str(least): [sum(right), len(right)] for least, right in above.items()},
    }


def auroc(yes: Sequence[bool], sure: Sequence[float]) -> float | None:
    return round(float(roc_auc_score(yes, sure)), 3) if len(set(yes)) == 2 else None


def main() -> None:
    start_again()
    found: dict[str, Any] = read_json(FILE) if FILE.is_file() else {}
    for folder in sys.argv[1:]:
        run = Run.open(Path(folder))
        record = found[run.folder.name] = measure(run)
        write_json(FILE, found)
        print(run.folder.name, record["right"], record["support"], sep="\n  ")
    for recipe in {record["recipe"] for record in found.values()}:
        seeds = {r["seed"]: r["right"][Skill.COMPLEMENTARY]["auroc"] for r in found.values() if r["recipe"] == recipe}
        if values := [value for value in seeds.values() if value]:
            name = f"{recipe.removesuffix('-cpu')}.confidence_auroc"
            claims.write(name, round(mean(values), 2), "AUROC, right from wrong, mean", COMMAND, sorted(seeds))


if __name__ == "__main__":
    main()
