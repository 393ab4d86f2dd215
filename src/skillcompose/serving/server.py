"""OpenAI's chat-completions and models API over a policy, and `/answer`, `/retrieve`, `/healthz`, `/metrics`."""

import asyncio
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from skillcompose.citations import citation, cited
from skillcompose.errors import PromptError, RetrievalError, ServingError
from skillcompose.live import Growing
from skillcompose.policy import Policy
from skillcompose.serving.batches import Batches, Busy, Left

try:
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import Response, StreamingResponse
    from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
    from pydantic import BaseModel, Field
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect

    from skillcompose.serving.chat import MAX_QUESTION, Chat, Part, chunks, common, whole
    from skillcompose.serving.guard import KEY, is_local, problem, refused, with_body
except ImportError as error:
    raise ServingError(f'serving needs {error.name}: pip install "skillcompose[serve]"') from error

SECONDS = 60  # for an answer
SEARCHES = 16  # of `/retrieve` at once; further ones are refused
BUSY = "too many questions are waiting; try again in some seconds"
logger = logging.getLogger(__name__)


class Question(BaseModel, str_strip_whitespace=True):
    question: str = Field(min_length=1, max_length=MAX_QUESTION)
    passages: list[str] | None = Field(None, max_length=50)


class Query(BaseModel, str_strip_whitespace=True):
    query: str = Field(min_length=1, max_length=MAX_QUESTION)
    k: int = Field(3, ge=1, le=100)
    where: dict[str, Annotated[str, Field(max_length=200)]] = Field(default_factory=dict, max_length=10)


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
        shown = f"[{host}]" if ":" in host else host
        logger.info("serving %s on http://%s:%d/v1 (ctrl-C stops it)", folder, shown, port)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=SECONDS, server_header=False)
        with suppress(KeyboardInterrupt):  # all is closed by then
            uvicorn.Server(config).run([address])


def make_app(policy: Policy, name: str, key: str = "", log_texts: bool = False) -> FastAPI:
    """The application; `key` is what clients must send as a bearer token, none when empty."""
    batches, searching = Batches(policy), 0
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

    async def answered(question: str, request: Request, passages: list[str] | None = None) -> AsyncIterator[Part]:
        try:
            async for answer, last in batches.ask(question, passages, SECONDS, request.state.is_disconnected):
                if last and log_texts:
                    logger.info(json.dumps({"question": question, "answer": answer.completion}, ensure_ascii=False))
                yield answer, last
        except Busy:
            raise HTTPException(503, BUSY) from None
        except Left:
            raise HTTPException(499, "the client left") from None
        except TimeoutError:
            raise HTTPException(504, f"no answer within {SECONDS} seconds") from None
        except PromptError as error:
            raise HTTPException(422, str(error)) from None

    async def complete(answers: AsyncIterator[Part], request: Request) -> Growing:
        while True:
            _, last = await anext(answers)
            if last:
                return last
            if await request.state.is_disconnected():
                raise HTTPException(499, "the client left")

    @app.post("/v1/chat/completions")
    async def chat(asked: Chat, request: Request) -> Any:
        *before, (question, _) = asked.turns() or [("", "")]
        if not question or len(question) > MAX_QUESTION:
            raise HTTPException(422, f"the last user message must have 1 to {MAX_QUESTION} characters")
        question = policy.standalone(question, before)
        head, answers = common(name), answered(question, request)
        if asked.stream:
            first = await anext(answers)  # a refusal is still a status then, not a broken stream
            counted = bool(asked.stream_options and asked.stream_options.include_usage)
            return StreamingResponse(chunks(head, first, answers, counted), media_type="text/event-stream")
        return whole(head, await complete(answers, request))

    itself = {"id": name, "object": "model", "created": 0, "owned_by": "skillcompose"}

    @app.get("/v1/models")
    async def models() -> Any:
        return {"object": "list", "data": [itself]}

    @app.get("/v1/models/{model:path}")
    async def one(model: str) -> Any:
        if model != name:
            raise HTTPException(404, f"there is no model {model!r}; this is {name!r}")
        return itself

    @app.post("/answer")
    async def answer(asked: Question, request: Request) -> Any:
        found = (await complete(answered(asked.question, request, asked.passages), request)).answer
        return {"completion": found.completion} | cited(found)

    @app.post("/retrieve")
    async def retrieve(asked: Query) -> Any:
        if policy.retriever is None:
            raise HTTPException(404, "this policy has no retriever")
        nonlocal searching
        if searching == SEARCHES:
            raise HTTPException(503, BUSY)
        searching += 1
        try:
            (hits,) = await asyncio.to_thread(policy.search, [asked.query], asked.k, asked.where)
        except RetrievalError as error:
            raise HTTPException(422, str(error)) from None
        finally:
            searching -= 1
        return {"passages": [citation(hit) for hit in hits]}

    @app.get("/healthz")
    async def healthz() -> Any:
        return {"status": "ok", "waiting": batches.waiting.qsize()}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    KNOWN = {route.path for route in app.routes}  # type: ignore[attr-defined]
    return app
