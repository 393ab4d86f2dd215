"""One thread that computes for all others: whoever asks a policy, from whatever thread, is answered in this one.

OpenMP keeps a team of workers for each thread that ever computed. As soon as there are more workers than processors,
all of them sleep between two products instead of spinning, and a token takes one and a half times as long (61 ms
instead of 42 with 135M parameters on two cores), also in the thread that was there first.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Found = TypeVar("Found")
_here = threading.local()


def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "skillcompose", lambda: setattr(_here, "computing", True))


def _after_fork() -> None:
    """A forked process has the pools' books, but not their threads: it would wait for ever."""
    global thread, waiting
    thread, waiting = _pool(), _waiting()


def _waiting() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(32, "skillcompose-waiting")


thread = _pool()
waiting = _waiting()
"""For callers of an event loop. Not the loop's own threads: they are for whatever else an app does in them."""
os.register_at_fork(after_in_child=_after_fork)


def in_one_thread(function: Callable[Given, Found]) -> Callable[Given, Found]:
    """Run it in the thread that computes, one call after another; from that thread itself at once."""

    @wraps(function)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> Found:
        if hasattr(_here, "computing"):
            return function(*args, **kwargs)
        return thread.submit(function, *args, **kwargs).result()

    return run
