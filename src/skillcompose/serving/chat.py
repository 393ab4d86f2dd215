"""OpenAI's chat completions: what is read of a request, and what is sent.

What the format has no place for, the hops and citations, is in the field `skillcompose` of an answer (of the chunk
with `finish_reason` when streaming).
"""

import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any, Literal

from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from skillcompose.citations import cited
from skillcompose.live import Growing
from skillcompose.serving.guard import told
from skillcompose.types import Answer

MAX_QUESTION = 4000  # characters
TURNS = 8  # of a conversation, that a pronoun may mean something of
Part = tuple[Answer, Growing | None]
"""An answer as it grows; the last one with what it grew from."""
logger = logging.getLogger(__name__)


class StreamOptions(BaseModel):
    include_usage: bool | None = None


class TextFormat(BaseModel):
    type: Literal["text"]


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None

    def text(self) -> str:
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "\n".join(str(part.get("text", "")) for part in self.content if part.get("type") == "text")


class Chat(BaseModel):
    """What is read of OpenAI's request: the last user message, and the turns before it, for its pronouns.

    The system's message, tools that were used and sampling settings have no effect, answers are greedy. What would
    need another answer is refused: several choices, a call of a tool, JSON.
    """

    model: str = ""
    messages: list[Message] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    tools: list[Any] | None = Field(None, max_length=0)
    response_format: TextFormat | None = None

    def turns(self) -> list[tuple[str, str]]:
        """The last questions with their answers; the very last one has none yet."""
        found: list[tuple[str, str]] = []
        for message in self.messages:
            if message.role == "user":
                found.append((message.text().strip()[: MAX_QUESTION + 1], ""))
            elif message.role == "assistant" and found:
                found[-1] = (found[-1][0], message.text()[-MAX_QUESTION:])
        return found[-TURNS:]


def common(model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex[:24]}", "created": int(time.time()), "model": model}


def whole(head: dict[str, Any], found: Growing) -> dict[str, Any]:
    """The answer in one piece."""
    message = {"role": "assistant", "content": found.answer.completion}
    choice = {"index": 0, "message": message, "finish_reason": ended(found)}
    more = {"usage": usage(found), "skillcompose": cited(found.answer)}
    return head | {"object": "chat.completion", "choices": [choice]} | more


def ended(found: Growing) -> str:
    """OpenAI's word for why the answer is over."""
    return "length" if found.cut else "stop"


def usage(found: Growing) -> dict[str, int]:
    read, written = len(found.prompt), found.written
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


async def chunks(head: dict[str, Any], first: Part, answers: AsyncIterator[Part], counted: bool) -> AsyncIterator[str]:
    """Server-sent events: the role, the text as it grows, the citations, what it took if that is asked for, the end."""

    def data(choices: list[dict[str, Any]], **more: Any) -> str:
        event = head | {"object": "chat.completion.chunk", "choices": choices} | more
        return f"data: {json.dumps(event, ensure_ascii=False)}\n\n"

    def event(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        return data([{"index": 0, "delta": delta, "finish_reason": finish}], **more)

    answer, last = first
    shown = answer.completion
    yield event({"role": "assistant", "content": shown})
    try:
        while not last:
            answer, last = await anext(answers)
            if len(answer.completion) > len(shown):
                yield event({"content": answer.completion[len(shown) :]})
                shown = answer.completion
    except Exception as error:
        # The status is sent already, so the stream says it.
        found = told(500, "the server failed")
        if isinstance(error, HTTPException):
            found = told(error.status_code, str(error.detail))
        else:
            logger.exception("a stream failed")
        yield f"data: {json.dumps(found)}\n\n"
        return
    yield event({}, ended(last), skillcompose=cited(answer))
    if counted:
        yield data([], usage=usage(last))
    yield "data: [DONE]\n\n"
