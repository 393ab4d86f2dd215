"""Three ways to rank passages: by meaning (embeddings), by words (BM25), by the words a model adds (learned sparse).

Each gives, for every query, at most `depth` pairs (passage's number, score), best first; `allowed` (N,) says which
passages count. Words that no passage has in common with a query rank nothing.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import bm25s
import faiss
import numpy as np
import Stemmer
import torch
from scipy.sparse import csr_matrix, vstack
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from skillcompose.index.vectors import search_among
from skillcompose.machine import device, use_cores
from skillcompose.models import fetching, quiet_libraries
from skillcompose.progress import Progress

Ranked = list[list[tuple[int, float]]]
Allowed = np.ndarray | None
CODE = re.compile(r"\w+(?:[-./_:@+]\w+)+")
SAFE = {"use_safetensors": True}
AT_ONCE = 64  # queries whose scores are in memory together


class Ranking(Protocol):
    def rank(self, queries: list[str], depth: int, allowed: Allowed = None) -> Ranked: ...


class Dense:
    """Cosine similarity of embeddings, in a FAISS index of unit vectors."""

    def __init__(self, model: SentenceTransformer, index: faiss.Index, about: dict[str, Any]) -> None:
        self.model, self.index, self.about = model, index, about

    def rank(self, queries: list[str], depth: int, allowed: Allowed = None) -> Ranked:
        vectors = embed(self.model, queries)
        if allowed is None:
            scores, found = self.index.search(vectors, depth)
        else:
            scores, found = search_among(self.index, vectors, depth, np.flatnonzero(allowed))
        return [
            [(i, score) for i, score in zip(row, values, strict=True) if i >= 0]
            for row, values in zip(found.tolist(), scores.tolist(), strict=True)
        ]


class Words:
    """BM25."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.index = bm25s.BM25()
        self.index.index(words(texts), show_progress=False)

    def rank(self, queries: list[str], depth: int, allowed: Allowed = None) -> Ranked:
        mask = None if allowed is None else allowed.astype(np.float32)
        found, scores = self.index.retrieve(words(queries), k=depth, weight_mask=mask, show_progress=False)
        return [
            [(i, score) for i, score in zip(row, values, strict=True) if score > 0]
            for row, values in zip(found.tolist(), scores.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class Splade:
    """A masked language model that was trained to rank, and its tokenizer."""

    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel


class Sparse:
    """Inner product of sparse vectors over a model's vocabulary (SPLADE); `vectors` is (N, vocabulary)."""

    def __init__(self, model: Splade, vectors: csr_matrix) -> None:
        self.model, self.vectors = model, vectors
        self.lists = vectors.T.tocsr()

    def rank(self, queries: list[str], depth: int, allowed: Allowed = None) -> Ranked:
        found: Ranked = []
        for begin in range(0, len(queries), AT_ONCE):
            scores = (expand(self.model, queries[begin : begin + AT_ONCE]) @ self.lists).toarray()
            if allowed is not None:
                scores *= allowed
            found += [_best(row, depth) for row in scores]
        return found


def _best(scores: np.ndarray, depth: int) -> list[tuple[int, float]]:
    """The highest above zero; ties are broken by position."""
    near = np.argpartition(-scores, min(depth, len(scores)) - 1)[:depth]
    near = near[scores[near] > 0]
    order = np.lexsort((near, -scores[near]))
    return [(int(i), float(scores[i])) for i in near[order]]


def words(texts: Sequence[str]) -> list[list[str]]:
    """English stems without stop words, and each code as a whole too: `vd` and `132` are not as rare as `VD-132`."""
    settings = {"token_pattern": r"(?u)\w+", "return_ids": False, "show_progress": False}
    stems = bm25s.tokenize(list(texts), stopwords="en_plus", stemmer=Stemmer.Stemmer("english"), **settings)
    # BM25 of a query without a known word is undefined: keep at least one token.
    return [[*row, *CODE.findall(text.lower())] or ["-"] for row, text in zip(stems, texts, strict=True)]


def load_embedder(folder: str) -> SentenceTransformer:
    quiet_libraries()
    use_cores()
    with fetching(folder):
        return SentenceTransformer(folder, device=str(device()), trust_remote_code=False, model_kwargs=SAFE)


def load_reranker(folder: str) -> CrossEncoder:
    quiet_libraries()
    use_cores()
    with fetching(folder):
        return CrossEncoder(folder, device=str(device()), trust_remote_code=False, model_kwargs=SAFE)


def load_sparse(folder: str) -> Splade:
    quiet_libraries()
    use_cores()
    with fetching(folder):
        model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=False, use_safetensors=True)
        return Splade(AutoTokenizer.from_pretrained(folder, trust_remote_code=False), model.eval().to(device()))


def embed(model: SentenceTransformer, texts: Sequence[str], progress: Progress | None = None) -> np.ndarray:
    """Unit vectors, float32, one row a text."""

    def rows(batch: list[str]) -> np.ndarray:
        return model.encode(batch, normalize_embeddings=True, show_progress_bar=False)

    found, order = _by_length(texts, 64, rows, "embedding passages", progress)
    return np.concatenate(found).astype(np.float32)[order]


@torch.no_grad()
def expand(model: Splade, texts: Sequence[str], progress: Progress | None = None) -> csr_matrix:
    """Vectors (N, vocabulary), float32, one row a text: of each word the highest logit that any token gives it."""
    longest = model.model.config.max_position_embeddings

    def rows(batch: list[str]) -> csr_matrix:
        given = model.tokenizer(batch, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        logits = model.model(**given.to(device())).logits
        # The highest first, then the logarithm: of one number a word, not of one a token.
        highest = logits.masked_fill_(given.attention_mask[..., None] == 0, 0).amax(1)
        return csr_matrix(highest.relu().log1p().cpu().numpy())

    found, order = _by_length(texts, 8, rows, "expanding passages", progress)
    return vstack(found, format="csr")[order]


def _by_length(
    texts: Sequence[str], size: int, rows: Callable[[list[str]], Any], title: str, progress: Progress | None
) -> tuple[list[Any], np.ndarray]:
    """The rows of each batch of texts that are about as long, and the order that puts them back."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    batches = [[texts[i] for i in order[begin : begin + size]] for begin in range(0, len(order), size)]
    steps = progress.each(batches, title, len(batches)) if progress else batches
    return [rows(batch) for batch in steps], np.argsort(order)
