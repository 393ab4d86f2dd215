"""GGUF, what llama.cpp and Ollama read: the weights in F16, and what else such a file says taken from one that exists.

The tokenizer's part of a GGUF file (merges, token types, how text is split before) cannot be made from a Hugging Face
tokenizer without a table of known models, so a built-in model keeps that of the file that it came from.
"""

from pathlib import Path

import gguf
import numpy as np
from transformers import PreTrainedModel

from skillcompose.errors import ModelError

HEADER = "header.gguf"
# Of the tensors, or written anew.
NOT_COPIED = {
    "general.architecture",
    "general.file_type",
    "general.quantization_version",
    "general.size_label",
    "quantize.imatrix",
}


def copy_header(source: Path, target: Path) -> None:
    """A GGUF file without its tensors."""
    writer = _begin(source, target)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


def write(model: PreTrainedModel, header: Path, target: Path) -> None:
    """A Llama-like model as GGUF: matrices in F16, vectors in F32.

    Args:
        model: Without adapters.
        header: A GGUF file of the same architecture, sizes and tokenizer.
        target: The file to write.

    Raises:
        ModelError: The model has a tensor that the format does not know.
    """
    writer = _begin(header, target)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        weight = tensor.float().cpu().numpy()
        if count := heads.get(name.split(".")[-2]):
            # llama.cpp rotates neighbouring rows of a head, transformers rows half a head apart.
            weight = weight.reshape(count, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        kind = np.float16 if weight.ndim > 1 else np.float32
        there = names.get_name(name, try_suffixes=(".weight",))
        if there is None:
            raise ModelError(f"GGUF has no place for {name}: export the merged form and use llama.cpp's converter")
        writer.add_tensor(there, np.ascontiguousarray(weight, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _begin(source: Path, target: Path) -> gguf.GGUFWriter:
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in NOT_COPIED:
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
    return writer
