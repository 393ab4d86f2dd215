"""Teach a small model two atomic skills, one LoRA each, and compose them by reinforcement learning.

Names are imported on first use, so that `import skillcompose` loads no torch.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

# TRL, transformers and the hub client report usage by default; a knowledge base is nobody else's business.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

if TYPE_CHECKING:
    from skillcompose.pipeline import plan, train
    from skillcompose.policy import Policy
    from skillcompose.recipe import Recipe
    from skillcompose.run import Run
    from skillcompose.types import Answer, Fact, Level, Passage, Question, ScoredPassage, Skill

_HOME = {
    "Answer": "types",
    "Fact": "types",
    "Level": "types",
    "Passage": "types",
    "Policy": "policy",
    "Question": "types",
    "Recipe": "recipe",
    "Run": "run",
    "ScoredPassage": "types",
    "Skill": "types",
    "plan": "pipeline",
    "train": "pipeline",
}
__all__ = [
    "Answer",
    "Fact",
    "Level",
    "Passage",
    "Policy",
    "Question",
    "Recipe",
    "Run",
    "ScoredPassage",
    "Skill",
    "plan",
    "train",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'skillcompose' has no attribute {name!r}")
    return getattr(importlib.import_module(f"skillcompose.{_HOME[name]}"), name)
