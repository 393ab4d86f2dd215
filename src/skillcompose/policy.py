"""The composed policy as an app uses it: retrieve, prompt, generate, read the answer."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skillcompose import computing
from skillcompose.builtin import fingerprint, resolve
from skillcompose.citations import cite
from skillcompose.computing import in_one_thread
from skillcompose.conversation import Names, Turn, standalone
from skillcompose.errors import ModelError, PromptError, RetrievalError, RunError
from skillcompose.generation import BATCH_TOKENS, Written
from skillcompose.index import Retriever
from skillcompose.index.steps import by_title, in_steps
from skillcompose.live import Live
from skillcompose.models import load_base, load_merged, load_tokenizer
from skillcompose.pipeline import load_recipe
from skillcompose.prompts import final_answer, prompt
from skillcompose.recall import Recall, answers
from skillcompose.run import Run
from skillcompose.stages import check_models
from skillcompose.types import Answer, Fact, Passage, ScoredPassage, read_json, read_jsonl

SETTINGS = "policy.json"
Given = Sequence[Passage | ScoredPassage | str]


class Search(Protocol):
    """A retriever: ours, or the app's own."""

    def search(self, queries: list[str], k: int) -> list[list[ScoredPassage]]:
        """The best `k` passages of each query, best first."""


def known_entities(run: Run) -> list[str]:
    """What there are facts about, in the weights or in the index."""
    file = run.stage("facts") / "facts.jsonl"
    # A policy answers all the same: they serve pronouns alone.
    return sorted({fact.subject for fact in read_jsonl(file, Fact)}) if file.is_file() else []


class Policy:
    """A base model with the composed adapter merged in, and a retriever. Any thread may ask; one computes."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        retriever: Search | None,
        k: int,
        max_new_tokens: int,
        recall: Recall | None = None,
        entities: Iterable[str] = (),
    ) -> None:
        self.model, self.tokenizer, self.retriever = model, tokenizer, retriever
        self.k, self.max_new_tokens, self.recall = k, max_new_tokens, recall or Recall()
        # A retriever of one's own may not say what it holds.
        passages = getattr(retriever, "passages", ())
        self.titled = by_title(passages)
        self.names = Names(entities, (passage.title for passage in passages))

    @classmethod
    def load(cls, folder: str | Path, retriever: Search | None = None) -> "Policy":
        """The policy in a run or in an exported folder."""
        exported = (Path(folder) / SETTINGS).is_file()
        return cls.from_pretrained(folder, retriever) if exported else cls.from_run(folder, retriever)

    @classmethod
    @in_one_thread
    def from_run(cls, folder: str | Path, retriever: Search | None = None) -> "Policy":
        """The policy of a finished run, with the run's retriever or the app's own.

        Raises:
            RunError: The folder is no run, or its composition has not finished.
            ModelError: A model cannot be found, or is another one than it was.
        """
        run = Run.open(folder)
        recipe = load_recipe(run)
        check_models(run, recipe)
        adapter = run.require("composition") / "composed"
        base = recipe.base()
        model = load_merged(base, adapter)
        if retriever is None:
            retriever = Retriever.load(run.require("index"), recipe.beside)
        tokenizer, recall = load_tokenizer(base), Recall.of(recipe)
        return cls(model, tokenizer, retriever, recipe.index.k, recipe.max_new_tokens, recall, known_entities(run))

    @classmethod
    @in_one_thread
    def from_pretrained(cls, folder: str | Path, retriever: Search | None = None) -> "Policy":
        """The policy in a folder that `skillcompose export` wrote.

        Raises:
            RunError: The folder was not exported by skillcompose, or its index is another one.
            ModelError: The folder holds an adapter, and its base cannot be found or is another one.
        """
        folder = Path(folder)
        if not (folder / SETTINGS).is_file():
            raise RunError(f"{folder} has no {SETTINGS}; `skillcompose export RUN FOLDER` writes such a folder")
        settings = read_json(folder / SETTINGS)
        if name := settings.get("base"):
            base = resolve(name)
            if fingerprint(base) != settings["fingerprint"]:
                raise ModelError(f"{base} is not the base that the adapter in {folder} was trained on")
            model = load_merged(base, folder)
        else:
            model = load_base(str(folder))
        if retriever is None:
            retriever = Retriever.load(folder / "index", folder)
        tokenizer, recall = load_tokenizer(str(folder)), Recall(settings.get("known", ()))
        k, limit, entities = settings["k"], settings["max_new_tokens"], settings.get("entities", ())
        return cls(model, tokenizer, retriever, k, limit, recall, entities)

    def answer(self, question: str, passages: Given | None = None, steps: int = 1) -> Answer:
        """Answer one question; see `answer_batch`."""
        return self.answer_batch([question], None if passages is None else [passages], steps)[0]

    def standalone(self, question: str, turns: Sequence[Turn]) -> str:
        """A follow-up question as one that can be asked by itself; `turns` are earlier questions and completions."""
        return standalone(question, turns, self.names.__contains__)

    async def answer_async(self, question: str, passages: Given | None = None, steps: int = 1) -> Answer:
        """As `answer`, without blocking the event loop; questions that wait are answered one after another."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(computing.waiting, self.answer, question, passages, steps)

    def answer_batch(
        self, questions: Sequence[str], passages: Sequence[Given] | None = None, steps: int = 1
    ) -> list[Answer]:
        """Answer greedily, each question from its own passages or from those that the retriever finds.

        What only the weights can have said is asked again alone, where they know it best (`recall.py`).

        Args:
            questions: What is asked.
            passages: For each question what to read, texts or passages; none at all is closed book.
            steps: Retrievals. Each further one is for what the answer so far leads to, by title where a passage has
                that title, else by search; then the question is answered again, with what is new as well.

        Returns:
            One `Answer` a question. Its `text` is empty when the model wrote no readable final line; the raw
            `completion` is there all the same.
        """
        found, prompts, _ = self.prepare(questions, passages, steps)
        written = zip(self._write(prompts, found), found, prompts, strict=True)
        return [self.read(said.text, hits, asked, said.confidence) for said, hits, asked in written]

    def stream(self, question: str, passages: Given | None = None) -> Iterator[str]:
        """The completion in pieces, as soon as they are settled: lines that are read, then what is known."""
        shown = ""
        for (answer,) in self.stream_batch([question], None if passages is None else [passages]):
            yield answer.completion[len(shown) :]
            shown = answer.completion

    def stream_batch(self, questions: Sequence[str], passages: Sequence[Given] | None = None) -> Iterator[list[Answer]]:
        """The answers after every token; each has its text and its hops when it is whole, before that settled lines."""
        live = self.live()
        growing = live.join(questions, passages)
        while not all(one.done for one in growing):
            live.step()
            yield [one.answer for one in growing]

    def live(self) -> Live:
        """For questions that come one after another and are answered together."""
        return Live(self)

    def prepare(
        self, questions: Sequence[str], passages: Sequence[Given] | None, steps: int = 1
    ) -> tuple[list[list[ScoredPassage]], list[str], list[list[int]]]:
        """Passages, prompts and their tokens; the answers of all steps but the last are written here.

        Raises:
            PromptError: A prompt and its answer do not fit into what the model can read, a question is blank, or there
                is one where there should be a list of them, or other than one list of passages for each.
        """
        if isinstance(questions, str):
            raise PromptError("questions are a list; a single one is for `answer`, or put it into one: [question]")
        if not all(question.strip() for question in questions):
            raise PromptError("there is no question")
        if passages is not None and len(passages) != len(questions):
            raise PromptError(f"{len(questions)} questions, and passages for {len(passages)}; give a list for each")
        asked = list(map(_whole, questions))
        found = self.passages_for(asked, passages)
        if steps > 1:

            def texts(hits: list[list[ScoredPassage]]) -> list[str]:
                return [said.text for said in self._write(self._prompts(asked, hits)[0], hits)]

            found = in_steps(asked, found, texts, self.search, self.titled, self.k, steps)
        return found, *self._prompts(asked, found)

    def _write(self, prompts: list[str], found: list[list[ScoredPassage]]) -> list[Written]:
        read = [[hit.passage for hit in hits] for hits in found]
        return in_one_thread(answers)(self.model, self.tokenizer, prompts, read, self.recall, self.max_new_tokens)

    def _prompts(self, asked: list[str], found: list[list[ScoredPassage]]) -> tuple[list[str], list[list[int]]]:
        if not asked:
            return [], []
        prompts = [_whole(prompt(q, [hit.passage for hit in hits])) for q, hits in zip(asked, found, strict=True)]
        # A tokenizer cannot be used by two threads at once.
        encoded: list[list[int]] = in_one_thread(self.tokenizer)(prompts, add_special_tokens=False).input_ids
        longest = max(map(len, encoded))
        room = min(self.model.config.max_position_embeddings, BATCH_TOKENS) - self.max_new_tokens
        if longest > room:
            raise PromptError(f"question and passages have {longest} tokens, more than {room}; give fewer passages")
        return prompts, encoded

    @staticmethod
    def read(completion: str, hits: Sequence[ScoredPassage], asked: str, confidence: float) -> Answer:
        """The answer that a whole completion gives."""
        completion, read = completion.strip(), tuple(hits)
        return Answer(final_answer(completion) or "", cite(completion, hits), read, asked, completion, confidence)

    def passages_for(self, questions: Sequence[str], given: Sequence[Given] | None) -> list[list[ScoredPassage]]:
        """What each question is read with; given texts and passages have score 1.

        Raises:
            PromptError: One text where there should be a list of them.
        """
        if given is not None:
            if any(isinstance(those, str) for those in given):
                raise PromptError("the passages of a question are a list; put a single text into one: [text]")
            return [[_scored(one, number) for number, one in enumerate(those, 1)] for those in given]
        return self.search(list(questions), self.k)

    def search(self, queries: list[str], k: int, where: Mapping[str, str] | None = None) -> list[list[ScoredPassage]]:
        """What the retriever finds; nothing when there is none. `where` is for the run's own: `Retriever.search`.

        Raises:
            RetrievalError: `where` names no field of a passage, or the retriever is the app's own.
        """
        if self.retriever is None:
            return [[] for _ in queries]
        if isinstance(self.retriever, Retriever):
            return in_one_thread(self.retriever.search)(list(map(_whole, queries)), k, where)
        if where:
            raise RetrievalError("this policy's retriever is the app's own: choose among its passages there")
        # It may be bound to the app's thread.
        return self.retriever.search(queries, k)


def _whole(text: str) -> str:
    """A lone surrogate (half of an emoji) is no text that a tokenizer takes."""
    return text.encode("utf-8", "replace").decode()


def _scored(given: Passage | ScoredPassage | str, number: int) -> ScoredPassage:
    if isinstance(given, ScoredPassage):
        return given
    if isinstance(given, str):
        given = Passage(f"given#{number}", f"Passage {number}", given, "given", "")
    return ScoredPassage(given, 1.0)
