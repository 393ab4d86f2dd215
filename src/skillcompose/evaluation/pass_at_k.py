"""pass@k: does RL reach what its start never reaches, or the same with fewer samples?

A sample counts when every hop sentence and the final answer are right: with the closed vocabularies of a table,
guessing the answer alone reaches 100 % at large k. The curve of guessing every hop is drawn beside.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from skillcompose.adapters.mastery import sample
from skillcompose.errors import RunError
from skillcompose.generation import Sampling, sample_counts
from skillcompose.metrics import bootstrap
from skillcompose.models import load_adapter, load_base, load_tokenizer, using
from skillcompose.pipeline import load_recipe
from skillcompose.progress import Progress
from skillcompose.prompts import prompt
from skillcompose.run import Run, digest, file_digest
from skillcompose.types import Fact, Level, Question, Skill, read_jsonl, write_json, write_text

MEET = 0.05
"""Curves whose distance is surely below this meet."""
TOGETHER = 8
"""Questions; each is but a few rows, as samples that agree are one."""
FEWEST = 20
"""Bridges; the bootstrap of fewer is too sure of itself."""
Counts = dict[str, int]
"""Question -> how many of its samples were right."""


def estimate(samples: int, right: int, k: int) -> float:
    """The chance that k of the samples, drawn without replacement, hold a right one (unbiased; arXiv 2107.03374).

    >>> estimate(4, 1, 2)
    0.5
    """
    return 1 - math.prod((samples - right - i) / (samples - i) for i in range(k)) if samples - right >= k else 1.0


def ladder_of_k(samples: int) -> list[int]:
    """1, 2, 4, ... up to the number of samples."""
    return [2**i for i in range(samples.bit_length()) if 2**i <= samples]


def count_right(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    adapter: str,
    questions: Sequence[Question],
    samples: int,
    max_new_tokens: int,
    progress: Progress,
    record: Path,
) -> Counts:
    """Sample every question so often at temperature 1; `record` keeps what is done, and the same call goes on from it.

    A sample is given up at the first word that differs from the gold reasoning: it can only be wrong, so nothing is
    biased, and most of the time is saved.
    """

    def text_of(ids: list[int]) -> str:
        return folded(tokenizer.decode(ids, skip_special_tokens=True))

    asked = {
        question.id: digest([prompt(question.text, question.passages), question.completion]) for question in questions
    }
    done = {}
    if record.is_file():
        lines = [line for line in record.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        # A killed process leaves half a line, which the next one would be written behind.
        write_text(record, "".join(line + "\n" for line in lines))
        known = [found for found in map(json.loads, lines) if found["samples"] == samples]
        done = {
            found["question"]: found["right"] for found in known if asked.get(found["question"]) == found.get("asked")
        }
    left = [question for question in questions if question.id not in done]
    parts = [left[i : i + TOGETHER] for i in range(0, len(left), TOGETHER)]
    with using(model, adapter), record.open("a", encoding="utf-8") as file:
        for part in progress.each(parts, f"samples of {adapter}", len(parts)):
            gold = [folded(question.completion) for question in part]

            def may_be_right(number: int, ids: list[int], gold: list[str] = gold) -> bool:
                return gold[number].startswith(text_of(ids).rstrip("\ufffd"))

            prompts = [prompt(question.text, question.passages) for question in part]
            encoded = tokenizer(prompts, add_special_tokens=False).input_ids
            drawn = sample_counts(model, tokenizer, encoded, samples, Sampling(max_new_tokens, 1.0), may_be_right)
            for question, text, rows in zip(part, gold, drawn, strict=True):
                right = sum(count for ids, count in rows if text_of(ids) == text)
                done[question.id] = right
                found = {"question": question.id, "asked": asked[question.id], "samples": samples, "right": right}
                file.write(json.dumps(found) + "\n")
            file.flush()
    return {question.id: done[question.id] for question in questions}


def folded(text: str) -> str:
    return " ".join(text.casefold().split())


def chance(question: Question, facts: dict[str, Fact], objects: dict[str, set[str]]) -> float:
    """The chance that guesses among each relation's objects get every hop right."""
    return math.prod(1 / len(objects[facts[fact_id].relation]) for fact_id in question.fact_ids)


def curves(
    questions: Sequence[Question], counts: dict[str, Counts], samples: int, facts: Sequence[Fact]
) -> dict[str, dict[str, list[Any]]]:
    """`{adapter or "chance": {"k", "share", "interval"}}`, intervals by bootstrap over bridges."""
    by_id = {fact.id: fact for fact in facts}
    objects: dict[str, set[str]] = defaultdict(set)
    for fact in facts:
        objects[fact.relation].add(fact.object)
    clusters, ks = [q.bridges[0] for q in questions], ladder_of_k(samples)
    found: dict[str, dict[str, list[Any]]] = {}
    for name, right in counts.items():
        shares = [[estimate(samples, right[q.id], k) for q in questions] for k in ks]
        found[name] = {
            "k": ks,
            "share": [round(sum(scores) / len(scores), 4) for scores in shares],
            "interval": [[round(end, 4) for end in bootstrap(scores, clusters)] for scores in shares],
        }
    guess = [chance(question, by_id, objects) for question in questions]
    guessed = [round(sum(1 - (1 - p) ** k for p in guess) / len(guess), 4) for k in ks]
    found["chance"] = {"k": ks, "share": guessed, "interval": []}
    return found


def verdict(questions: Sequence[Question], start: Counts, policy: Counts, samples: int) -> dict[str, Any]:
    """*synthesised*: at the largest k the policy is surely above its start; *amplified*: surely not by much.

    *undecided* otherwise, with few bridges, and where neither gets anything right. With the paired difference and its
    95 % interval.
    """
    k = ladder_of_k(samples)[-1]
    scores = [estimate(samples, policy[q.id], k) - estimate(samples, start[q.id], k) for q in questions]
    low, high = bootstrap(scores, [q.bridges[0] for q in questions], differences=True)
    word = "synthesised" if low > 0 else "amplified" if high < MEET else "undecided"
    if len({q.bridges[0] for q in questions}) < FEWEST or not any(policy[q.id] or start[q.id] for q in questions):
        word = "undecided"
    mean = sum(scores) / len(scores)
    return {"verdict": word, "k": k, "difference": round(mean, 4), "interval": [round(low, 4), round(high, 4)]}


def measure(
    run: Run,
    samples: int,
    per_level: int,
    progress: Progress | None = None,
    others: dict[str, Path] | None = None,
    levels: Sequence[Level] = tuple(Level),
) -> dict[str, Any]:
    """Curves of each level on unseen bridges, and a verdict on each policy.

    As `{level: {"questions", "curves", "verdicts"}}`. Also written to `diagnosis/pass_at_k.json` in the run; what is
    sampled stays there, adapter by adapter.

    Args:
        run: A finished run; its start and its composed policy are sampled.
        samples: Answers to each question.
        per_level: Questions of each level.
        progress: Bars; none are shown without.
        others: Further adapters of the same base, by a name for each.
        levels: Those to ask.
    """
    recipe, folder = load_recipe(run), run.folder / "diagnosis"
    folder.mkdir(exist_ok=True)
    asked = read_jsonl(run.require("questions") / f"{Skill.COMPLEMENTARY}.test.jsonl", Question)
    chosen = {
        level: sample([q for q in asked if q.level == level and not q.seen and q.retrieved], per_level, recipe.seed)
        for level in levels
    }
    if not any(chosen.values()):
        raise RunError(
            f"{run.folder} has no test question on an unseen bridge whose passage was found: nothing to sample"
        )
    base, composition = recipe.base(), run.require("composition")
    own = [name for name in ("start", "traced", "composed") if (composition / name).is_dir()]
    adapters = {name: composition / name for name in own} | (others or {})
    tokenizer = load_tokenizer(base)
    model = load_base(base)
    counts: dict[str, Counts] = {}
    for name, adapter in adapters.items():
        model = load_adapter(model, adapter, name)
        record = folder / f"{name}-{file_digest(adapter / 'adapter_model.safetensors')[:12]}.jsonl"
        questions = [question for level in chosen.values() for question in level]
        counts[name] = count_right(
            model, tokenizer, name, questions, samples, recipe.max_new_tokens, progress or Progress(), record
        )
    facts = read_jsonl(run.require("facts") / "facts.jsonl", Fact)
    found = {
        str(level): {
            "questions": len(questions),
            "curves": curves(questions, counts, samples, facts),
            "verdicts": {
                name: verdict(questions, counts["start"], right, samples)
                for name, right in counts.items()
                if name != "start"
            },
        }
        for level, questions in chosen.items()
        if questions
    }
    write_json(folder / "pass_at_k.json", found)
    return found


def named(folders: Sequence[Path]) -> dict[str, Path]:
    """Adapters by the folders they lie in: in every run there is one called `composed`.

    Raises:
        RunError: Two of the same name.
    """
    found = {re.sub(r"[^\w-]", "_", "-".join(path.resolve().parts[-3:])): path for path in folders}
    if len(found) < len(folders):
        raise RunError("--adapter: two folders of the same name; give each a name of its own")
    return found


def as_text(found: dict[str, Any]) -> str:
    """Per level a table of the curves, in percent, and the verdicts."""
    lines = []
    wide = max(len(name) for result in found.values() for name in result["curves"])
    for level, result in found.items():
        lines.append(f"{level.replace('_', '-')}, {result['questions']} questions")
        lines.append(f"{'k':>{wide}} " + " ".join(f"{k:>5}" for k in result["curves"]["chance"]["k"]))
        for name, curve in result["curves"].items():
            lines.append(f"{name:>{wide}} " + " ".join(f"{100 * share:5.0f}" for share in curve["share"]))
        for name, found_ in result["verdicts"].items():
            low, high = found_["interval"]
            difference = (
                f"{100 * found_['difference']:+.0f} points from the start [{100 * low:+.0f}, {100 * high:+.0f}]"
            )
            lines.append(f"{found_['verdict']}: at k = {found_['k']} {name} is {difference}")
        lines.append("")
    return "\n".join(lines).rstrip()
