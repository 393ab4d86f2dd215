"""The composed policy as an app uses it: retrieve, prompt, generate, read the answer."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skillcompose.builtin import resolve
from skillcompose.generation import answer_texts
from skillcompose.index import Retriever
from skillcompose.machine import device
from skillcompose.models import load_adapter, load_base, load_tokenizer
from skillcompose.pipeline import load_recipe
from skillcompose.prompts import final_answer, mentions, prompt, sentences
from skillcompose.run import Run
from skillcompose.types import Answer, Hop, ScoredPassage


class Policy:
    """A base model with the composed adapter merged in, and the run's retriever."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        retriever: Retriever,
        k: int,
        max_new_tokens: int,
    ) -> None:
        self.model, self.tokenizer, self.retriever = model, tokenizer, retriever
        self.k, self.max_new_tokens = k, max_new_tokens

    @classmethod
    def from_run(cls, folder: str | Path) -> "Policy":
        """The policy of a finished run.

        Raises:
            RunError: The folder is no run, or its composition has not finished.
            ModelError: The base model cannot be found.
        """
        run = Run.open(folder)
        recipe = load_recipe(run)
        adapter = run.require("composition") / "composed"
        base = resolve(recipe.model, recipe.source.parent)
        # Merged weights answer a single question faster than bf16 does, which would round most of what RL learnt away.
        model = load_adapter(load_base(base, torch.float32 if device().type == "cpu" else None), adapter)
        model = model.merge_and_unload() if model.dtype == torch.float32 else model
        retriever = Retriever.load(run.require("index"), recipe.source.parent)
        return cls(model, load_tokenizer(base), retriever, recipe.index.k, recipe.max_new_tokens)

    def answer(self, question: str) -> Answer:
        """Answer one question; see `answer_batch`."""
        return self.answer_batch([question])[0]

    def answer_batch(self, questions: Sequence[str]) -> list[Answer]:
        """Retrieve passages for each question, and answer greedily.

        Returns:
            One `Answer` a question. Its `text` is empty when the model wrote no readable final line: the raw
            `completion` is there all the same.
        """
        found = self.retriever.search(list(questions), self.k)
        prompts = [prompt(q, [hit.passage for hit in hits]) for q, hits in zip(questions, found, strict=True)]
        texts = answer_texts(self.model, self.tokenizer, prompts, self.max_new_tokens)
        return [
            Answer(final_answer(text) or "", cite(text, hits), tuple(hits), asked, text)
            for text, hits, asked in zip(texts, found, prompts, strict=True)
        ]


def cite(completion: str, hits: Sequence[ScoredPassage]) -> tuple[Hop, ...]:
    """Each sentence with the number of the passage that supports it; None: it comes from the weights.

    A passage supports a sentence when it holds the last thing that the sentence says.
    """
    hops = []
    for sentence in sentences(completion):
        said = sentence.rstrip(".").split()
        found = None
        for size in (3, 2, 1):
            tail = " ".join(said[-size:])
            found = next(
                (n for n, hit in enumerate(hits, 1) if mentions(f"{hit.passage.title} {hit.passage.text}", tail)), None
            )
            if found is not None:
                break
        hops.append(Hop(sentence, found))
    return tuple(hops)
