"""What is shown while one waits."""

import pytest

from skillcompose import progress
from skillcompose.progress import Progress


def test_a_log_gets_lines_without_cursor_codes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    list(Progress("[7/7] evaluation").each("abc", "composed", 3))
    assert not capsys.readouterr().err, "what ends soon is not told"
    monkeypatch.setitem(progress.IN_LOG, "delay", 0)
    assert list(Progress("[5/7] adapters", 1).each("abc", "parametric", 3)) == list("abc")
    with Progress(row=1).bar("interrupted", 3) as bar:
        bar.update()
    shown = capsys.readouterr().err
    assert not set("\r\x1b") & set(shown)
    first, *_, last = shown.splitlines()
    assert first.startswith("[5/7] adapters: parametric:   0%") and last.startswith("interrupted:  33%")
    assert "100%" in shown and shown.endswith("]\n")
