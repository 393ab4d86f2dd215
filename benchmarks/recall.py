"""Where a fact is recalled best: alone, beside passages, or as the second sentence of an answer.

    python benchmarks/recall.py RUN        a finished run, as runs/debian-0

The facts are those that the run's two-hop test questions on unseen bridges end at; the wordings are held out. Written
in one go: nothing is asked again.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import claims

from skillcompose.allocator import start_again
from skillcompose.generation import completions
from skillcompose.metrics import exact_match
from skillcompose.models import load_merged, load_tokenizer
from skillcompose.pipeline import load_recipe
from skillcompose.progress import Progress
from skillcompose.prompts import prompt
from skillcompose.questions.wordings import asked
from skillcompose.recipe import path_relations
from skillcompose.run import Run
from skillcompose.types import Question, read_jsonl


def main() -> None:
    start_again()
    run = Run.open(Path(sys.argv[1]))
    recipe = load_recipe(run)
    base = recipe.base()
    model, tokenizer = load_merged(base, run.require("composition") / "composed"), load_tokenizer(base)
    every = read_jsonl(run.require("questions") / "complementary.test.jsonl", Question)
    chosen = [question for question in every if not question.seen and question.hops == 2]
    last = [asked(path_relations(q.path)[-1], "test", recipe)[0][1].format(subject=q.bridges[0]) for q in chosen]
    prompts = {
        "alone": [prompt(text) for text in last],
        "beside": [prompt(text, q.passages) for text, q in zip(last, chosen, strict=True)],
        "second": [prompt(q.text, q.passages) for q in chosen],
    }
    for place, texts in prompts.items():
        said = completions(model, tokenizer, texts, recipe.max_new_tokens, Progress(), place)
        right = sum(exact_match(one.text, q.answers) for one, q in zip(said, chosen, strict=True))
        print(f"{place}: {right} of {len(chosen)}")
        name = f"{recipe.name.removesuffix('-cpu')}.recalled_{place}"
        share = round(100 * right / len(chosen), 1)
        claims.write(name, share, "% exact match", "python benchmarks/recall.py RUN", [recipe.seed])


if __name__ == "__main__":
    main()
