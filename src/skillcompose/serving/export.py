"""A run -> one folder that needs nothing else: merged weights, tokenizer, index, embedder, model card.

transformers, vLLM and others load it as any model; `Policy.from_pretrained` finds the retriever in it too.
"""

import json
import shutil
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skillcompose.builtin import resolve
from skillcompose.errors import ModelError, RunError
from skillcompose.generation import answer_texts
from skillcompose.models import load_adapter, load_base, load_tokenizer
from skillcompose.pipeline import load_recipe
from skillcompose.policy import SETTINGS
from skillcompose.prompts import prompt
from skillcompose.results import as_markdown, ladder_table
from skillcompose.run import Run
from skillcompose.types import Question, read_json, read_jsonl, write_json, write_text

GOLDEN = 20
DRIFT = 1e-3  # of the logits' norm


def export(run: Run, folder: Path) -> dict[str, float]:
    """Write the composed policy of a run to a new folder.

    Returns:
        How far the merged weights' logits are from the adapter's (relative), and of how many golden questions the
        folder's answer is the adapter's: `{"drift", "same", "asked"}`.

    Raises:
        RunError: The folder has something in it, or composition has not finished.
        ModelError: The merged weights compute something else; nothing is left behind.
    """
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} is not empty; name a new folder")
    recipe = load_recipe(run)
    base = resolve(recipe.model, recipe.source.parent)
    tokenizer = load_tokenizer(base)
    asked = read_jsonl(run.require("questions") / "complementary.test.jsonl", Question)[:GOLDEN]
    prompts = [prompt(question.text, question.passages) for question in asked]
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        model = load_adapter(load_base(base, torch.float32), run.require("composition") / "composed")
        before = _logits(model, tokenizer, prompts)
        said = answer_texts(model, tokenizer, prompts, recipe.max_new_tokens)
        plain = model.merge_and_unload()
        # Sampling defaults that the base ships with contradict greedy answers, and then nothing is saved.
        plain.generation_config.temperature = plain.generation_config.top_p = plain.generation_config.top_k = None
        plain.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        merged = load_base(str(aside), torch.float32)
        drift = float((_logits(merged, tokenizer, prompts) - before).norm() / before.norm())
        if drift > DRIFT:
            raise ModelError(f"merged, the logits differ by {drift:.1e} from the adapter's; nothing was exported")
        again = answer_texts(merged, tokenizer, prompts, recipe.max_new_tokens)
        index = shutil.copytree(run.require("index"), aside / "index", ignore=shutil.ignore_patterns("stage.json"))
        embedder = Path(resolve(recipe.index.embedder, recipe.source.parent))
        if embedder.is_dir():
            shutil.copytree(embedder, aside / "embedder")
            write_json(index / "index.json", read_json(index / "index.json") | {"embedder": "embedder"})
        write_json(aside / SETTINGS, {"k": recipe.index.k, "max_new_tokens": recipe.max_new_tokens, "run": recipe.name})
        write_text(aside / "README.md", card(run, recipe.name, recipe.model))
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return {"drift": drift, "same": sum(a == b for a, b in zip(said, again, strict=True)), "asked": len(asked)}


@torch.no_grad()
def _logits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> torch.Tensor:
    """Of the last token of each prompt."""
    ids = (tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids for text in prompts)
    return torch.cat([model(row.to(model.device)).logits[:, -1].float().cpu() for row in ids])


def card(run: Run, name: str, base: str) -> str:
    """The model card: what it is, what was measured, what it is not for."""
    metrics = run.stage("evaluation") / "metrics.json"
    ladder = as_markdown(ladder_table(json.loads(metrics.read_text()))) if metrics.is_file() else "Not evaluated."
    return f"""---
base_model: {base}
library_name: transformers
---

# {name}

A composed policy: it reads passages that a retriever finds, and knows what they do not say. Trained with skillcompose
from `{base}`, whose licence holds for these weights; what it knows comes from the knowledge base of the run.

```python
import skillcompose

answer = skillcompose.Policy.from_pretrained("this folder").answer("...")
```

## Measured

Exact match in percent on test questions that it was not trained on; unseen bridges unless said otherwise.

{ladder}

## Limits

It answers questions about its knowledge base in the form that it was trained in, greedily. A wrong answer looks as sure
as a right one. Other abilities of the base model were neither kept on purpose nor measured.
"""
