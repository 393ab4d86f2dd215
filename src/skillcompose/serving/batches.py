"""Questions of many clients answered together: one batch at a time, which takes whoever waits when it starts."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from skillcompose.policy import Policy
from skillcompose.types import Answer, Passage

SIZE = 16  # questions of a batch
WAIT = 0.03  # seconds for others to come along: clients that were answered together ask again together
PENDING = 64  # questions that may wait; further ones are refused


class Busy(Exception):
    """Too many questions wait already."""


@dataclass(eq=False)
class Asked:
    question: str
    passages: Sequence[Passage | str] | None
    said: "asyncio.Queue[tuple[Answer | BaseException, bool]]" = field(default_factory=asyncio.Queue)
    """Answers that grow, with whether it is the last one; or what went wrong."""
    gone: bool = False


class Batches:
    """`work` runs for as long as the server does; `ask` is what a request calls."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.waiting: asyncio.Queue[Asked] = asyncio.Queue(PENDING)

    async def ask(
        self, question: str, passages: Sequence[Passage | str] | None, seconds: float
    ) -> AsyncIterator[tuple[Answer, bool]]:
        """The answer as it grows, and at last with its hops.

        Raises:
            Busy: Too many questions wait.
            TimeoutError: It took longer than `seconds`.
        """
        asked, end = Asked(question, passages), time.monotonic() + seconds
        try:
            self.waiting.put_nowait(asked)
        except asyncio.QueueFull:
            raise Busy from None
        try:
            last = False
            while not last:
                # Not `asyncio.timeout`: a stream's later parts are asked for by another task.
                answer, last = await asyncio.wait_for(asked.said.get(), end - time.monotonic())
                if isinstance(answer, BaseException):
                    raise answer
                yield answer, last
        finally:
            asked.gone = True

    async def work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self.waiting.get()]
            await asyncio.sleep(WAIT)
            while len(batch) < SIZE and not self.waiting.empty():
                batch.append(self.waiting.get_nowait())
            # Own passages and found ones are told apart by the policy, not mixed in a call.
            for given in (True, False):
                part = [asked for asked in batch if (asked.passages is not None) is given and not asked.gone]
                # Own passages can be long, so they are not padded to each other's length.
                for some in [[asked] for asked in part] if given else [part] if part else []:
                    await asyncio.to_thread(self._answer, some, loop)

    def _answer(self, batch: list[Asked], loop: asyncio.AbstractEventLoop) -> None:
        """In a thread of its own, so that the server goes on listening."""

        def say(asked: Asked, answer: Answer | BaseException, last: bool) -> None:
            loop.call_soon_threadsafe(asked.said.put_nowait, (answer, last))

        before: list[Answer] = []
        try:
            passages = None if batch[0].passages is None else [asked.passages or [] for asked in batch]
            for answers in self.policy.stream_batch([asked.question for asked in batch], passages):
                for asked, answer in zip(batch, before, strict=False):
                    say(asked, answer, False)
                before = answers
                if all(asked.gone for asked in batch):
                    return
            for asked, answer in zip(batch, before, strict=True):
                say(asked, answer, True)
        except Exception as error:
            if len(batch) > 1:
                # One of them may be the reason: the others must not suffer for it. Greedy answers begin alike again.
                for asked in batch:
                    self._answer([asked], loop)
            else:
                say(batch[0], error, True)
