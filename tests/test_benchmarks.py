"""The speed benchmarks at a tiny size: both sides compute the same thing. Nothing is timed here."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks" / "speed"))
import answering
import grpo
import sft

from skillcompose.types import write_json

EXACT = "float32"


def test_a_grpo_step_has_the_loss_and_the_gradient_of_stock_trl(tiny_model: Path) -> None:
    stock, ours = (grpo.run(name, str(tiny_model), 40, 8, 4, EXACT) for name in ("stock", "ours"))
    assert ours["loss"] == pytest.approx(stock["loss"], abs=1e-5)
    assert stock["gradient"].norm() > 0
    torch.testing.assert_close(ours["gradient"], stock["gradient"], rtol=1e-3, atol=1e-6)


def test_an_epoch_of_sft_has_the_loss_of_stock_trl(finished_run: Path, tiny_model: Path) -> None:
    questions = finished_run / "04-questions"
    stock, ours = (sft.run(name, str(tiny_model), questions, 16, EXACT)["loss"] for name in ("stock", "ours"))
    assert ours == pytest.approx(stock, rel=1e-4)


def test_the_evaluation_answers_as_generate_does(finished_run: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked.json"
    write_json(asked, answering.record(finished_run))
    one, many, ours = (answering.measure(name, finished_run, asked, EXACT)["answers"] for name in answering.SIDES)
    assert one == many == ours
    assert any(text for rung in ours for text in rung)
