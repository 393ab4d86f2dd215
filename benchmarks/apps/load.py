"""The server under load, from a second process on loopback, with the demo's policy.

    python benchmarks/apps/load.py              the claims `apps.*`; needs the demo's finished run
    python benchmarks/apps/load.py --many 2000  memory over so many requests as well

200 questions by 16 clients at once against one client; then 4 clients; then a stream. Every question is another one of
the test's, and includes retrieval.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import claims

COMMAND = "python benchmarks/apps/load.py"
REQUESTS, CLIENTS, FEW, ALONE, QUARTERS = 200, 16, 4, 24, 4


class Server:
    """`skillcompose serve` in a process of its own."""

    def __init__(self, run: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "skillcompose", "serve", str(run), "--port", str(self.port)]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"HF_HUB_OFFLINE": "1"})

    def __enter__(self) -> "Server":
        while True:
            try:
                self.get("/healthz")
                return self
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit("the server did not start") from None
                time.sleep(0.5)

    def __exit__(self, *args: Any) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
            return bytes(response.read())

    def post(self, question: str, stream: bool = False) -> Any:
        body = {"model": "demo", "messages": [{"role": "user", "content": question}], "stream": stream}
        return urllib.request.urlopen(
            urllib.request.Request(
                f"http://127.0.0.1:{self.port}/v1/chat/completions",
                json.dumps(body).encode(),
                {"content-type": "application/json"},
            ),
            timeout=120,
        )

    def ask(self, question: str) -> float | None:
        """Seconds to a whole answer; None when it got lost."""
        begin = time.monotonic()
        try:
            with self.post(question) as response:
                found = json.loads(response.read())
        except OSError:
            return None
        return time.monotonic() - begin if found["choices"][0]["message"]["content"] else None

    def memory(self) -> float:
        """GiB that are resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 2**20


def load(server: Server, questions: list[str], clients: int) -> tuple[float, list[float], int]:
    """Seconds in all, seconds of each, and how many were lost."""
    begin = time.monotonic()
    with ThreadPoolExecutor(clients) as threads:
        took = list(threads.map(server.ask, questions))
    done = [seconds for seconds in took if seconds is not None]
    return time.monotonic() - begin, done, len(took) - len(done)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=claims.ROOT / "runs" / "quickstart")
    parser.add_argument("--many", type=int, default=0)
    options = parser.parse_args()
    lines = (options.run / "04-questions" / "complementary.test.jsonl").read_text(encoding="utf-8").splitlines()
    lines += (options.run / "04-questions" / "contextual.test.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    questions = [texts[i % len(texts)] for i in range(max(REQUESTS, options.many))]
    with Server(options.run) as server:
        load(server, questions[:CLIENTS], CLIENTS)
        alone, single, _ = load(server, questions[:ALONE], 1)
        whole, many, lost = load(server, questions[:REQUESTS], CLIENTS)
        _, few, lost_few = load(server, questions[:80], FEW)
        parts: list[float] = []
        begin = time.monotonic()
        with server.post(questions[0], stream=True) as response:
            parts += [time.monotonic() - begin for line in response if line.strip()]
        ratio = (REQUESTS / whole) / (ALONE / alone)
        print(f"one client: {ALONE / alone:.2f} a second, median {statistics.median(single):.2f} s")
        print(f"{CLIENTS} clients: {REQUESTS / whole:.2f} a second ({ratio:.1f} times), lost {lost}, ", end="")
        print(f"p50 {statistics.median(many):.2f} s, p95 {percentile(many, 0.95):.2f} s")
        print(f"{FEW} clients: p50 {statistics.median(few):.2f} s, p95 {percentile(few, 0.95):.2f} s, lost {lost_few}")
        print(f"stream: first text after {parts[0]:.2f} s, last after {parts[-1]:.2f} s, {len(parts)} parts")
        if options.many:
            parts_of = [questions[i::QUARTERS] for i in range(QUARTERS)]
            sizes, more = [server.memory()], 0
            for part in parts_of:
                more += load(server, part, CLIENTS)[2]
                sizes.append(server.memory())
            # A server keeps what the largest batch so far needed; what it still gains at the end is a leak.
            grown = sizes[-1] - sizes[-2]
            print(
                f"memory by quarters of {options.many}: {', '.join(f'{size:.2f}' for size in sizes)} GiB, lost {more}"
            )
            unit = f"MiB in the last {len(parts_of[-1])} of {options.many}"
            claims.write("apps.load_memory_growth", round(1024 * grown), unit, COMMAND, [0])
            lost += more
    claims.write("apps.load_lost", lost + lost_few, f"of {REQUESTS + 80 + options.many}", COMMAND, [0])
    claims.write("apps.load_throughput_ratio", round(ratio, 2), "times one at a time", COMMAND, [0])
    claims.write("apps.load_p95_seconds", round(percentile(few, 0.95), 2), f"s, {FEW} at once", COMMAND, [0])
    claims.write("apps.first_token_seconds", round(parts[0], 2), "s", COMMAND, [0])
    claims.write("apps.answer_seconds", round(statistics.median(single), 2), "s, median", COMMAND, [0])


if __name__ == "__main__":
    main()
