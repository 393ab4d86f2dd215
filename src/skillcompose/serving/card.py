"""What stands beside exported weights: the model card, and Ollama's Modelfile."""

from skillcompose.pipeline import is_current
from skillcompose.prompts import prompt
from skillcompose.recipe import Recipe
from skillcompose.results import as_markdown, ladder_table
from skillcompose.run import Run
from skillcompose.types import read_json

GGUF = "model.gguf"
RANKS_OF_VLLM = (8, 16, 32, 64, 128, 256, 320, 512)


def card(run: Run, recipe: Recipe, form: str) -> str:
    """The model card: what it is, how it is loaded, what was measured, what it is not for."""
    # What stands there may have been measured on the policy before this one.
    ladder = "Not evaluated."
    if is_current("evaluation", recipe, run):
        ladder = as_markdown(ladder_table(read_json(run.stage("evaluation") / "metrics.json")))
    return f"""---
base_model: {recipe.model}
---

# {recipe.name}

A composed policy: it reads passages that a retriever finds, and knows what they do not say. Trained with skillcompose
from `{recipe.model}`, whose licence holds for these weights; what it knows comes from the knowledge base of the run.

{usage(run, recipe, form)}

## Measured

Exact match in percent on test questions that it was not trained on; unseen bridges unless said otherwise.

{ladder}

## Limits

It answers questions about its knowledge base in the form that it was trained in, greedily. A wrong answer reads as sure
as a right one. Other abilities of the base model suffered, and were not measured.
"""


def usage(run: Run, recipe: Recipe, form: str) -> str:
    """How this form is loaded."""
    raw = (
        'The prompt is plain text, without a chat template. What is written then is the line "nothing asked again" '
        f"below:\n\n```\n[1] title: text\n\n{prompt('...')}```"
    )
    if form == "gguf":
        return f"""`ollama create {recipe.name} -f Modelfile`, then ask with the question as prompt and the passages,
one a line (`[1] title: text`), as system message. Ollama itself was not run here.

{raw}"""
    own = """```python
import skillcompose

answer = skillcompose.Policy.from_pretrained("this folder").answer("...")
```"""
    if form == "merged":
        return f"{own}\n\n{raw}"
    config = read_json(run.require("composition") / "composed" / "adapter_config.json")
    rank = max([config["r"], *config["rank_pattern"].values()])
    room = next((size for size in RANKS_OF_VLLM if size >= rank), rank)
    return f"""{own}

vLLM serves it beside other adapters of the same base (not run here):

```bash
vllm serve BASE_FOLDER --enable-lora --max-lora-rank {room} --lora-modules {recipe.name}=THIS_FOLDER
```

{raw}"""


def modelfile(max_new_tokens: int) -> str:
    """Ollama's recipe: the user's message is the question, the system message holds the passages."""
    return f'''FROM ./{GGUF}
TEMPLATE """{{{{ if .System }}}}{{{{ .System }}}}

{{{{ end }}}}{prompt("{{ .Prompt }}")}"""
PARAMETER temperature 0
PARAMETER num_predict {max_new_tokens}
'''
