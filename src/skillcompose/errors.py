"""Every error a user can cause, as a tree. A message says what, where and what to do next.

```
SkillComposeError
├── RecipeError(ValueError)               .problems = [(dotted path, message)]
├── KnowledgeBaseError(ValueError)        nothing readable, no facts, nothing to ask
├── ModelError(ValueError)                a model name that is neither built in, nor a folder, nor reachable
├── StageError(RuntimeError)              .stage
│   ├── AdapterError                      adapters that cannot be combined
│   ├── MasteryError                      an atomic skill is below the gate
│   └── TrainingError                     nothing trained: no parameters, unchanged weights, constant reward
├── RunError(RuntimeError)                a run folder that is missing, locked or damaged
├── PromptError(ValueError)               question and passages that the model cannot read at once
├── RetrievalError(ValueError)            a search that this retriever cannot do
├── ServingError(RuntimeError)            a server that cannot or must not start
└── IntegrationError(RuntimeError)        another library that is missing, or holds something else
```
"""


class SkillComposeError(Exception):
    """Root of every error that is the user's to fix; the CLI prints it without a traceback and exits with 1."""


class RecipeError(SkillComposeError, ValueError):
    """All problems of one recipe at once: `problems` is a list of (dotted path, message)."""

    def __init__(self, source: str, problems: list[tuple[str, str]]) -> None:
        self.problems = problems
        count = f"{len(problems)} problem" + ("s" if len(problems) != 1 else "")
        lines = "\n".join(f"  {path}: {message}" for path, message in problems)
        super().__init__(f"{source}: {count}\n{lines}")


class KnowledgeBaseError(SkillComposeError, ValueError):
    """The knowledge base holds nothing that the stage can use."""


class ModelError(SkillComposeError, ValueError):
    """A model cannot be found or must not be loaded."""


class StageError(SkillComposeError, RuntimeError):
    """A stage cannot go on; `train` says in `stage` which."""

    stage = ""


class AdapterError(StageError):
    """Two adapters that an exact merge cannot combine."""


class MasteryError(StageError):
    """An atomic skill is below the gate, so composing it would waste the hours that follow."""


class TrainingError(StageError):
    """Training ran and taught nothing."""


class RunError(SkillComposeError, RuntimeError):
    """A run folder is missing, locked by another process, or damaged."""


class PromptError(SkillComposeError, ValueError):
    """What cannot be asked: a blank question, or one that with its passages is longer than the model can read."""


class RetrievalError(SkillComposeError, ValueError):
    """A retriever is asked for what it does not have."""


class ServingError(SkillComposeError, RuntimeError):
    """The server cannot start, or must not as it is set up."""


class IntegrationError(SkillComposeError, RuntimeError):
    """Another library is not installed, or does not hold what is read from it."""
