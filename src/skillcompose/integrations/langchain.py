"""LangChain: a policy's index as a retriever, the policy as a chat model and as the last step of a chain."""

from collections.abc import Iterator, Sequence
from typing import Any

from skillcompose.citations import cited
from skillcompose.errors import IntegrationError
from skillcompose.policy import Policy
from skillcompose.types import Answer, Passage, ScoredPassage

try:
    from langchain_core.documents import Document
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import Runnable, RunnableLambda
except ImportError as error:
    raise IntegrationError(f'LangChain needs {error.name}: pip install "skillcompose[langchain]"') from error


class SkillcomposeRetriever(BaseRetriever):
    """The `k` best passages of the policy's index, the policy's own k when not given."""

    policy: Any
    k: int | None = None

    def _get_relevant_documents(self, query: str, **kwargs: Any) -> list[Document]:
        (hits,) = self.policy.search([query], self.k or self.policy.k)
        return [document(hit) for hit in hits]


class ChatSkillcompose(BaseChatModel):
    """Answers the last human message, with passages from the policy's index.

    Hops and passages are in the message's `response_metadata`.
    """

    policy: Any

    @property
    def _llm_type(self) -> str:
        return "skillcompose"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        answer = self.policy.answer(_question(messages))
        message = AIMessage(answer.completion, response_metadata=cited(answer))
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        shown, answer = "", None
        for (answer,) in self.policy.stream_batch([_question(messages)]):
            if new := answer.completion[len(shown) :]:
                yield ChatGenerationChunk(message=AIMessageChunk(new))
                shown = answer.completion
        if answer is not None:
            yield ChatGenerationChunk(message=AIMessageChunk("", response_metadata=cited(answer)))


def answering(policy: Policy) -> "Runnable[dict[str, Any], Answer]":
    """A chain's last step: `{"question": str, "documents": [Document]}` -> `Answer`, read from these documents."""

    def answer(given: dict[str, Any]) -> Answer:
        return policy.answer(given["question"], passages([*given["documents"]]))

    return RunnableLambda(answer)


def document(hit: ScoredPassage) -> Document:
    p = hit.passage
    place = {"title": p.title, "source": p.source, "position": p.position, "anchor": p.anchor, "score": hit.score}
    return Document(p.text, id=p.id, metadata=place)


def passages(documents: Sequence[Document]) -> list[Passage]:
    """Documents of any retriever; title, source and position are taken from the metadata where they are."""
    found = []
    for number, given in enumerate(documents, 1):
        there = {name: value for name, value in given.metadata.items() if value is not None}
        known = {name: str(there.get(name, "")) for name in ("title", "source", "position", "anchor")}
        known["title"] = known["title"] or f"Passage {number}"
        found.append(Passage(given.id or f"given#{number}", text=given.page_content, **known))
    return found


def _question(messages: Sequence[BaseMessage]) -> str:
    return next((str(m.text) for m in reversed(messages) if isinstance(m, HumanMessage)), "")
