"""OpenAI's chat-completions and models API over a policy, and `/answer`, `/retrieve`, `/healthz`, `/metrics`.

What OpenAI's format has no place for, the hops and citations, is in the field `skillcompose` of an answer (of the last
chunk when streaming).
"""

import asyncio
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from skillcompose.errors import PromptError, RetrievalError, ServingError
from skillcompose.policy import Policy, citation, cited
from skillcompose.serving.batches import Batches, Busy
from skillcompose.types import Answer

try:
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import Response, StreamingResponse
    from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
    from pydantic import BaseModel, Field
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect

    from skillcompose.serving.guard import KEY, is_local, problem, refused, with_body
except ImportError as error:
    raise ServingError(f'serving needs {error.name}: pip install "skillcompose[serve]"') from error

MAX_QUESTION = 4000  # characters
SECONDS = 60  # for an answer
logger = logging.getLogger(__name__)


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[dict[str, Any]]

    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n".join(str(part.get("text", "")) for part in self.content if part.get("type") == "text")


class Chat(BaseModel):
    """What is read of OpenAI's request: the last user message, and the turns before it, for its pronouns.

    The system's message and sampling settings have no effect, answers are greedy.
    """

    model: str = ""
    messages: list[Message] = Field(min_length=1)
    stream: bool = False

    def turns(self) -> list[tuple[str, str]]:
        """Questions with their answers; the last one has none yet."""
        found: list[tuple[str, str]] = []
        for message in self.messages:
            if message.role == "user":
                found.append((message.text().strip(), ""))
            elif message.role == "assistant" and found:
                found[-1] = (found[-1][0], message.text())
        return found


class Question(BaseModel):
    question: str = Field(min_length=1, max_length=MAX_QUESTION)
    passages: list[str] | None = Field(None, max_length=50)


class Query(BaseModel):
    query: str = Field(min_length=1, max_length=MAX_QUESTION)
    k: int = Field(3, ge=1, le=100)
    where: dict[str, str] = Field(default_factory=dict, max_length=10)


def run(folder: Path, host: str, port: int, log_texts: bool = False) -> None:
    """Serve until interrupted; requests that are being answered are finished first.

    Raises:
        ServingError: A public address without a key, or one that cannot be had.
    """
    key = os.environ.get(KEY, "")
    if not key and not is_local(host):
        raise ServingError(f"{host} can be reached from other machines: set {KEY}, or serve on 127.0.0.1")
    try:  # before the model is loaded
        address = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ServingError(
            f"cannot serve on {host}:{port} ({error.strerror}); name another --port or --host"
        ) from error
    with address:
        app = make_app(Policy.load(folder), folder.resolve().name, key, log_texts)
        logger.info("serving %s on http://%s:%d/v1 (ctrl-C stops it)", folder, host, port)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=SECONDS, server_header=False)
        with suppress(KeyboardInterrupt):  # all is closed by then
            uvicorn.Server(config).run([address])


def make_app(policy: Policy, name: str, key: str = "", log_texts: bool = False) -> FastAPI:
    """The application; `key` is what clients must send as a bearer token, none when empty."""
    batches = Batches(policy)
    registry = CollectorRegistry()
    requests = Counter("skillcompose_requests", "Requests by path and status", ["path", "status"], registry=registry)
    seconds = Histogram(
        "skillcompose_seconds",
        "Seconds to an answer or a stream's begin, by path",
        ["path"],
        registry=registry,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        work = asyncio.create_task(batches.work())
        yield
        work.cancel()

    app = FastAPI(title="skillcompose", lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.middleware("http")
    async def guard(request: Request, call_next: Any) -> Response:
        begin, number = time.monotonic(), uuid.uuid4().hex[:12]
        request.state.is_disconnected = request.is_disconnected  # a request behind a middleware never learns it
        try:
            response: Response = refused(request, key) or await with_body(request) or await call_next(request)
        except ClientDisconnect:
            response = problem(499, "the client left")
        except Exception:
            # The message may hold a user's text.
            logger.exception("request %s failed", number)
            response = problem(500, "the server failed; its log has the request id")
        path = request.scope["path"] if request.scope["path"] in KNOWN else "other"
        requests.labels(path, response.status_code).inc()
        seconds.labels(path).observe(time.monotonic() - begin)
        response.headers["x-request-id"] = number
        took = round(time.monotonic() - begin, 3)
        logger.info(json.dumps({"id": number, "path": path, "status": response.status_code, "seconds": took}))
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        found = error.errors()[0]
        where = ".".join(str(part) for part in found["loc"][1:])
        return problem(422, f"{where or 'the body'}: {found['msg']}")

    @app.exception_handler(HTTPException)
    async def raised(request: Request, error: HTTPException) -> Response:
        return problem(error.status_code, str(error.detail))

    async def answered(question: str, passages: list[str] | None = None) -> AsyncIterator[tuple[Answer, bool]]:
        try:
            async for answer, last in batches.ask(question, passages, SECONDS):
                if last and log_texts:
                    logger.info(json.dumps({"question": question, "answer": answer.completion}, ensure_ascii=False))
                yield answer, last
        except Busy:
            raise HTTPException(503, "too many questions are waiting; try again in some seconds") from None
        except TimeoutError:
            raise HTTPException(504, f"no answer within {SECONDS} seconds") from None
        except PromptError as error:
            raise HTTPException(422, str(error)) from None

    async def complete(answers: AsyncIterator[tuple[Answer, bool]], request: Request) -> Answer:
        while True:
            answer, last = await anext(answers)
            if last:
                return answer
            if await request.state.is_disconnected():
                raise HTTPException(499, "the client left")

    def ended(answer: Answer) -> str:
        """OpenAI's word for why the answer is over."""
        return "length" if len(policy.tokenizer(answer.completion).input_ids) >= policy.max_new_tokens else "stop"

    @app.post("/v1/chat/completions")
    async def chat(asked: Chat, request: Request) -> Any:
        *before, (question, _) = asked.turns() or [("", "")]
        if not question or len(question) > MAX_QUESTION:
            raise HTTPException(422, f"the last user message must have 1 to {MAX_QUESTION} characters")
        question = policy.standalone(question, before)
        common = {"id": f"chatcmpl-{uuid.uuid4().hex[:24]}", "created": int(time.time()), "model": name}
        answers = answered(question)
        if asked.stream:
            first, last = await anext(answers)  # a refusal is still a status then, not a broken stream
            return StreamingResponse(_chunks(common, first, last, answers, ended), media_type="text/event-stream")
        found = await complete(answers, request)
        tokens = [len(policy.tokenizer(text).input_ids) for text in (found.prompt, found.completion)]
        message = {"role": "assistant", "content": found.completion}
        choice = {"index": 0, "message": message, "finish_reason": ended(found)}
        usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
        return common | {"object": "chat.completion", "choices": [choice], "usage": usage, "skillcompose": cited(found)}

    @app.get("/v1/models")
    async def models() -> Any:
        return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "skillcompose"}]}

    @app.post("/answer")
    async def answer(asked: Question, request: Request) -> Any:
        found = await complete(answered(asked.question, asked.passages), request)
        return {"completion": found.completion} | cited(found)

    @app.post("/retrieve")
    async def retrieve(asked: Query) -> Any:
        if policy.retriever is None:
            raise HTTPException(404, "this policy has no retriever")
        try:
            (hits,) = await asyncio.to_thread(policy.search, [asked.query], asked.k, asked.where)
        except RetrievalError as error:
            raise HTTPException(422, str(error)) from None
        return {"passages": [citation(hit) for hit in hits]}

    @app.get("/healthz")
    async def healthz() -> Any:
        return {"status": "ok", "waiting": batches.waiting.qsize()}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    KNOWN = {route.path for route in app.routes}  # type: ignore[attr-defined]
    return app


async def _chunks(
    common: dict[str, Any],
    first: Answer,
    last: bool,
    answers: AsyncIterator[tuple[Answer, bool]],
    ended: Callable[[Answer], str],
) -> AsyncIterator[str]:
    """Server-sent events: the role, the text as it grows, the citations, the end."""

    def event(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        data = common | {"object": "chat.completion.chunk", "choices": [choice]} | more
        return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"

    yield event({"role": "assistant", "content": first.completion})
    shown, answer = first.completion, first
    try:
        while not last:
            answer, last = await anext(answers)
            if len(answer.completion) > len(shown):
                yield event({"content": answer.completion[len(shown) :]})
                shown = answer.completion
    except Exception as error:
        # The status is sent already, so the stream says it.
        problem = {"message": "the server failed", "code": 500}
        if isinstance(error, HTTPException):
            problem = {"message": error.detail, "code": error.status_code}
        else:
            logger.exception("a stream failed")
        yield f"data: {json.dumps({'error': problem})}\n\n"
        return
    yield event({}, ended(answer), skillcompose=cited(answer))
    yield "data: [DONE]\n\n"
