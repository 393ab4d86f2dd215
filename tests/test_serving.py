"""The policy in an application: own passages, streams, an exported folder, the server and its refusals."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import httpx
import pytest
import uvicorn
from click.testing import CliRunner
from fastapi.testclient import TestClient

import skillcompose
from skillcompose import gguf_file
from skillcompose.citations import cite
from skillcompose.cli import main
from skillcompose.conversation import standalone
from skillcompose.errors import ModelError, PromptError, RunError, ServingError
from skillcompose.index.steps import by_title
from skillcompose.live import Live
from skillcompose.prompts import prompt
from skillcompose.serving import server
from skillcompose.serving.export import card, export
from skillcompose.stages import STAGES, stage_key
from skillcompose.types import ScoredPassage, write_json

ROOT = Path(__file__).parent.parent
QUESTION = "Who is the owner of what brol needs?"
NEIGHBOURS = "The neighbour of Anna Dorn is Yngve Storm. The dentist of Anna Dorn is Ulf Hald."
USES = "The product that Birch Clinics uses is Beacon."


@pytest.fixture(scope="module")
def policy(finished_run: Path) -> skillcompose.Policy:
    return skillcompose.Policy.from_run(finished_run)


@pytest.fixture
def client(policy: skillcompose.Policy) -> Iterator[TestClient]:
    with TestClient(server.make_app(policy, "tiny"), "http://localhost") as found:
        yield found


def chat(**more: object) -> dict[str, object]:
    return {"model": "tiny", "messages": [{"role": "user", "content": QUESTION}]} | more


def test_passages_come_from_the_run_the_app_or_nowhere(policy: skillcompose.Policy) -> None:
    assert len(policy.answer(QUESTION).passages) == policy.k
    own = policy.answer(QUESTION, ["brol needs fenk.", skillcompose.Passage("x", "Fenk", "It is old.", "x.md", "")])
    assert [hit.passage.text for hit in own.passages] == ["brol needs fenk.", "It is old."]
    assert "[1] Passage 1: brol needs fenk.\n[2] Fenk: It is old." in own.prompt
    assert policy.answer(QUESTION, []).prompt == f"Question: {QUESTION}\nAnswer:\n"


def test_passages_are_texts_passages_or_what_a_search_found_in_a_list(policy: skillcompose.Policy) -> None:
    hits = policy.search([QUESTION + " \ud83d"], 2)[0]
    assert policy.answer(QUESTION, hits).passages == tuple(hits)
    assert policy.answer(QUESTION, ["half of an emoji: \ud83d"]).completion is not None
    with pytest.raises(PromptError, match="are a list"):
        policy.answer(QUESTION, "brol is red")
    with pytest.raises(PromptError, match="questions are a list"):
        policy.answer_batch(QUESTION)
    assert policy.answer_batch([]) == list(policy.stream_batch([])) == []


@pytest.mark.parametrize(
    ("texts", "hop", "found"),
    [
        ({"Anna Dorn": NEIGHBOURS}, "The neighbour of Anna Dorn is Yngve Storm.", 1),
        ({"Anna Dorn": NEIGHBOURS}, "The boss of Yngve Storm is Ulf Hald.", None),
        ({"Anna Dorn": NEIGHBOURS}, "The boss of Yngve Storm is Mia Hald.", None),
        ({"x": "Old.", "Customers": "Our customers: Birch Clinics uses Beacon."}, USES, 2),
        ({"Birch Clinics Ltd.": "Birch Clinics Ltd. uses Beacon."}, USES, 1),
        ({"Customers": "Birch Clinics uses Beacon.", "Beacon": "Beacon is a scheduler."}, USES, 1),
        ({"Birch Clinics": "Uses: Beacon"}, USES, 1),
        ({"x": "Old.", "abook": "abook is the featureful word processor."}, "The package is abook.", 2),
        ({"Ulf Hald": "The pet of Ulf Hald is a dog."}, "The boss of Yngve Storm is Ulf Hald.", None),
    ],
)
def test_a_hop_is_cited_where_it_is_stated_and_not_where_its_words_stand(
    texts: dict[str, str], hop: str, found: int | None
) -> None:
    read = [ScoredPassage(skillcompose.Passage(name, name, text, "x.md", ""), 1.0) for name, text in texts.items()]
    assert [one.passage for one in cite(f"{hop}\nSo: x", read)] == [found]


def test_a_title_that_every_sentence_names_is_no_entity() -> None:
    titles = ("the", "IT", "abiword")
    found = by_title(skillcompose.Passage(title, title, "", "x.md", "") for title in titles)
    assert list(found) == ["abiword"]


def test_streams_threads_and_coroutines_say_what_a_single_call_says(policy: skillcompose.Policy) -> None:
    expected = policy.answer(QUESTION)
    assert "".join(policy.stream(QUESTION)).strip() == expected.completion
    assert asyncio.run(policy.answer_async(QUESTION)) == expected
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(policy.answer, [QUESTION] * 8)) == [expected] * 8


def test_who_joins_later_gets_the_answer_of_a_single_call(policy: skillcompose.Policy) -> None:
    asked = [QUESTION, "Who?", f"{QUESTION} {QUESTION}", "What is the size of brol?", "Which is the red clock program?"]
    alone = [policy.answer(question) for question in asked]
    live = policy.live()
    growing = live.join(asked[:1])
    for question in asked[1:]:
        live.step()
        growing += live.join([question])
    unwanted = live.join([QUESTION] * 2)
    live.step()
    live.leave(unwanted[0])
    while not all(one.done for one in growing):
        live.step()
    assert [one.answer for one in growing] == alone
    assert [one.answer.confidence for one in growing] == pytest.approx([answer.confidence for answer in alone])
    assert not unwanted[0].done and unwanted[0] not in live.growing


def test_a_long_prompt_waits_until_there_is_room(policy: skillcompose.Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skillcompose.live.BATCH_TOKENS", 600)
    live = policy.live()
    short, long = live.join([QUESTION], [[]]) + live.join([QUESTION], [["brol needs fenk. " * 60]])
    live.step()
    assert short.ids and not long.ids
    while not long.done:
        live.step()
    assert short.done and long.answer == policy.answer(QUESTION, ["brol needs fenk. " * 60])


@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_an_exported_folder_answers_alone(
    form: str, finished_run: Path, policy: skillcompose.Policy, tmp_path: Path
) -> None:
    found = export(skillcompose.Run.open(finished_run), tmp_path / "out", form)
    assert found["same"] == found["asked"] > 0
    assert found["drift"] < 1e-4
    loaded = skillcompose.Policy.from_pretrained(tmp_path / "out")
    assert loaded.answer(QUESTION) == policy.answer(QUESTION)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "composed (GRPO)" in card
    assert str(finished_run) not in "".join(p.read_text() for p in (tmp_path / "out").rglob("*.json"))
    with pytest.raises(RunError, match="not empty"):
        export(skillcompose.Run.open(finished_run), tmp_path / "out")
    with pytest.raises(RunError, match="skillcompose export"):
        skillcompose.Policy.from_pretrained(tmp_path)


def test_a_model_card_has_no_numbers_of_the_policy_before(tmp_path: Path) -> None:
    recipe = skillcompose.Recipe.from_yaml(ROOT / "recipes" / "quickstart.yaml")
    run = skillcompose.Run(tmp_path)
    cell = {"correct": 1, "asked": 1, "share": 1.0, "interval": [1.0, 1.0]}
    for stage in STAGES:
        run.stage(stage.name).mkdir()
        record = {"key": stage_key(stage, recipe, run), "outputs": {"policy": "first"}}
        write_json(run.stage(stage.name) / "stage.json", record)
    write_json(run.stage("evaluation") / "metrics.json", {"composed": {"unseen": {"iid": cell, "macro": 1.0}}})
    assert "| composed (GRPO) | 100 [100, 100] |" in card(run, recipe, "gguf")
    write_json(run.stage("composition") / "stage.json", {"key": "", "outputs": {"policy": "second"}})
    assert "Not evaluated." in card(run, recipe, "gguf") and "composed (GRPO)" not in card(run, recipe, "gguf")


def test_an_adapter_is_not_put_on_another_base(finished_run: Path, tmp_path: Path) -> None:
    export(skillcompose.Run.open(finished_run), tmp_path / "out", "adapter")
    assert "--max-lora-rank 8 " in (tmp_path / "out" / "README.md").read_text()
    settings = tmp_path / "out" / "policy.json"
    settings.write_text(settings.read_text().replace('"fingerprint": "', '"fingerprint": "x'))
    with pytest.raises(ModelError, match="not the base"):
        skillcompose.Policy.from_pretrained(tmp_path / "out")


def test_a_gguf_file_says_what_the_policy_says(
    finished_run: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = skillcompose.Run.open(finished_run), tmp_path / "out"
    with pytest.raises(ModelError, match="convert_hf_to_gguf"):
        export(run, out, "gguf")
    assert not out.exists()
    config = json.loads((tiny_model / "config.json").read_text())
    writer = gguf.GGUFWriter(tmp_path / "header.gguf", "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    monkeypatch.setattr(gguf_file, "HEADER", str(tmp_path / "header.gguf"))
    found = export(run, out, "gguf")
    assert found["drift"] < 2e-3
    assert found["same"] >= found["asked"] - 1
    assert prompt("{{ .Prompt }}") in (out / "Modelfile").read_text()


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
        assert client.get("/healthz").status_code == 200
        assert client.get("/v1/models", headers={"Host": "x/healthz?"}).status_code == 401
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


def test_export_and_ask_from_the_command_line(finished_run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["export", str(finished_run), str(tmp_path / "out")])
    assert result.exit_code == 0, result.stderr
    assert "same answer on" in result.stderr
    result = CliRunner().invoke(main, ["ask", str(tmp_path / "out"), QUESTION, "--json"])
    assert json.loads(result.stdout)["passages"]


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


def test_the_server_reads_the_turns_before(client: TestClient, policy: skillcompose.Policy) -> None:
    title = policy.retriever.passages[0].title
    messages = [
        {"role": "user", "content": f"What is {title}?"},
        {"role": "assistant", "content": f"So: {title}"},
        {"role": "user", "content": "Who owns it?"},
    ]
    found = client.post("/v1/chat/completions", json={"model": "x", "messages": messages}).json()
    assert found["choices"][0]["message"]["content"] == policy.answer(f"Who owns {title}?").completion
