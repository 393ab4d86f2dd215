"""Stage 6: exact merge of the two adapters, consolidation on a small mix of rows, the gate again, traces, then GRPO.

`merged/` is the exact sum (it loses most of both skills), `start/` the consolidated policy that holds both skills and
has composed nothing yet, `traced/` what a short supervised pass over gold traces makes of it, `composed/` the average
of GRPO's steps, the last that validation does not find clearly worse than the best; `rollouts.jsonl` and
`training.json` tell the story.
"""

import random
import shutil
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from skillcompose.adapters import ATOMIC, GENERAL, check_mastery, measure, read_general, train_adapter
from skillcompose.composition.grpo import train_grpo
from skillcompose.composition.merge import merge_adapters
from skillcompose.composition.mixture import Mixture
from skillcompose.memory import release_memory
from skillcompose.models import load_adapter, load_base, load_tokenizer
from skillcompose.packing import Group, by_passages
from skillcompose.stages import Work
from skillcompose.training import check_questions, check_settings, complementary_questions
from skillcompose.types import Question, Skill, read_json, read_jsonl, write_json


def run(work: Work) -> None:
    recipe, settings = work.recipe, work.recipe.composition
    check_settings(recipe)
    check_questions(work)
    base = recipe.base()
    tokenizer = load_tokenizer(base)
    merge_adapters([work.read("adapters") / skill for skill in ATOMIC], list(settings.weights), work.folder / "merged")
    folder = work.read("questions")
    kept = [skill for skill in ATOMIC if skill != settings.ablate]
    mixture = Mixture(
        {skill: read_jsonl(folder / f"{skill}.train.jsonl", Question) for skill in kept},
        [q for path in sorted(folder.glob(f"{Skill.COMPLEMENTARY}.*.jsonl")) for q in read_jsonl(path, Question)],
        read_general(work.read("adapters") / GENERAL),
    )
    blocks = mixture.blocks(settings.consolidation.rows, random.Random(f"consolidation {recipe.seed}"))
    start = work.folder / "start"
    train_adapter(work, "start", blocks, settings.consolidation.sft, "consolidation", start=work.folder / "merged")
    record, count = work.folder / "mastery.json", settings.mastery.questions
    found = read_json(record) if record.is_file() else {}
    if not found or any(row.get("of") != count for rows in found.values() for row in rows):
        model = load_adapter(load_base(base), start)
        for skill in ATOMIC:
            questions = read_jsonl(folder / f"{skill}.validation.jsonl", Question)
            found[str(skill)] = measure(model, tokenizer, questions, "default", count, work)
        write_json(record, found)
        del model
        release_memory()
    asked = {str(skill): found[str(skill)] for skill in kept}
    check_mastery(asked, settings.mastery, "composition", work.allow_unmastered)
    compose(work, base, tokenizer, mixture, start)


def compose(work: Work, base: str, tokenizer: PreTrainedTokenizerBase, mixture: Mixture, start: Path) -> None:
    """Gold traces, where the recipe has them, and GRPO: from an adapter with both skills to `composed/`."""
    settings, folder = work.recipe.composition.traces_used, work.folder / "traced"
    questions = complementary_questions(work)
    if settings is None:
        shutil.rmtree(folder, ignore_errors=True)  # of other settings
    else:
        groups = trace_groups(questions, settings.replay, mixture, work.recipe.seed)
        train_adapter(work, "traced", groups, settings.sft, "gold traces", start=start)
        start = folder
    train_grpo(work, base, tokenizer, mixture, questions, start)


def trace_groups(questions: list[Question], replay: int, mixture: Mixture, seed: int) -> list[Group]:
    """Gold traces of the questions, and so many atomic rows for each, which keep both skills."""
    rng = random.Random(f"traces {seed}")
    groups = by_passages(questions) + mixture.blocks(replay * len(questions), rng)
    return rng.sample(groups, len(groups))
