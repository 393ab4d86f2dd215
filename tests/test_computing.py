"""Whoever asks, one thread computes."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from skillcompose.computing import in_one_thread

WHO = in_one_thread(threading.get_ident)


def test_every_caller_is_answered_by_the_same_thread() -> None:
    with ThreadPoolExecutor(4) as callers:
        found = {WHO(), *(future.result() for future in [callers.submit(WHO) for _ in range(16)])}
    assert len(found) == 1
    assert threading.get_ident() not in found


def test_a_call_within_a_call_does_not_wait_for_itself() -> None:
    assert in_one_thread(lambda: WHO() == threading.get_ident())()


def test_an_error_reaches_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        in_one_thread(lambda: 1 / 0)()


def test_a_forked_process_computes_too() -> None:
    """As an application server's workers are."""
    code = """
import os, threading
from skillcompose import computing
ask = computing.in_one_thread(threading.get_ident)
ask(), computing.waiting.submit(ask).result()
child = os.fork()
if not child:
    ask(), computing.waiting.submit(ask).result()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)
