"""Stage 6: exact merge of the two adapters, consolidation on a small atomic mix, the gate again, then GRPO.

`merged/` is the exact sum (it loses most of both skills), `start/` the consolidated policy that RL starts from,
`composed/` the checkpoint that answers most validation questions; `rollouts.jsonl` and
`training.json` tell the story.
"""

import random

from skillcompose.adapters import ATOMIC, atomic_rows, check_mastery, measure, train_adapter
from skillcompose.composition.grpo import train_grpo
from skillcompose.composition.merge import merge_adapters
from skillcompose.models import load_adapter, load_base, load_tokenizer, resolve
from skillcompose.pipeline import Work
from skillcompose.types import Question, Skill, read_json, read_jsonl, write_json


def run(work: Work) -> None:
    recipe, settings = work.recipe, work.recipe.composition
    base = resolve(recipe.model, recipe.source.parent)
    tokenizer = load_tokenizer(base)
    merge_adapters([work.read("adapters") / skill for skill in ATOMIC], list(settings.weights), work.folder / "merged")
    atomic = {s: read_jsonl(work.read("questions") / f"{s}.train.jsonl", Question) for s in ATOMIC}
    start = work.folder / "start"
    if not (start / "training.json").is_file():
        rows = atomic_rows(mixed(atomic, settings.consolidation.rows, recipe.seed))
        train_adapter(
            base,
            tokenizer,
            rows,
            start,
            work.folder / "work" / "start",
            settings.consolidation.sft,
            recipe.seed,
            work.progress,
            "consolidation",
            start=work.folder / "merged",
        )
    if not (work.folder / "mastery.json").is_file():
        model = load_adapter(load_base(base), start)
        results = {}
        for skill in ATOMIC:
            questions = read_jsonl(work.read("questions") / f"{skill}.validation.jsonl", Question)
            results[skill] = measure(model, tokenizer, questions, "default", settings.mastery.questions, work)
        write_json(work.folder / "mastery.json", results)
        del model
    check_mastery(read_json(work.folder / "mastery.json"), settings.mastery, "composition", work.allow_unmastered)
    train_grpo(work, base, tokenizer, atomic)


def mixed(atomic: dict[Skill, list[Question]], count: int, seed: int) -> list[Question]:
    """`count` rows, half of each skill, chains and single hops alternating, so that no skill drowns the other."""
    rng = random.Random(f"consolidation {seed}")
    chosen: list[Question] = []
    for skill in ATOMIC:
        for hops in (1, 2):
            pool = [q for q in atomic[skill] if q.hops == hops] or atomic[skill]
            chosen += rng.choices(pool, k=count // 4)
    rng.shuffle(chosen)
    return chosen
