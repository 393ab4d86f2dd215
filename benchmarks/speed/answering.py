"""Answering as the evaluation does it, against one question at a time and against batches through `generate`.

    python benchmarks/speed/answering.py        the claims `speed.evaluation_*`; needs the demo's finished run

All three get the demo's base and composed adapter, and the same test questions with their passages. In fp32 the
answers must be identical. Stock merges the adapter, and is timed in fp32 and in bf16; the faster counts. `batches` are
16 left-padded prompts of similar length.
"""

import argparse
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims
from stock import in_own_process

QUESTIONS, BATCH, SEED = 48, 16, 0
SIDES = ("single", "batches", "ours")


def side(name: str, run: Path) -> None:
    """Runs in a process of its own; prints seconds and answers as JSON."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from skillcompose.builtin import resolve
    from skillcompose.generation import answer_texts
    from skillcompose.machine import fast_dtype
    from skillcompose.models import load_adapter, load_base, load_tokenizer, quiet_libraries, using
    from skillcompose.pipeline import load_recipe
    from skillcompose.prompts import prompt
    from skillcompose.run import Run
    from skillcompose.types import Question, read_jsonl

    recipe, adapter = load_recipe(Run.open(run)), run / "06-composition" / "composed"
    folder = resolve(recipe.model)
    tokenizer = load_tokenizer(folder)
    model: Any
    if name == "ours":
        model = load_adapter(load_base(folder), adapter)
    else:
        quiet_libraries()
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=fast_dtype())
        model = PeftModel.from_pretrained(base, adapter).merge_and_unload()
    skills = ("parametric", "contextual", "complementary")
    asked = [q for s in skills for q in read_jsonl(run / "04-questions" / f"{s}.test.jsonl", Question)]
    prompts = [prompt(q.text, q.passages) for q in random.Random(SEED).sample(asked, min(QUESTIONS, len(asked)))]

    def generated(texts: list[str]) -> list[str]:
        batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        with torch.no_grad():
            rows = model.generate(
                **batch,
                max_new_tokens=recipe.max_new_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )
        found: list[str] = tokenizer.batch_decode(rows[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in found]

    def answers() -> list[str]:
        if name == "ours":
            with using(model, "default"):
                return answer_texts(model, tokenizer, prompts, recipe.max_new_tokens)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        size = BATCH if name == "batches" else 1
        texts = dict[int, str]()
        for i in range(0, len(order), size):
            rows = order[i : i + size]
            texts |= zip(rows, generated([prompts[row] for row in rows]), strict=True)
        return [texts[i] for i in range(len(prompts))]

    begin = time.monotonic()
    texts = answers()
    print(json.dumps({"seconds": time.monotonic() - begin, "answers": texts}))


def measure(name: str, run: Path, dtype: str | None = None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(in_own_process(__file__, "--side", name, "--run", run, dtype=dtype))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=claims.ROOT / "runs" / "quickstart")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--side", choices=SIDES)
    options = parser.parse_args()
    if options.side:
        side(options.side, options.run)
        return
    exact = {name: measure(name, options.run, "float32")["answers"] for name in SIDES}
    for name in SIDES[:-1]:
        differing = sum(a != b for a, b in zip(exact[name], exact["ours"], strict=True))
        if differing:
            raise SystemExit(f"{differing} of {QUESTIONS} answers differ from {name} in fp32")
    faster: dict[str, str | None] = {"ours": None}
    for name in SIDES[:-1]:
        trials = {dtype: measure(name, options.run, dtype)["seconds"] for dtype in ("float32", "bfloat16")}
        faster[name] = min(trials, key=trials.__getitem__)
        print(f"{name}: {', '.join(f'{dtype} {seconds:.1f} s' for dtype, seconds in trials.items())}")
    turns = [[measure(name, options.run, faster[name])["seconds"] for name in SIDES] for _ in range(options.repeats)]
    single, batches, ours = (statistics.median(times) for times in zip(*turns, strict=True))
    print(f"{QUESTIONS} questions: one at a time {single:.1f} s, batches {batches:.1f} s, ours {ours:.1f} s")
    command = "python benchmarks/speed/answering.py"
    claims.write("speed.evaluation_ratio", round(single / ours, 2), "times one at a time", command, [SEED])
    claims.write("speed.evaluation_ratio_batches", round(batches / ours, 2), "times batches of 16", command, [SEED])


if __name__ == "__main__":
    main()
