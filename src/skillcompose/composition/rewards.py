"""The reward: the evaluation's exact match, and zero for what would game it; or a function of the user's."""

import importlib.util
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from skillcompose.errors import TrainingError
from skillcompose.metrics import exact_match
from skillcompose.prompts import final_answer
from skillcompose.recipe import Recipe

Reward = Callable[..., list[float | None]]


def own_reward(recipe: Recipe) -> Reward:
    """The function that `composition.reward` names, from a file beside the recipe or an installed module.

    Raises:
        TrainingError: There is no such module, it cannot be run, or there is no such function in it.
    """
    module_name, _, function = recipe.composition.reward.partition(":")
    file = recipe.reward_file
    try:
        spec = (
            importlib.util.spec_from_file_location(module_name, file)
            if file.is_file()
            else importlib.util.find_spec(module_name)
        )
    except ImportError:  # the package that it would be in is not there
        spec = None
    if spec is None or spec.loader is None:
        raise TrainingError(f"composition.reward: no module {module_name!r} beside the recipe, and none is installed")
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)  # dataclasses look there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # it is the user's
        why = f"{type(error).__name__}: {error}"
        raise TrainingError(f"composition.reward: {spec.origin} cannot be run: {why}") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise TrainingError(f"composition.reward: {spec.origin} has no function {function!r}")
    reward: Reward = found
    return reward


def exact_match_reward(
    completions: Sequence[str],
    *,
    answers: Sequence[Sequence[str]],
    max_answer_tokens: int = 40,
    completion_ids: Sequence[Sequence[int]] | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **columns: Any,
) -> list[float]:
    """1.0 for the right final answer, else 0.0; TRL's signature.

    A completion without a final line, with more than one, or with more tokens than allowed earns nothing. The share of
    the most frequent wrong answer is logged: it rises when the policy collapses. A right one may be as frequent as the
    value is in the table.

    >>> exact_match_reward(["It is abook.\\nSo: Rhonda D'Vine", "So: a\\nSo: b"], answers=[["Rhonda D'Vine"], ["b"]])
    [1.0, 0.0]
    """
    # One more than the limit: the end token counts among the ids.
    lengths = [len(ids) - 1 for ids in completion_ids] if completion_ids is not None else [0] * len(completions)
    rewards = [
        float(length <= max_answer_tokens and exact_match(text, gold))
        for text, gold, length in zip(completions, answers, lengths, strict=True)
    ]
    if log_metric is not None:
        wrong = [text for text, reward in zip(completions, rewards, strict=True) if not reward]
        said = Counter(final_answer(text) for text in wrong)
        log_metric("unreadable", said.pop(None, 0) / len(completions))
        log_metric("most_frequent_error", max(said.values(), default=0) / len(completions))
    return rewards
