"""Where an answer was read: each sentence of its reasoning with the passage that says it."""

import re
from collections.abc import Sequence
from typing import Any

from bm25s.stopwords import STOPWORDS_EN

from skillcompose.prompts import mentions, normalise, sentences
from skillcompose.types import Answer, Hop, ScoredPassage

SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[^\W_a-z])|\n")
SHARED = 0.5  # of a hop's words before its last ones, in the sentence of a passage that says the same


def cite(completion: str, hits: Sequence[ScoredPassage]) -> tuple[Hop, ...]:
    """Each sentence with the number of the passage that says it; None: no passage does, so it comes from the weights.

    What a hop says last must stand in the passage. That is not enough, as a surname stands in many: the passage must be
    about something that the hop names before, or say it in a sentence that is like the hop; or, where the hop names
    nothing else ("The package is abook"), be about that last thing.
    """
    read = [(number, hit.passage.title, hit.passage.text) for number, hit in enumerate(hits, 1)]
    return tuple(Hop(hop, _source(hop, read)) for hop in sentences(completion))


def _source(hop: str, read: Sequence[tuple[int, str, str]]) -> int | None:
    said = hop.rstrip(".").split()
    for size in (3, 2, 1):
        before, tail = " ".join(said[:-size]), " ".join(said[-size:])
        holds = [(number, title, text) for number, title, text in read if mentions(f"{title} {text}", tail)]
        words = {word for word in map(normalise, before.split()) if word not in STOPWORDS_EN}
        for number, title, _ in holds:
            if mentions(before, title):
                return number
        for number, _, text in holds:
            if any(mentions(one, tail) and _alike(words, one) for one in SENTENCE.split(text)):
                return number
        if not re.search(r"\d|\s[^\W\d_a-z]", before):  # no name
            for number, title, _ in holds:
                if mentions(tail, title):
                    return number
    return None


def _alike(words: set[str], sentence: str) -> bool:
    there = set(map(normalise, sentence.split()))
    return bool(words) and len(words & there) >= SHARED * len(words)


def cited(answer: Answer) -> dict[str, Any]:
    """For JSON: the short answer, its hops with the number of the passage each was read from, and the passages."""
    return {
        "answer": answer.text,
        "confidence": round(answer.confidence, 4),
        "hops": [{"text": hop.text, "passage": hop.passage} for hop in answer.hops],
        "passages": [citation(hit) for hit in answer.passages],
    }


def citation(hit: ScoredPassage) -> dict[str, Any]:
    p = hit.passage
    place = {"document": p.source, "anchor": p.anchor, "position": p.position, "title": p.title}
    return place | {"quote": p.text, "score": round(float(hit.score), 4)}
