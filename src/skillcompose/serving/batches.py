"""Questions of many clients answered together; who comes later joins between two tokens."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from skillcompose import computing
from skillcompose.live import Growing
from skillcompose.policy import Given, Policy
from skillcompose.types import Answer

SIZE = 16  # questions answered together
WAIT = 0.03  # seconds for others to come along: clients that were answered together ask again together
LOOK = 1.0  # seconds until a client that waits for its turn is looked after again
PENDING = 64  # questions that may wait; further ones are refused


class Busy(Exception):
    """Too many questions wait already."""


class Left(Exception):
    """Nobody waits for the answer any more."""


@dataclass(eq=False)
class Asked:
    question: str
    passages: Given | None
    said: "asyncio.Queue[tuple[Answer | BaseException, Growing | None]]" = field(default_factory=asyncio.Queue)
    """Answers that grow, the last one with what it grew from; or what went wrong."""
    gone: bool = False


class Batches:
    """`work` runs for as long as the server does; `ask` is what a request calls."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.live = policy, policy.live()
        self.waiting: asyncio.Queue[Asked] = asyncio.Queue(PENDING)
        self.answering: dict[Growing, Asked] = {}

    async def ask(
        self, question: str, passages: Given | None, seconds: float, left: Callable[[], Awaitable[bool]]
    ) -> AsyncIterator[tuple[Answer, Growing | None]]:
        """The answer as it grows, and at last with its hops and what it grew from.

        Raises:
            Busy: Too many questions wait.
            Left: The client has `left` before its turn came.
            TimeoutError: It took longer than `seconds`.
        """
        asked, end = Asked(question, passages), time.monotonic() + seconds
        begun = False
        try:
            self.waiting.put_nowait(asked)
        except asyncio.QueueFull:
            raise Busy from None
        try:
            last = None
            while last is None:
                wait = end - time.monotonic()
                try:
                    # Not `asyncio.timeout`: a stream's later parts are asked for by another task.
                    answer, last = await asyncio.wait_for(asked.said.get(), wait if begun else min(wait, LOOK))
                except TimeoutError:
                    if begun or wait <= LOOK:
                        raise
                    if await left():
                        raise Left from None
                    continue
                begun = True
                if isinstance(answer, BaseException):
                    raise answer
                yield answer, last
        finally:
            asked.gone = True

    async def work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            new: list[Asked] = []
            if not self.answering:
                new.append(await self.waiting.get())
                await asyncio.sleep(WAIT)
            while len(self.answering) + len(new) < SIZE and not self.waiting.empty():
                new.append(self.waiting.get_nowait())
            new = [asked for asked in new if not asked.gone]
            # Not in the loop's thread, so that the server goes on listening.
            await loop.run_in_executor(computing.thread, self._turn, new, loop)

    def _turn(self, new: list[Asked], loop: asyncio.AbstractEventLoop) -> None:
        """Take in the new ones, and give everybody one more token."""

        def say(asked: Asked, answer: Answer | BaseException, last: Growing | None = None) -> None:
            loop.call_soon_threadsafe(asked.said.put_nowait, (answer, last))

        def take_in(some: list[Asked]) -> None:
            passages = None if some[0].passages is None else [asked.passages or [] for asked in some]
            try:
                growing = self.live.join([asked.question for asked in some], passages)
                self.answering |= dict(zip(growing, some, strict=True))
            except Exception as error:
                if len(some) == 1:
                    say(some[0], error)
                else:  # One of them is the reason: the others must not suffer for it.
                    for asked in some:
                        take_in([asked])

        # Own passages and found ones are told apart by the policy, not mixed in a call.
        for given in (True, False):
            if some := [asked for asked in new if (asked.passages is not None) is given]:
                take_in(some)
        for growing, asked in list(self.answering.items()):
            if asked.gone:
                self.live.leave(growing)
                del self.answering[growing]
        if not self.answering:
            return
        try:
            self.live.step()
        except Exception as error:
            for asked in self.answering.values():
                say(asked, error)
            self.live, self.answering = self.policy.live(), {}
        for growing, asked in list(self.answering.items()):
            say(asked, growing.answer, growing if growing.done else None)
            if growing.done:
                del self.answering[growing]
