"""OpenAI's own client against `skillcompose serve`: answers, streams, citations, refusals."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

QUESTION = "Who owns what abook needs?"


@pytest.fixture(scope="module")
def address(finished_run: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "skillcompose", "serve", str(finished_run), "--port", str(port)]
    server = subprocess.Popen(command, env=os.environ | {"SKILLCOMPOSE_API_KEY": "secret"})
    url = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            httpx.get(f"{url}/healthz").raise_for_status()
            break
        except httpx.TransportError:
            assert server.poll() is None
            time.sleep(0.2)
    yield url
    server.terminate()
    assert server.wait(30) in (0, -15)


def test_a_stock_client_asks_streams_and_reads_citations(address: str) -> None:
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="secret", max_retries=0)
    (model,) = client.models.list().data
    messages = [{"role": "user", "content": QUESTION}]
    found = client.chat.completions.create(model=model.id, messages=messages)
    text = found.choices[0].message.content
    assert text and found.usage.total_tokens > 10
    cited = found.model_extra["skillcompose"]
    assert cited["passages"][0]["document"] and "quote" in cited["passages"][0]
    chunks = list(client.chat.completions.create(model=model.id, messages=messages, stream=True))
    assert len(chunks) > 3
    assert "".join(c.choices[0].delta.content or "" for c in chunks).strip() == text
    assert chunks[-1].model_extra["skillcompose"] == cited


def test_a_stock_client_understands_refusals(address: str) -> None:
    wrong = openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="Bearer"):
        wrong.models.list()
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="secret", max_retries=0)
    with pytest.raises(openai.UnprocessableEntityError, match="4000 characters"):
        client.chat.completions.create(model="x", messages=[{"role": "user", "content": "long " * 1000}])
