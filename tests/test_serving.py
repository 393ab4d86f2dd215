"""The server and the chat: what they say, and to whom."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import uvicorn
from click.testing import CliRunner
from fastapi.testclient import TestClient

import skillcompose
from skillcompose.cli import main
from skillcompose.conversation import Names, standalone
from skillcompose.errors import ServingError
from skillcompose.live import Live
from skillcompose.serving import server

QUESTION = "Who is the owner of what brol needs?"


@pytest.fixture
def client(policy: skillcompose.Policy) -> Iterator[TestClient]:
    with TestClient(server.make_app(policy, "tiny"), "http://localhost") as found:
        yield found


def chat(**more: object) -> dict[str, object]:
    return {"model": "tiny", "messages": [{"role": "user", "content": QUESTION}]} | more


def test_chat_completions_answer_with_citations(client: TestClient, policy: skillcompose.Policy) -> None:
    expected = policy.answer(QUESTION)
    found = client.post("/v1/chat/completions", json=chat()).json()
    assert found["choices"][0]["message"]["content"] == expected.completion
    assert found["skillcompose"]["passages"][0]["document"] == expected.passages[0].passage.source
    assert found["usage"]["total_tokens"] > 10
    # The tiny model never ends on its own.
    assert found["choices"][0]["finish_reason"] == "length"
    assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"


def test_a_stream_grows_and_ends_with_citations(client: TestClient, policy: skillcompose.Policy) -> None:
    with client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text.strip() == policy.answer(QUESTION).completion
    assert len(chunks) > 3
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["skillcompose"]["passages"]


def test_what_agents_send_along_is_read_over(client: TestClient, policy: skillcompose.Policy) -> None:
    called = [{"role": "assistant", "content": None, "tool_calls": []}, {"role": "tool", "content": "42"}]
    body = chat(stream=True, stream_options={"include_usage": True}, tools=None, n=1)
    body["messages"] = [*called, *body["messages"]]
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    chunks = [json.loads(line) for line in lines[:-1]]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == policy.max_new_tokens
    assert client.post("/v1/chat/completions", json=chat(stream=None)).status_code == 200


def test_answer_and_retrieve(client: TestClient, policy: skillcompose.Policy) -> None:
    given = {"question": QUESTION, "passages": ["brol needs fenk."]}
    found = client.post("/answer", json=given).json()
    expected = policy.answer(QUESTION, ["brol needs fenk."])
    assert found["completion"] == expected.completion
    assert found["confidence"] == pytest.approx(expected.confidence, abs=1e-4)
    found = client.post("/retrieve", json={"query": QUESTION, "k": 2}).json()
    assert [hit["title"] for hit in found["passages"]] == [h.passage.title for h in policy.search([QUESTION], 2)[0]]
    found = client.post("/retrieve", json={"query": QUESTION, "where": {"title": "f*"}}).json()
    assert {hit["title"] for hit in found["passages"]} == {"fenk"}


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/v1/chat/completions", {"messages": []}, 422, "messages"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": " "}]}, 422, "last user message"),
        ("/v1/chat/completions", {"messages": [{"role": "robot", "content": "x"}]}, 422, "messages.0.role"),
        ("/answer", {"question": "x" * 5000}, 422, "question"),
        ("/answer", {"question": "x", "passages": ["y" * 300_000]}, 413, "larger"),
        ("/answer", {"question": "x", "passages": ["y " * 20_000]}, 422, "fewer passages"),
        ("/v1/chat/completions", chat(n=2), 422, "n"),
        ("/v1/chat/completions", chat(tools=[{"type": "function"}]), 422, "tools"),
        ("/v1/chat/completions", chat(response_format={"type": "json_object"}), 422, "response_format"),
        ("/retrieve", {"query": "x", "k": 0}, 422, "k"),
        ("/retrieve", {"query": "x", "where": {"title": "f" * 300}}, 422, "where.title"),
        ("/retrieve", {"query": "x", "where": {"author": "y"}}, 422, "no field 'author'"),
        ("/nowhere", {}, 404, "Not Found"),
    ],
)
def test_bad_requests_get_their_status_and_a_message(
    client: TestClient, path: str, body: dict[str, object], status: int, message: str
) -> None:
    response = client.post(path, json=body)
    assert response.status_code == status
    assert message in response.json()["error"]["message"]


def test_a_key_is_asked_for_where_others_can_reach_the_server(
    policy: skillcompose.Policy, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TestClient(server.make_app(policy, "tiny", "secret"), "http://kb.example.org") as client:
        assert client.get("/v1/models").status_code == 401
        assert client.get("/v1/models", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert client.get("/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 200
        assert client.get("/v1/models", headers={"Authorization": "bearer secret"}).status_code == 200
        assert client.get("/v1/models", headers={"Authorization": "secret"}).status_code == 401
        assert client.get("/healthz").status_code == 200
        assert client.get("/v1/models", headers={"Host": "x/healthz?"}).status_code == 401
    with TestClient(server.make_app(policy, "tiny", "schlüssel"), "http://kb.example.org") as client:
        found = client.get("/v1/models/tiny", headers={"Authorization": "Bearer schlüssel".encode()})
        assert found.json()["id"] == "tiny"
        assert client.get("/v1/models/tony", headers={"Authorization": "Bearer schlüssel".encode()}).status_code == 404
    with TestClient(server.make_app(policy, "tiny"), "http://rebound.example.org") as client:
        for host in ("rebound.example.org", "{.evil.com", "evil.com/", "localhost@evil.com", "[::1", ""):
            assert client.get("/v1/models", headers={"Host": host}).status_code == 421
        assert client.get("/v1/models", headers={"Host": "[::1]:8000"}).status_code == 200
    monkeypatch.delenv("SKILLCOMPOSE_API_KEY", raising=False)
    with pytest.raises(ServingError, match="SKILLCOMPOSE_API_KEY"):
        server.run(finished_run, "0.0.0.0", 8000)


def test_many_at_once_are_batched_none_lost_and_too_many_refused(
    policy: skillcompose.Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    step, go = Live.step, threading.Event()

    def counted(live):
        sizes.append(len(live.growing) + len(live.waiting))
        go.wait(20)
        step(live)

    monkeypatch.setattr(Live, "step", counted)
    monkeypatch.setattr("skillcompose.serving.batches.PENDING", 24)
    with TestClient(server.make_app(policy, "tiny"), "http://localhost") as client, ThreadPoolExecutor(48) as threads:
        asked = [threads.submit(client.post, "/v1/chat/completions", json=chat()) for _ in range(48)]
        while sum(future.done() for future in asked) < 48 - 24 - 16:
            pass
        go.set()
        statuses = [future.result().status_code for future in asked]
        metrics = client.get("/metrics").text
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= 24
    assert max(sizes) > 4
    assert f'status="200"}} {statuses.count(200)}.0' in metrics


def test_one_bad_question_fails_alone_and_an_unread_stream_keeps_nobody_waiting(
    client: TestClient, policy: skillcompose.Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = policy.prepare

    def picky(questions, passages=None):
        if "bad" in questions:
            raise RuntimeError("bad")
        return prepare(questions, passages)

    monkeypatch.setattr(policy, "prepare", picky)
    with ThreadPoolExecutor(8) as threads:
        asked = ["bad" if i == 3 else QUESTION for i in range(8)]
        found = threads.map(lambda text: client.post("/answer", json={"question": text}).status_code, asked)
        assert list(found) == [500 if text == "bad" else 200 for text in asked]
    monkeypatch.undo()
    unread = policy.stream(QUESTION)
    next(unread)
    assert policy.answer(QUESTION + " \ud83d").completion is not None


def test_an_answer_that_nobody_waits_for_is_not_made(policy: skillcompose.Policy, monkeypatch) -> None:
    """A client on a real socket leaves; it would take twenty tokens more, of half a second each."""
    steps, step = [], Live.step

    def slow(live: Live) -> None:
        steps.append(len(live.growing))
        time.sleep(0.5)
        step(live)

    monkeypatch.setattr(Live, "step", slow)
    monkeypatch.setattr(policy, "max_new_tokens", 20)
    with socket.create_server(("127.0.0.1", 0)) as address:
        running = uvicorn.Server(uvicorn.Config(server.make_app(policy, "tiny"), log_level="error"))
        thread = threading.Thread(target=running.run, args=([address],))
        thread.start()
        url = f"http://127.0.0.1:{address.getsockname()[1]}"
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/answer", json={"question": QUESTION}, timeout=httpx.Timeout(5, read=1.2))
        time.sleep(2)
        done = len(steps)
        metrics = httpx.get(f"{url}/metrics").text
        time.sleep(1.5)
        assert len(steps) == done < 8
        assert 'status="499"' in metrics
        running.should_exit = True
        thread.join()


def test_a_failure_is_that_requests_alone(client: TestClient, policy: skillcompose.Policy, monkeypatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Live, "step", lambda _: 1 / 0)
        response = client.post("/answer", json={"question": QUESTION})
        assert response.status_code == 500
        assert "request id" in response.json()["error"]["message"]
        assert response.headers["x-request-id"]
    assert client.post("/answer", json={"question": QUESTION}).status_code == 200


def test_chat_asks_until_an_empty_line(finished_run: Path, policy: skillcompose.Policy) -> None:
    result = CliRunner().invoke(main, ["chat", str(finished_run)], input=f"{QUESTION}\n\nnever asked\n")
    assert result.exit_code == 0, result.output
    expected = policy.answer(QUESTION)
    assert (expected.text or expected.completion) in result.stdout
    assert "never" not in result.stdout
    assert CliRunner().invoke(main, ["chat", str(finished_run)], input="").exit_code == 0


@pytest.mark.parametrize(
    ("question", "turns", "expected"),
    [
        ("Who maintains it?", [("What does abook need?", "abook needs mutt.\nSo: mutt")], "Who maintains mutt?"),
        ("What is its size?", [("Who owns abook?", "abook is owned by Ann.\nSo: Ann")], "What is abook's size?"),
        ("And who owns it?", [("Who owns abook?", "nothing readable")], "And who owns abook?"),
        ("Does it need mutt?", [("Who owns abook?", "So: abook")], "Does it need mutt?"),
        ("Who owns it?", [], "Who owns it?"),
        ("Who leads the IT department?", [("Who owns abook?", "So: abook")], "Who leads the IT department?"),
        ("Who is her manager?", [("Who owns abook?", "So: abook")], "Who is abook's manager?"),
        ("Who reports to her in Berlin?", [("Who owns abook?", "So: abook")], "Who reports to abook in Berlin?"),
        ("Who owns it?", [("Hello?", "So: nobody")], "Who owns it?"),
    ],
)
def test_a_follow_up_stands_alone(question: str, turns: list[tuple[str, str]], expected: str) -> None:
    assert standalone(question, turns, {"abook", "mutt"}.__contains__) == expected


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Who is its owner?", "Who is Beacon's owner?"),
        ("does birch clinics like it?", "does birch clinics like it?"),
        ("What about its getting started page?", "What about Beacon's getting started page?"),
        ("Does it come up in Getting Started?", "Does it come up in Getting Started?"),
        ("Is it in abook?", "Is it in abook?"),
    ],
)
def test_entities_are_named_in_any_case_and_headings_are_not(question: str, expected: str) -> None:
    names = Names(["Birch Clinics", "Beacon", "It"], ["Owner", "Getting Started", "abook"])
    turns = [("which product does birch clinics use?", "Birch Clinics uses Beacon.\nSo: Beacon")]
    assert standalone(question, turns, names.__contains__) == expected
    assert standalone("Where is it?", [("who owns beacon?", "?")], names.__contains__) == "Where is beacon?"


def test_the_server_reads_the_turns_before(client: TestClient, policy: skillcompose.Policy) -> None:
    title = policy.retriever.passages[0].title
    messages = [
        {"role": "user", "content": f"What is {title}?"},
        {"role": "assistant", "content": f"So: {title}"},
        {"role": "user", "content": "Who owns it?"},
    ]
    found = client.post("/v1/chat/completions", json={"model": "x", "messages": messages}).json()
    assert found["choices"][0]["message"]["content"] == policy.answer(f"Who owns {title}?").completion
