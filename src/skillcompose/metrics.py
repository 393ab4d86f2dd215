"""Exact match, the one metric: the mastery gate, the reward, the checkpoint choice and the evaluation all use it."""

import random
from collections import defaultdict
from collections.abc import Sequence

from skillcompose.prompts import FINAL, final_answer, normalise

BOOTSTRAP = 2000


def exact_match(completion: str, answers: Sequence[str]) -> bool:
    """Whether the final line is one of the answers, after normalisation; no readable final line never matches.

    >>> exact_match("The package is abook.\\nSo: Rhonda D'Vine", ["rhonda d'vine"])
    True
    """
    answer = final_answer(completion)
    return answer is not None and normalise(answer) in {normalise(gold) for gold in answers}


def lenient_match(completion: str, answers: Sequence[str]) -> bool:
    """For models that were not taught the format: the first final line, or else the last line that says anything.

    The first, because nothing ends what such a model writes: it repeats the line, or asks itself another question, and
    what stands last is cut at the token limit.
    """
    lines = [line.strip() for line in completion.splitlines() if line.strip()]
    if not lines:
        return False
    said = next((line for line in lines if line.startswith(FINAL)), lines[-1])
    return normalise(said.split(FINAL.strip())[-1]) in {normalise(gold) for gold in answers}


def macro_mean(pairs: Sequence[tuple[str, float]]) -> float:
    """Mean over strata of each stratum's mean."""
    strata: dict[str, list[float]] = defaultdict(list)
    for stratum, score in pairs:
        strata[stratum].append(score)
    return sum(sum(found) / len(found) for found in strata.values()) / max(1, len(strata))


def bootstrap(
    scores: Sequence[float],
    clusters: Sequence[str],
    strata: Sequence[str] | None = None,
    seed: int = 0,
    differences: bool = False,
) -> tuple[float, float]:
    """95 % interval of the mean, resampling whole clusters: questions about one bridge are not independent.

    With `strata` the mean is the macro-average over them. Scores that are all 0, or all 1, have the exact interval of
    so many clusters: what no cluster showed is not known to be impossible. So have `differences` of such scores.
    """
    pools: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for score, cluster, stratum in zip(scores, clusters, strata or [""] * len(scores), strict=True):
        pools[cluster].append((stratum, score))
    names = list(pools)
    if not names:
        return 0.0, 0.0
    if len(set(scores)) == 1 and scores[0] in (-1, 0, 1):
        room = 1 - 0.025 ** (1 / len(names))
        return max(-1.0 if differences else 0.0, scores[0] - room), min(1.0, scores[0] + room)
    rng = random.Random(seed)
    means = sorted(
        macro_mean([pair for name in rng.choices(names, k=len(names)) for pair in pools[name]])
        for _ in range(BOOTSTRAP)
    )
    return means[int(0.025 * BOOTSTRAP)], means[int(0.975 * BOOTSTRAP) - 1]
