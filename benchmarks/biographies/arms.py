"""The arms: ways to train a policy from the same questions, at equal tokens. See `run.py`."""

import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims
from arm import PATIENT, Arm

import skillcompose
from skillcompose.adapters import ATOMIC
from skillcompose.composition import trace_groups
from skillcompose.index import Retriever
from skillcompose.packing import by_passages
from skillcompose.questions.complementary import TRAIN_WORDINGS, two_source_walks, worded
from skillcompose.questions.proof import Proof
from skillcompose.sections import Traces
from skillcompose.types import Fact, Question, Skill, read_json, read_jsonl

RECIPE = claims.ROOT / "recipes" / "biographies-cpu.yaml"
FOLDER = claims.ROOT / "benchmarks" / "biographies"
CARRIER = "lawyer"  # of the register, in no path of the recipe


def default(arm: Arm) -> tuple[int, Path]:
    skillcompose.train(arm.recipe, arm.run.folder, allow_unmastered=True)
    composition = arm.run.stage("composition")
    return arm.atomic_tokens() + arm.composed_tokens(composition), composition / "composed"


def start_sft_comp(arm: Arm) -> tuple[int, Path]:
    """The main control: from the same start, gold traces of the same complementary questions, the same replay."""
    budget = arm.composed_tokens(arm.run.stage("composition"))
    return arm.atomic_tokens() + gold(arm, budget), arm.work.folder / "composed"


def rl_alone(arm: Arm) -> tuple[int, Path]:
    """From the same start, without gold traces and with half as many steps again: about as many tokens."""
    arm.without_traces(1.5)
    start = arm.run.stage("composition") / "start"
    return arm.atomic_tokens() + arm.composed(start), arm.work.folder / "composed"


def gold(arm: Arm, budget: int) -> int:
    traces = arm.recipe.composition.traces or Traces(sft={})
    groups = trace_groups(arm.questions(Skill.COMPLEMENTARY), traces.replay, arm.mixture, arm.seed)
    # Steps of eight groups, two at a time: with eight at once it ran out of 24 GiB.
    settings = arm.recipe.composition.consolidation.sft | {"gradient_accumulation_steps": 4}
    begin = arm.run.stage("composition") / "start"
    return arm.supervised("composed", groups, budget, settings, start=begin)


def joint(arm: Arm) -> tuple[int, Path]:
    """The published recipe: one LoRA on both atomic sets, no merge, then composed in the same way."""
    rng = random.Random(f"joint {arm.seed}")
    groups = [group for skill in ATOMIC for group in arm.atomic(skill)]
    groups, settings = rng.sample(groups, len(groups)), arm.recipe.adapters.parametric.sft
    spent = arm.supervised(
        "start", groups, arm.atomic_tokens(), settings, lora=arm.whole_lora, conversations=arm.general
    )
    return spent + arm.composed(arm.work.folder / "start"), arm.work.folder / "composed"


def start_sft_comp_rl(arm: Arm) -> tuple[int, Path]:
    """What RL adds where supervised training on the same questions came first (`diagnosis/pass_at_k.py` asks it)."""
    before = "start_sft_comp"
    folder = arm.work.folder.with_name(f"{arm.run.folder.name}-{before}") / "composed"
    if not folder.is_dir():
        raise SystemExit(f"{folder} is not there: remove {before}-{arm.seed}.json, and it is trained again")
    spent: int = read_json(FOLDER / f"{before}-{arm.seed}.json")["tokens"]
    arm.without_traces(1)
    return spent + arm.composed(folder), arm.work.folder / "composed"


def single(skill: Skill) -> Callable[[Arm], tuple[int, Path]]:
    """One adapter alone, then composed in the same way."""

    def train(arm: Arm) -> tuple[int, Path]:
        return arm.atomic_tokens() + arm.composed(arm.run.stage("adapters") / skill), arm.work.folder / "composed"

    return train


def consolidation_only(arm: Arm) -> tuple[int, Path]:
    """Is the merge decoration? A fresh LoRA on the consolidation's rows, then composed in the same way."""
    settings, groups = arm.recipe.composition.consolidation.sft, arm.consolidation
    spent = arm.supervised("start", groups, arm.tokens(groups), settings, lora=arm.recipe.adapters.contextual.lora)
    return spent + arm.composed(arm.work.folder / "start"), arm.work.folder / "composed"


def sum_grpo(arm: Arm) -> tuple[int, Path]:
    """No consolidation: composed from the sum of the adapters."""
    merged = arm.run.stage("composition") / "merged"
    return arm.atomic_tokens() + arm.composed(merged), arm.work.folder / "composed"


def sft_comp(arm: Arm) -> tuple[int, Path]:
    """Supervised from the bare base on complementary rows in which every weights fact of a test occurs."""
    return from_base(arm, [*arm.questions(Skill.COMPLEMENTARY), *carried(arm)])


def sft_mixed(arm: Arm) -> tuple[int, Path]:
    """The same beside the rows of both atomic skills."""
    atomic = [question for skill in ATOMIC for question in arm.questions(skill)]
    return from_base(arm, [*atomic, *arm.questions(Skill.COMPLEMENTARY), *carried(arm)])


def from_base(arm: Arm, questions: list[Question]) -> tuple[int, Path]:
    """One LoRA on these rows, with as many tokens as `default` needed in all."""
    groups = by_passages(questions)
    groups = random.Random(f"from base {arm.seed}").sample(groups, len(groups))
    budget = arm.atomic_tokens() + arm.composed_tokens(arm.run.stage("composition"))
    settings = arm.recipe.adapters.parametric.sft
    spent = arm.supervised("composed", groups, budget, settings, lora=arm.whole_lora)
    return spent, arm.work.folder / "composed"


def carried(arm: Arm) -> list[Question]:
    """Complementary rows about every weights fact: an index relation of their own leads to each known person."""
    weights = [name for name, relation in arm.recipe.facts.relations.items() if relation.place == "weights"]
    carriers = [f"{CARRIER} > {name}" for name in weights]
    overrides = {
        "seed": arm.seed,
        f"facts.relations.{CARRIER}": {"table": "register.csv", "column": CARRIER, "place": "index"},
        "questions": {"train": carriers},
    }
    recipe = skillcompose.Recipe.from_yaml(RECIPE, overrides)
    run = skillcompose.train(recipe, claims.ROOT / "runs" / f"biographies-{arm.seed}-carried", until="index")
    facts = read_jsonl(run.stage("facts") / "facts.jsonl", Fact)
    proof = Proof(facts, recipe, Retriever.load(run.stage("index"), recipe.beside))
    rng = random.Random(f"carried {arm.seed}")
    walks = [walk for found in two_source_walks(facts, recipe).values() for walk in found]
    return proof.keep([q for walk in walks for q in worded(walk, "train", TRAIN_WORDINGS, recipe, rng)], Counter())


ARMS: dict[str, Callable[[Arm], tuple[int, Path]]] = {
    "default": default,
    "start_sft_comp": start_sft_comp,
    "sft_comp": sft_comp,
    "sft_mixed": sft_mixed,
    "start_sft_comp_rl": start_sft_comp_rl,
    "rl_alone": rl_alone,
    "joint": joint,
    "parametric_only": single(Skill.PARAMETRIC),
    "contextual_only": single(Skill.CONTEXTUAL),
    "consolidation_only": consolidation_only,
    "sum_grpo": sum_grpo,
}
ARMS |= {f"{name}{PATIENT}": ARMS[name] for name in ("start_sft_comp", "sft_comp", "sft_mixed")}
"""Supervised ones again, until their validation stops rising."""
