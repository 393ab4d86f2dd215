"""Sections -> passages that the embedder sees whole, and passages that say the same only once."""

import re
from collections.abc import Callable
from pathlib import Path

from skillcompose.passages.sections import Section, sections
from skillcompose.prompts import normalise
from skillcompose.types import Passage

SHINGLE = 4  # words
ALIKE = 0.9  # share of the shingles that two passages have in common
LETTERS = 12  # of a token, at most
Splitter = Callable[[str], list[tuple[int, str]]]


def splitter(embedder: str, max_tokens: int, overlap: int) -> Splitter:
    """Cuts a text at its structure (lists, tables, paragraphs, sentences) into pieces of the embedder's tokens."""
    from semantic_text_splitter import MarkdownSplitter
    from tokenizers import Tokenizer

    files = sorted(map(str, Path(embedder).rglob("tokenizer.json")))
    if not files:
        from huggingface_hub import hf_hub_download

        files = [hf_hub_download(embedder, "tokenizer.json")]
    tokenizer = Tokenizer.from_file(files[0])
    tokenizer.no_truncation()
    tokenizer.no_padding()
    cut = MarkdownSplitter.from_huggingface_tokenizer(tokenizer, max_tokens, overlap).chunk_indices
    longest = LETTERS * max_tokens

    def split(text: str) -> list[tuple[int, str]]:
        pieces, start = [], 0
        # A word of a million letters takes a tokenizer hours, or is one unknown token to it.
        for word in [*re.finditer(rf"\S{{{longest},}}", text), None]:
            pieces += [(start + at, piece) for at, piece in cut(text[start : word.start() if word else None])]
            if word:
                pieces.append((word.start(), word.group()))
                start = word.end()
        return [(at + i, piece[i : i + longest]) for at, piece in pieces for i in range(0, len(piece), longest)]

    return split


def passages_of(text: str, source: str, split: Splitter) -> list[Passage]:
    """Passages of one document.

    A passage's title is its nearest heading (the file's name before the first one), its position the path of headings
    that leads to it, its anchor what a link to the place has behind the `#`.
    """
    passages: list[Passage] = []
    for section in sections(text, source.rsplit("/", 1)[-1].rsplit(".", 1)[0]):
        for offset, piece in split(section.text):
            number = len(passages)
            passages.append(_passage(f"{source}#{number}", section, offset, piece.strip(), source))
    return passages


def _passage(name: str, section: Section, offset: int, piece: str, source: str) -> Passage:
    return Passage(name, section.trail[-1], piece, source, " > ".join(section.trail), section.anchor_at(offset))


def without_copies(passages: list[Passage]) -> tuple[list[Passage], dict[str, str]]:
    """The passages that say something new, and the others with the passage that says it.

    Two passages are alike only under the same path of headings and with the same numbers and capitalised words: texts
    that differ in a name, or in a number, are different facts.
    """
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=ALIKE, num_perm=64)
    kept: list[Passage] = []
    copies: dict[str, str] = {}
    exact: dict[tuple[str, str], str] = {}
    shingled: dict[str, tuple[tuple[str, list[str]], set[str]]] = {}
    for passage in passages:
        place, words = normalise(passage.position), normalise(passage.text).split()
        same = exact.setdefault((place, " ".join(words)), passage.id)
        if same != passage.id:
            copies[passage.id] = same
            continue
        words_and_numbers = re.findall(r"\d+|[^\W\d_]\w*", passage.text)
        about = place, [word for word in words_and_numbers if word[0].isdigit() or word[0].isupper()]
        shingles = {" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}
        hashed = MinHash(num_perm=64)
        hashed.update_batch([shingle.encode() for shingle in shingles])
        alike = (
            other
            for other in sorted(index.query(hashed))
            if shingled[other][0] == about and _jaccard(shingled[other][1], shingles) >= ALIKE
        )
        near = next(alike, None)
        if near is not None:
            copies[passage.id] = near
            continue
        index.insert(passage.id, hashed)
        shingled[passage.id] = about, shingles
        kept.append(passage)
    return kept, copies


def _jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)
