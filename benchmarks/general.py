"""What did training forget? 200 general questions in the chat template, to the base and to each adapter of a run.

    python benchmarks/general.py RUN...        finished runs, as runs/debian-0

How many each answers is kept in `general.json`, run by run; a claim is what the composed policies of a recipe's runs
lose against the base. An answer is right when the gold one is in it.
"""

import json
import sys
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import claims
from transformers import PreTrainedTokenizerBase

from skillcompose.allocator import start_again
from skillcompose.generation import completions
from skillcompose.models import in_template, load_adapter, load_base, load_tokenizer, using
from skillcompose.pipeline import load_recipe
from skillcompose.progress import Progress
from skillcompose.prompts import mentions
from skillcompose.run import Run
from skillcompose.types import read_json, write_json

COMMAND = "python benchmarks/general.py RUN"
QUESTIONS, FILE = (Path(__file__).parent / name for name in ("general.jsonl", "general.json"))
TOKENS = 40
ADAPTERS = {"parametric": "adapters", "contextual": "adapters"} | dict.fromkeys(
    ("merged", "start", "composed"), "composition"
)


def answered(base: str, tokenizer: PreTrainedTokenizerBase, adapter: Path | None, progress: Progress) -> list[bool]:
    """Which of the questions the base, or the base with an adapter, answers."""
    rows = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    prompts = [in_template(tokenizer, [{"role": "user", "content": row["question"]}]) for row in rows]
    model = load_base(base)
    with using(load_adapter(model, adapter), "default") if adapter else nullcontext():
        said = completions(model, tokenizer, prompts, TOKENS, progress, "general questions")
    return [any(mentions(one.text, gold) for gold in row["answers"]) for one, row in zip(said, rows, strict=True)]


def measure(run: Run) -> dict[str, Any]:
    recipe = load_recipe(run)
    base = recipe.base()
    policies: dict[str, Path | None] = {"base": None}
    policies |= {name: run.require(stage) / name for name, stage in ADAPTERS.items()}
    tokenizer = load_tokenizer(base)
    right = {name: sum(answered(base, tokenizer, adapter, Progress())) for name, adapter in policies.items()}
    return {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "answered": right,
        "questions": len(QUESTIONS.read_text(encoding="utf-8").splitlines()),
        "commit": claims.commit(),
        "machine": claims.machine(),
    }


def main() -> None:
    start_again()
    found: dict[str, Any] = read_json(FILE) if FILE.is_file() else {}
    for folder in sys.argv[1:]:
        run = Run.open(Path(folder))
        found[run.folder.name] = measure(run)
        write_json(FILE, found)
    print("| run | questions | base | " + " | ".join(ADAPTERS) + " |\n" + "|---" * 8 + "|")
    recipes: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, record in found.items():
        print(f"| {name} | {record['questions']} | " + " | ".join(map(str, record["answered"].values())) + " |")
        recipes[record["recipe"]].append(record)
    for recipe in {found[Path(folder).name]["recipe"] for folder in sys.argv[1:]}:  # the others are of older commits
        records = recipes[recipe]
        lost = [100 * (r["answered"]["base"] - r["answered"]["composed"]) / r["questions"] for r in records]
        seeds = [record["seed"] for record in records]
        claim = f"{recipe.removesuffix('-cpu')}.general_probe_loss"
        claims.write(claim, round(sum(lost) / len(lost), 1), "points", COMMAND, seeds)


if __name__ == "__main__":
    main()
