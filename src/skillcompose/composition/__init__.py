"""Stage 6: exact merge of the two adapters, consolidation on a small mix of rows, the gate again, then GRPO.

`merged/` is the exact sum (it loses most of both skills), `start/` the consolidated policy that RL starts from,
`composed/` the average of GRPO's steps, the last that validation does not find clearly worse than the best;
`rollouts.jsonl` and `training.json` tell the story.
"""

import random

from skillcompose.adapters import ATOMIC, GENERAL, check_mastery, measure, read_general, train_adapter
from skillcompose.builtin import resolve
from skillcompose.composition.grpo import train_grpo
from skillcompose.composition.merge import merge_adapters
from skillcompose.composition.mixture import Mixture
from skillcompose.memory import release_memory
from skillcompose.models import load_adapter, load_base, load_tokenizer
from skillcompose.pipeline import Work
from skillcompose.types import Question, Skill, read_json, read_jsonl, write_json


def run(work: Work) -> None:
    recipe, settings = work.recipe, work.recipe.composition
    base = resolve(recipe.model, recipe.source.parent)
    tokenizer = load_tokenizer(base)
    merge_adapters([work.read("adapters") / skill for skill in ATOMIC], list(settings.weights), work.folder / "merged")
    folder = work.read("questions")
    kept = [skill for skill in ATOMIC if skill != settings.ablate]
    mixture = Mixture(
        {skill: read_jsonl(folder / f"{skill}.train.jsonl", Question) for skill in kept},
        [q for path in sorted(folder.glob(f"{Skill.COMPLEMENTARY}.*.jsonl")) for q in read_jsonl(path, Question)],
        read_general(work.read("adapters") / GENERAL),
    )
    start = work.folder / "start"
    train_adapter(
        base,
        tokenizer,
        mixture.blocks(settings.consolidation.rows, random.Random(f"consolidation {recipe.seed}")),
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
            questions = read_jsonl(folder / f"{skill}.validation.jsonl", Question)
            results[skill] = measure(model, tokenizer, questions, "default", settings.mastery.questions, work)
        write_json(work.folder / "mastery.json", results)
        del model
        release_memory()
    results = read_json(work.folder / "mastery.json")
    asked = {str(skill): results[skill] for skill in kept}
    check_mastery(asked, settings.mastery, "composition", work.allow_unmastered)
    train_grpo(work, base, tokenizer, mixture)
