"""Retrieval in several steps: what an answer's hop leads to is looked up, and the question is answered again."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from skillcompose.conversation import entities, is_name
from skillcompose.prompts import normalise, sentences
from skillcompose.types import Passage, ScoredPassage

Hits = list[list[ScoredPassage]]


def by_title(passages: Iterable[Passage]) -> dict[str, list[Passage]]:
    """Normalised title -> its passages."""
    titled: dict[str, list[Passage]] = defaultdict(list)
    for passage in passages:
        title = normalise(passage.title)
        if is_name(title):
            titled[title].append(passage)
    return dict(titled)


def in_steps(
    questions: Sequence[str],
    first: Hits,
    answer: Callable[[Hits], list[str]],
    search: Callable[[list[str], int], Hits],
    titled: Mapping[str, list[Passage]],
    k: int,
    steps: int,
) -> Hits:
    """What each question is read with in the end: new passages first, those of the steps before behind them.

    Args:
        questions: What is asked.
        first: What the first retrieval found for each.
        answer: The completions that are written with these passages.
        search: A retriever's.
        titled: Its passages by title; a bridge that is a title is looked up there first.
        k: Of one retrieval; each further one adds at most k - 1, but at least one.
        steps: Retrievals, the first one too. The n-th is for the sentence n - 1 of the answer before it.
    """
    found, more = first, max(1, k - 1)
    for step in range(1, steps):
        hops = [_hop(text, step) or question for text, question in zip(answer(found), questions, strict=True)]
        searched = search(hops, k)
        found = [
            _joined([*_bridge(hop, hits, titled), *near][:more], hits)
            for hop, near, hits in zip(hops, searched, found, strict=True)
        ]
    return found


def _hop(completion: str, number: int) -> str:
    hops = sentences(completion)[:number]
    return hops[-1] if hops else ""


def _bridge(hop: str, read: Sequence[ScoredPassage], titled: Mapping[str, list[Passage]]) -> list[ScoredPassage]:
    """The passages about the last entity of the sentence that was not read about yet."""
    known = {normalise(hit.passage.title) for hit in read}
    found = map(normalise, entities(hop, lambda phrase: normalise(phrase) in titled))
    new = [name for name in found if name not in known]
    return [ScoredPassage(passage, 1.0) for passage in titled[new[-1]]] if new else []


def _joined(new: Sequence[ScoredPassage], old: Sequence[ScoredPassage]) -> list[ScoredPassage]:
    first: dict[str, ScoredPassage] = {}
    for hit in (*new, *old):
        first.setdefault(hit.passage.id, hit)
    return list(first.values())
