"""A run -> one folder that other tools load, in one of three forms.

`merged` holds the weights with the adapter added: transformers, vLLM and others load it as any model. `adapter` is the
LoRA for PEFT and vLLM. Both come with tokenizer, index and its models, so `Policy.from_pretrained` needs nothing else
(an adapter: its base). `gguf` is one file for llama.cpp, and a Modelfile for Ollama.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from skillcompose import gguf_file
from skillcompose.builtin import fingerprint, resolve
from skillcompose.errors import ModelError, RunError
from skillcompose.generation import completions
from skillcompose.models import load_adapter, load_base, load_tokenizer
from skillcompose.pipeline import is_current, load_recipe
from skillcompose.policy import SETTINGS, known_entities
from skillcompose.prompts import prompt
from skillcompose.recall import Recall
from skillcompose.recipe import Recipe
from skillcompose.results import as_markdown, ladder_table
from skillcompose.run import Run
from skillcompose.sections import MODELS
from skillcompose.stages import check_models
from skillcompose.types import Question, read_json, read_jsonl, readable, write_json, write_text

GOLDEN = 20
DRIFT = {"merged": 1e-3, "adapter": 1e-3, "gguf": 1e-2}  # of the logits' norm; F16 rounds
GGUF = "model.gguf"
UNFINISHED = ".unfinished"
RANKS_OF_VLLM = (8, 16, 32, 64, 128, 256, 320, 512)


def export(run: Run, folder: Path, form: str = "merged") -> dict[str, float]:
    """Write the composed policy of a run to a new folder.

    Args:
        run: A finished run.
        folder: Where to; it must not have anything in it.
        form: merged, adapter or gguf.

    Returns:
        How far the logits of what was written are from the policy's (relative) when it is loaded as others load it,
        and of how many golden questions its answer is the policy's: `{"drift", "same", "asked"}`.

    Raises:
        RunError: The folder has something in it, or composition has not finished.
        ModelError: What was written computes something else (nothing is left behind), or this base has no GGUF.
    """
    folder = folder.resolve()
    recipe = load_recipe(run)
    check_models(run, recipe)
    base = recipe.base()
    tokenizer = load_tokenizer(base)
    asked = read_jsonl(run.require("questions") / "complementary.test.jsonl", Question)[:GOLDEN]
    prompts = [prompt(question.text, question.passages) for question in asked]
    adapter = run.require("composition") / "composed"
    with _aside(folder) as aside:
        model = load_adapter(load_base(base, torch.float32), adapter)
        before = _logits(model, tokenizer, prompts)
        said = completions(model, tokenizer, prompts, recipe.max_new_tokens)
        again = FORMS[form](model.merge_and_unload(), recipe, base, adapter, aside)
        drift = float((_logits(again, tokenizer, prompts) - before).norm() / before.norm())
        if drift > DRIFT[form]:
            raise ModelError(f"exported, the logits differ by {drift:.1e} from the policy's; nothing was left there")
        after = completions(again, tokenizer, prompts, recipe.max_new_tokens)
        if form != "gguf":
            tokenizer.save_pretrained(aside)
            _for_older(aside)
            _retriever(run, recipe, aside)
            settings = {
                "k": recipe.index.k,
                "max_new_tokens": recipe.max_new_tokens,
                "known": Recall.of(recipe).relations,
                "entities": known_entities(run),
                "run": recipe.name,
            }
            if form == "adapter":
                settings |= {"base": _base_name(recipe, base), "fingerprint": fingerprint(base)}
            write_json(aside / SETTINGS, settings)
        write_text(aside / "README.md", card(run, recipe, form))
        readable(aside, aside / "README.md")
    return {
        "drift": drift,
        "same": sum(a.text == b.text for a, b in zip(said, after, strict=True)),
        "asked": len(asked),
    }


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A folder in the new one, which may be a mount point, for what moves up when all of it is there."""
    aside, there = folder / UNFINISHED, folder.is_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(path != aside for path in folder.iterdir()):
            raise RunError(f"{folder} is not empty; name a new folder")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
    except OSError as error:
        raise RunError(f"{folder} cannot be written ({error.strerror}); name another folder") from error
    try:
        yield aside
        # By its settings a folder is known as exported.
        for path in sorted(aside.iterdir(), key=lambda path: path.name == SETTINGS):
            path.rename(folder / path.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if not there and not any(folder.iterdir()):
            folder.rmdir()


def _plain(folder: str, **how: Any) -> PreTrainedModel:
    """As others load it, without our kernels."""
    how = {"dtype": torch.float32, "trust_remote_code": False, "use_safetensors": True} | how
    model = AutoModelForCausalLM.from_pretrained(folder, **how)
    model.generation_config.do_sample = False
    return model.eval()


def _for_older(folder: Path) -> None:
    """What transformers before 5 reads: it knows neither the new tokenizer class nor where the base of RoPE stands."""
    settings = read_json(folder / "tokenizer_config.json")
    if settings.get("tokenizer_class") == "TokenizersBackend":
        write_json(folder / "tokenizer_config.json", settings | {"tokenizer_class": "PreTrainedTokenizerFast"})
    config = folder / "config.json"
    if config.is_file():
        about = read_json(config)
        base = (about.get("rope_parameters") or {}).get("rope_theta")
        write_json(config, about | ({"rope_theta": base} if base else {}))


def _merged(plain: PreTrainedModel, recipe: Recipe, base: str, adapter: Path, folder: Path) -> PreTrainedModel:
    # Sampling defaults that the base ships with contradict greedy answers, and then nothing is saved.
    plain.generation_config.temperature = plain.generation_config.top_p = plain.generation_config.top_k = None
    plain.save_pretrained(folder)
    return _plain(str(folder))


def _adapter(plain: PreTrainedModel, recipe: Recipe, base: str, adapter: Path, folder: Path) -> PreTrainedModel:
    shutil.copytree(adapter, folder, dirs_exist_ok=True)
    config = folder / "adapter_config.json"
    write_json(config, read_json(config) | {"base_model_name_or_path": _base_name(recipe, base)})
    return PeftModel.from_pretrained(_plain(base), str(folder)).eval()


def _base_name(recipe: Recipe, base: str) -> str:
    """Not the folder in which this machine keeps a built-in; another folder whole, it may be relative to the recipe."""
    return recipe.model if recipe.model.startswith("builtin:") else base


def _gguf(plain: PreTrainedModel, recipe: Recipe, base: str, adapter: Path, folder: Path) -> PreTrainedModel:
    header = Path(base) / gguf_file.HEADER
    if not header.is_file():
        raise ModelError(
            f"{base} has no {gguf_file.HEADER}: GGUF is written for built-in models (in a cache from an older version "
            "remove that folder and run `skillcompose fetch`). For another base export the merged form and run "
            "llama.cpp's convert_hf_to_gguf.py on it."
        )
    gguf_file.write(plain, header, folder / GGUF)
    write_text(folder / "Modelfile", modelfile(recipe.max_new_tokens))
    return _plain(str(folder), gguf_file=GGUF, use_safetensors=None)


FORMS: dict[str, Callable[[PreTrainedModel, Recipe, str, Path, Path], PreTrainedModel]] = {
    "merged": _merged,
    "adapter": _adapter,
    "gguf": _gguf,
}


def modelfile(max_new_tokens: int) -> str:
    """Ollama's recipe: the user's message is the question, the system message holds the passages."""
    return f'''FROM ./{GGUF}
TEMPLATE """{{{{ if .System }}}}{{{{ .System }}}}

{{{{ end }}}}{prompt("{{ .Prompt }}")}"""
PARAMETER temperature 0
PARAMETER num_predict {max_new_tokens}
'''


def _retriever(run: Run, recipe: Recipe, folder: Path) -> None:
    index = shutil.copytree(run.require("index"), folder / "index", ignore=shutil.ignore_patterns("stage.json"))
    about = read_json(index / "index.json")
    for name in MODELS:
        if about[name] and (model := Path(resolve(about[name], recipe.beside))).is_dir():
            shutil.copytree(model, folder / name)
            about[name] = name
    write_json(index / "index.json", about)


@torch.no_grad()
def _logits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> torch.Tensor:
    """Of the last token of each prompt."""
    ids = (tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids for text in prompts)
    return torch.cat([model(row.to(model.device)).logits[:, -1].float().cpu() for row in ids])


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
