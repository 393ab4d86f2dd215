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
from skillcompose.pipeline import load_recipe
from skillcompose.policy import SETTINGS, known_entities
from skillcompose.prompts import prompt
from skillcompose.recall import Recall
from skillcompose.recipe import Recipe
from skillcompose.run import LOCK, Run
from skillcompose.sections import MODELS
from skillcompose.serving.card import GGUF, card, modelfile
from skillcompose.stages import check_models
from skillcompose.types import Question, read_json, read_jsonl, readable, write_json, write_text

GOLDEN = 20
DRIFT = {"merged": 1e-3, "adapter": 1e-3, "gguf": 1e-2}  # of the logits' norm; F16 rounds
UNFINISHED = ".skillcompose-export"


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
        again, read = FORMS[form](model.merge_and_unload(), recipe, base, adapter, aside), tokenizer
        if form != "gguf":
            tokenizer.save_pretrained(aside)
            _tokenizer_for_older(aside)
            read = load_tokenizer(str(aside))
        drift = float((_logits(again, read, prompts) - before).norm() / before.norm())
        if drift > DRIFT[form]:
            raise ModelError(f"exported, the logits differ by {drift:.1e} from the policy's; nothing was left there")
        after = completions(again, read, prompts, recipe.max_new_tokens)
        if form != "gguf":
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
    aside, there, moved = folder / UNFINISHED, folder.is_dir(), list[Path]()

    def refuse_others() -> None:
        if any(path != aside for path in folder.iterdir()):
            raise RunError(f"{folder} is not empty; name a new folder")

    try:
        folder.mkdir(parents=True, exist_ok=True)
        refuse_others()
    except OSError as error:
        raise RunError(f"{folder} cannot be written ({error.strerror}); name another folder") from error
    with Run(aside).lock():
        try:
            for path in _inside(aside):  # of a process that was killed
                _remove(path)
            yield aside
            refuse_others()
            # By its settings a folder is known as exported.
            for path in sorted(_inside(aside), key=lambda path: path.name == SETTINGS):
                moved.append(folder / path.name)
                path.rename(moved[-1])
            moved.clear()
        finally:
            for path in moved:
                _remove(path)
            shutil.rmtree(aside, ignore_errors=True)
            if not there and not any(folder.iterdir()):
                folder.rmdir()


def _inside(aside: Path) -> list[Path]:
    return [path for path in aside.iterdir() if path.name != LOCK]


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def _plain(folder: str, **how: Any) -> PreTrainedModel:
    """As others load it, without our kernels."""
    how = {"dtype": torch.float32, "trust_remote_code": False, "use_safetensors": True} | how
    model = AutoModelForCausalLM.from_pretrained(folder, **how)
    model.generation_config.do_sample = False
    return model.eval()


def _config_for_older(folder: Path) -> None:
    """RoPE where transformers before 5 looks for it: it would take another base without a word."""
    config = read_json(folder / "config.json")
    rope = dict(config.get("rope_parameters") or {})
    if base := rope.pop("rope_theta", None):
        config["rope_theta"] = base
    if rope.get("rope_type", "default") != "default":
        config["rope_scaling"] = rope
    write_json(folder / "config.json", config)


def _tokenizer_for_older(folder: Path) -> None:
    """A class and names that transformers before 5 knows; its own class would give a model more than it takes."""
    settings = read_json(folder / "tokenizer_config.json")
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    write_json(folder / "tokenizer_config.json", settings)


def _merged(plain: PreTrainedModel, recipe: Recipe, base: str, adapter: Path, folder: Path) -> PreTrainedModel:
    # Sampling defaults that the base ships with contradict greedy answers, and then nothing is saved.
    plain.generation_config.temperature = plain.generation_config.top_p = plain.generation_config.top_k = None
    plain.save_pretrained(folder)
    _config_for_older(folder)
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
