"""A whole world in seconds: a small knowledge base, a tiny Llama that knows the answer format, a static embedder."""

import csv
import os
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["SKILLCOMPOSE_MEASURE"] = "0"
os.environ["SKILLCOMPOSE_DTYPE"] = "float32"  # equalities are exact ones

ROOT = Path(__file__).parent.parent
PACKAGES = ["brol", "dimpa", "fenk", "gorst", "hulda", "jasko", "kelmo", "lurin", "mosta", "nerik", "pulto", "quade"]
OWNERS = ["Ann Lee", "Bo Kim", "Cy Ray"]
THINGS = [
    "clock",
    "kettle",
    "ladder",
    "mirror",
    "needle",
    "oven",
    "piano",
    "quilt",
    "radio",
    "saddle",
    "table",
    "violin",
]


@pytest.fixture(scope="session")
def knowledge_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 known packages, 12 free ones; who owns a known one is for the weights, what a package is for the index."""
    folder = tmp_path_factory.mktemp("knowledge")
    rng = random.Random(0)
    owners = [{"package": p, "owner": OWNERS[i % 3], "size": str(i % 4 + 1)} for i, p in enumerate(PACKAGES)]
    free = [f"x{p}" for p in PACKAGES]
    rows = []
    for i, package in enumerate([*PACKAGES, *free]):
        colour = "red" if package in PACKAGES else "blue"
        needs = rng.choice(PACKAGES) if package in free and i % 2 else ""
        rows.append({"package": package, "kind": f"{colour} {THINGS[i % 12]} program", "needs": needs})
    for name, table in (("owners.csv", owners), ("packages.csv", rows)):
        with (folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(table)
    text = "\n\n".join(f"## {package}\n\n{package} is a program." for package in PACKAGES)
    (folder / "guide.md").write_text(f"# Guide\n\n{text}\n")
    return folder


@pytest.fixture(scope="session")
def embedder(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> Path:
    """Every word a fixed random vector: enough to find a passage by its words."""
    import numpy as np
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    weights = np.random.default_rng(0).standard_normal((tokenizer.get_vocab_size(), 64)).astype(np.float32)
    folder = tmp_path_factory.mktemp("embedder")
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)]).save(str(folder))
    return folder


@pytest.fixture(scope="session")
def splade(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> Path:
    """Without layers, and with a bias that only a token's own logit overcomes: exact words."""
    import torch
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_file), pad_token="<end>")
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=0, num_attention_heads=1)
    model, size = BertForMaskedLM(config), config.hidden_size
    head = model.cls.predictions
    with torch.no_grad():
        for other in (model.bert.embeddings.position_embeddings, model.bert.embeddings.token_type_embeddings):
            other.weight.zero_()
        model.bert.embeddings.word_embeddings.weight.normal_()
        head.transform.dense.weight.copy_(torch.eye(size))
        head.bias.fill_(-30)
    folder = tmp_path_factory.mktemp("splade")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory, knowledge_base: Path) -> Path:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # The shipped knowledge bases too: an answer about them must fit into the reward's 40 tokens.
    shipped = [*(ROOT / "examples" / "debian").rglob("*.*"), *(ROOT / "src/skillcompose/starter/knowledge").iterdir()]
    words = [path.read_text() for path in [*sorted(knowledge_base.iterdir()), *sorted(shipped)]]
    words += [
        "Question: What is the owner of it?\nAnswer:\nThe owner of it is Ann Lee.\nSo: Ann Lee\n[1] [2] [3] described"
    ] * 5
    trainer = trainers.BpeTrainer(
        vocab_size=6000,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(words, trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> Path:
    """A two-layer Llama, trained for seconds to write one hop and a final line, so that some rewards are not zero."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_file), eos_token="<end>", pad_token="<end>")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            eos_token_id=0,
            pad_token_id=0,
            bos_token_id=0,
            tie_word_embeddings=True,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rng = random.Random(0)
    for _ in range(120):
        rows = []
        for _ in range(8):
            package, value = rng.choice(PACKAGES), rng.choice(["1", "2", "3", "4", *OWNERS])
            rows.append(
                f"Question: What is the size of {package}?\nAnswer:\n"
                f"The size of {package} is {value}.\nSo: {value}<end>"
            )
        batch = tokenizer(rows, return_tensors="pt", padding=True, padding_side="right")
        labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def recipe_file(
    tmp_path_factory: pytest.TempPathFactory, knowledge_base: Path, tiny_model: Path, embedder: Path
) -> Path:
    """The smallest recipe that goes through every stage."""
    sft = {"num_train_epochs": 1, "per_device_train_batch_size": 8, "learning_rate": 3e-3, "save_steps": 4}
    lora = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
    weights = {"table": "owners.csv", "place": "weights"}
    index = {"table": "packages.csv", "place": "index"}
    recipe = {
        "name": "tiny",
        "max_new_tokens": 24,
        "model": str(tiny_model),
        "knowledge_base": str(knowledge_base),
        "facts": {
            "tables": {"owners.csv": {"key": "package"}, "packages.csv": {"key": "package"}},
            "relations": {
                "owner": weights | {"column": "owner"},
                "size": weights | {"column": "size"},
                "kind": index
                | {
                    "column": "kind",
                    "reversed": True,
                    "statement": "It is {object}.",
                    "passage": "{object} is the {subject}.",
                    "reference": ["the {subject}"],
                    "questions": ["Which is the {subject}?", "Name the {subject}.", "What is the {subject} called?"],
                },
                "needs": index | {"column": "needs", "reference": ["what {subject} needs", "the need of {subject}"]},
            },
        },
        "index": {"embedder": str(embedder), "sparse": "", "k": 2, "min_recall": 0.1},
        "questions": {
            "train": ["kind > size"],
            "validation": ["kind > size"],
            "test": ["kind > owner", "needs > size"],
            "contextual_rows": 24,
            "missing": 0.2,
        },
        "adapters": {
            "parametric": {"lora": lora, "sft": sft},
            "contextual": {"lora": lora, "sft": sft},
            "mastery": {"questions": 4},
        },
        "composition": {
            "consolidation": {"rows": 16, "sft": sft},
            "traces": {"sft": sft},
            "mastery": {"questions": 4},
            "grpo": {
                "max_steps": 3,
                "num_generations": 4,
                "per_device_train_batch_size": 8,
                "gradient_accumulation_steps": 1,
                "learning_rate": 1e-3,
                "save_steps": 1,
            },
            "replay": {"rows": 4},
            "validate_steps": 2,
        },
        "evaluation": {"questions": 3, "ladder": 2, "atomic": 3, "probes": 2},
    }
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, recipe_file: Path) -> Path:
    import skillcompose

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    skillcompose.train(skillcompose.Recipe.from_yaml(recipe_file), folder, allow_unmastered=True)
    return folder


@pytest.fixture(scope="module")
def policy(finished_run: Path) -> Any:
    import skillcompose

    return skillcompose.Policy.from_run(finished_run)
