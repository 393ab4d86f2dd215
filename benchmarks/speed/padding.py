"""How much of what the demo's adapters are trained on is padding.

    python benchmarks/speed/padding.py        the claims `speed.padding_*`; needs the demo's run up to its questions

Counted over one epoch, in the order and the batches of training.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims

from skillcompose.adapters import ATOMIC
from skillcompose.adapters.sft import training_order
from skillcompose.builtin import resolve
from skillcompose.models import load_tokenizer
from skillcompose.packing import by_passages, packed
from skillcompose.pipeline import load_recipe
from skillcompose.run import Run
from skillcompose.types import Question, read_jsonl

COMMAND = "python benchmarks/speed/padding.py"


def main() -> None:
    run = Run.open(claims.ROOT / "runs" / "quickstart")
    recipe = load_recipe(run)
    tokenizer = load_tokenizer(resolve(recipe.model))
    for skill in ATOMIC:
        batch = getattr(recipe.adapters, skill).sft["per_device_train_batch_size"]
        groups = by_passages(read_jsonl(run.stage("questions") / f"{skill}.train.jsonl", Question))
        ordered = training_order([packed(group, tokenizer) for group in groups], 1, batch, recipe.seed)
        sizes = [len(sequence["input_ids"]) for sequence in ordered]
        batches = [sizes[i : i + batch] for i in range(0, len(sizes), batch)]
        padding = sum(max(some) * len(some) for some in batches) / sum(sizes) - 1
        print(f"{skill}: {sum(sizes)} tokens, {100 * padding:.1f} % more with padding")
        claims.write(f"speed.padding_{skill}", round(100 * padding, 1), "% of the tokens", COMMAND, [recipe.seed])


if __name__ == "__main__":
    main()
