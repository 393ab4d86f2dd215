"""Minutes, memory and disk of each stage: amounts from `amounts.py` times rates from `rates.py`.

Nothing is fitted: what a run does is listed here in its own order (tokens trained, prompts read, tokens decoded), and
a measurement says what each costs on this machine. The few shares that no recipe tells are constants, each with where
it was counted.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skillcompose.errors import ModelError
from skillcompose.libraries import GRPO
from skillcompose.planning.amounts import GENERAL_KEPT, GENERAL_TOKENS, GROWTH, INVENTED, Amounts
from skillcompose.planning.rates import Rates, sft_settings
from skillcompose.planning.schedule import passes, rollouts
from skillcompose.recipe import Recipe
from skillcompose.sections import Mastery

PADDING = 1.03  # of a training batch, whose sequences are of similar length
LEARNING = 0.36  # of GRPO's groups have unequal rewards behind gold traces (3 seeds of debian); others are not scored
DISTINCT = 0.85  # of a group's completions
STAYING = 1.15  # tokens that a finished row is still computed for: rows go by eighths
BATCH_TOKENS = 24_000  # `generation.BATCH_TOKENS`, which lives beside torch
CONVERSATIONS = 64  # of the base, in one batch
TURNS = (40, 24)  # tokens of the longest question and answer in them
READ_SECONDS = 2e-5  # for a word of a document, by pdfium and Beautiful Soup
SETTING = 250  # tokens of the instructions and two examples of the untuned rungs, their passages apart
TOGETHER = 4  # questions about the same passages, which share a sequence
BLOCK, BESIDE = 8, 2  # rows of a sequence of consolidation and replay, and general ones beside them
LIGHT = 300 * 2**20  # bytes of a process that has loaded no torch
LETTER_BYTES, ROW_BYTES = 6.5, 600  # of a word of text, of a question without its passages
RECORD = 2**20  # reports, logs and tokenizers of a stage


@dataclass(frozen=True)
class Cost:
    """`seconds` is None while this machine is not measured; `disk` stays, `meanwhile` goes when the stage is done."""

    seconds: float | None
    memory: int
    disk: int
    meanwhile: int = 0


def costs(recipe: Recipe, found: Amounts, rates: Rates | None, base: Path | None) -> dict[str, Cost]:
    """By stage, as if all of them ran one after another in one process."""
    spent = seconds(recipe, found, rates) if rates else {}
    numbers = adapter_numbers(recipe, base)
    held = memory(recipe, found, rates, numbers, base) if rates else {}
    kept = disk(found, numbers)
    return {name: Cost(spent.get(name), held.get(name, 0), *kept[name]) for name in kept}


def seconds(recipe: Recipe, found: Amounts, rates: Rates) -> dict[str, float]:
    return {
        "passages": 0.5 + found.document_words * READ_SECONDS,
        "facts": 0.1,
        # The first stage that needs torch pays for loading it, the first that trains for TRL.
        "index": 0.7 * rates.imports + 0.5 + found.words * rates.embed,
        "questions": 2 + sum(found.rows.values()) * 15 * rates.embed,
        "adapters": 0.3 * rates.imports + _adapters(recipe, found, rates),
        "composition": _composition(recipe, found, rates),
        "evaluation": _evaluation(recipe, found, rates),
    }


def answering(
    rates: Rates,
    prompts: float,
    prompt: float,
    answer: float,
    limit: float,
    samples: int = 1,
    batches: float = 0,
    shared: float = 0,
) -> float:
    """Seconds for so many prompts: read once, then a step for each token up to the limit, which some answer of every
    batch reaches, and a row's share for each token of every answer. All begin with the same `shared` tokens."""
    rows = prompts * samples
    batches = batches or max(1.0, rows * (shared + prompt + limit) / BATCH_TOKENS) * bool(prompts)
    read = batches * shared + prompts * prompt
    return read * rates.prefill + batches * limit * rates.step + STAYING * rows * answer * rates.row


def _adapters(recipe: Recipe, found: Amounts, rates: Rates) -> float:
    settings, total = recipe.adapters, 4 * rates.load
    if settings.general:
        total += -(-settings.general // CONVERSATIONS) * sum(
            tokens * (rates.step + CONVERSATIONS * rates.row) for tokens in TURNS
        )
        total += 2 * bool(settings.drift) * settings.general * GENERAL_KEPT * GENERAL_TOKENS * rates.prefill
    spent = []
    for kind, rows in (("parametric", 1), ("contextual", TOGETHER)):
        times = passes(getattr(settings, kind).sft, found.rows[kind] / rows)
        spent.append(times * found.tokens[kind] * PADDING * rates.train[kind])
    if rates.at_once:
        rest = (max(spent) - min(spent)) * rates.train["alone"] / rates.train["parametric"]
        total += min(spent) + rest + rates.imports
    else:
        total += sum(spent)
    return total + _mastery(recipe, found, rates, settings.mastery)


def _mastery(recipe: Recipe, found: Amounts, rates: Rates, gate: Mastery) -> float:
    total = 0.0
    for skill, block in (("parametric", 0.0), ("contextual", found.block)):
        for hops, there in enumerate(found.asked["validation"][skill]):
            answer = found.answer[skill] * (1 + GROWTH * hops)
            prompt = block + found.question[skill]
            asked = min(gate.questions, there)
            total += rates.merge + answering(rates, asked, prompt, answer, recipe.max_new_tokens)
    return total


def sequence(found: Amounts, recipe: Recipe) -> float:
    """Tokens of a block of `composition.mixture`: passages, and rows of both skills about and beside them."""
    read, known = (
        found.question[skill] + (1 + GROWTH / 2) * found.answer[skill] for skill in ("contextual", "parametric")
    )
    rows = BLOCK / 2 * (INVENTED * read + known)
    return found.block + rows + (BESIDE * GENERAL_TOKENS if recipe.adapters.general else 0)


def _composition(recipe: Recipe, found: Amounts, rates: Rates) -> float:
    settings, train = recipe.composition, rates.train["merged"]
    block, blocks = sequence(found, recipe), settings.consolidation.rows / BLOCK
    total = 3 * rates.load + passes(settings.consolidation.sft, blocks) * blocks * block * PADDING * train
    total += _mastery(recipe, found, rates, settings.mastery)
    if settings.traces_used is not None:
        traces = found.rows["complementary"]
        blocks = settings.traces_used.replay * traces / BLOCK
        times = passes(settings.traces_used.sft, traces + blocks)
        total += 2 * rates.load + times * (found.tokens["complementary"] + blocks * block) * PADDING * train
    prompts, samples, steps, each, uses = rollouts(recipe)
    prompt = found.block + found.question["complementary"]
    answer, limit = found.answer["complementary"], recipe.max_new_tokens
    sampled = rates.merge + answering(rates, prompts, prompt, answer, limit, samples, batches=1)
    scored = LEARNING * each * (prompt + DISTINCT * samples * answer) * train
    replayed = settings.replay.rows / BLOCK * block * train
    total += steps * (sampled / uses + scored + replayed)
    probed = 3 * settings.probes + min(settings.validation, found.validation)
    times = 1 + -(-steps // settings.validate_steps)
    return total + times * (rates.merge + answering(rates, probed, prompt, answer, limit))


def test_questions(recipe: Recipe, found: Amounts) -> dict[str, int]:
    """How many there are of each kind that the ladder asks."""
    counts = recipe.evaluation
    asked = {
        "headline": sum(min(counts.questions, there) for there in found.unseen.values()),
        "seen": sum(min(counts.questions // 2 or 1, there) for there in found.seen.values()),
        "few": sum(min(counts.ladder, there) for there in found.unseen.values()),
    }
    for skill in ("parametric", "contextual"):
        asked[skill] = sum(min(counts.atomic, there) for there in found.asked["test"][skill])
    return asked


def _evaluation(recipe: Recipe, found: Amounts, rates: Rates) -> float:
    asked, limit = test_questions(recipe, found), recipe.max_new_tokens
    both, few = "complementary", asked["few"]
    prompt, answer = found.block + found.question[both], found.answer[both]

    def trained(count: float, size: float, skill: str) -> float:
        return rates.merge + answering(rates, count, size, (1 + GROWTH / 2) * found.answer[skill], limit)

    worked = SETTING + 2 * found.block
    reading = found.block + found.question["contextual"]
    total = rates.load + found.words * rates.embed + 2
    total += answering(rates, few, prompt, limit, limit, shared=worked)
    total += answering(rates, asked["headline"], prompt, limit, limit)  # an untuned model does not stop
    total += trained(asked["parametric"], found.question["parametric"], "parametric")
    total += trained(asked["contextual"], reading, "contextual")

    def again(count: float) -> float:
        """Closed book, what was said of the weights."""
        return answering(rates, count, found.question["parametric"], found.answer["parametric"], limit)

    total += again(asked["parametric"])
    total += 3 * (rates.merge + answering(rates, few, prompt, answer, limit))  # each adapter alone, the exact sum
    for _ in ("start", "composed"):
        total += trained(asked["parametric"], found.question["parametric"], "parametric")
        total += trained(asked["contextual"], reading, "contextual")
        total += answering(rates, asked["headline"] + asked["seen"], prompt, answer, limit)
        total += again(asked["parametric"] + asked["headline"] + asked["seen"])
    if recipe.composition.traces_used is not None:
        total += rates.merge + answering(rates, asked["headline"], prompt, answer, limit) + again(asked["headline"])
    for size in (prompt, 1.7 * prompt):  # full RAG reads twice
        total += answering(rates, few, size, limit, limit, shared=worked)
        total += rates.merge + answering(rates, few, size, answer, limit)
    return total


def adapter_numbers(recipe: Recipe, base: Path | None) -> dict[str, int]:
    """Trainable numbers of the two adapters and of their merge; zeros while the base is not on this machine."""
    skills = recipe.adapters
    found = {name: lora_numbers(base, lora) for name, lora in
             (("parametric", skills.parametric.lora), ("contextual", skills.contextual.lora))}  # fmt: skip
    return found | {"merged": sum(found.values())}


def lora_numbers(base: Path | None, lora: dict[str, Any]) -> int:
    targets, layers = lora.get("target_modules", "all-linear"), lora.get("layers_to_transform")
    layers = [layers] if isinstance(layers, int) else layers
    total = 0
    for name, shape in shapes(base).items():
        _, inside, rest = name.partition(".layers.")
        number, _, module = rest.removesuffix(".weight").partition(".")
        if not inside or len(shape) != 2 or (layers and int(number) not in layers):
            continue
        if targets == "all-linear" or (isinstance(targets, list) and module.rsplit(".", 1)[-1] in targets):
            total += int(lora.get("r", 8)) * sum(shape)
    return total


def shapes(base: Path | None) -> dict[str, list[int]]:
    """Shapes of the weights, from the headers of the safetensors files."""
    found: dict[str, list[int]] = {}
    for path in sorted(base.glob("*.safetensors")) if base else ():
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size:
                raise ModelError(
                    f"{path} is no safetensors file; if it is a pointer of Git LFS, `git lfs pull` fetches it"
                )
            header = json.loads(file.read(length))
        found |= {name: about["shape"] for name, about in header.items() if name != "__metadata__"}
    return found


def memory(recipe: Recipe, found: Amounts, rates: Rates, numbers: dict[str, int], base: Path | None) -> dict[str, int]:
    """Peak bytes: what is loaded, an adapter with gradient and Adam's two moments, and a batch's activations."""
    batch = {kind: int(sft.get("per_device_train_batch_size", 8)) for kind, sft in sft_settings(recipe).items()}
    each = {skill: found.question[skill] + found.answer[skill] for skill in ("parametric", "contextual")}
    length = {"parametric": 2 * each["parametric"], "contextual": found.block + TOGETHER * each["contextual"]}
    length["merged"] = sequence(found, recipe)
    held = {kind: 16 * numbers[kind] + 1.3 * rates.bytes[kind] * batch[kind] * length[kind] for kind in length}
    alone = [held["parametric"], held["contextual"]]
    trained = 2 * rates.resident + sum(alone) if rates.at_once else max(alone)
    prompts, samples, *_ = rollouts(recipe)
    prompt, limit = found.block + found.question["complementary"], recipe.max_new_tokens
    rows = int((GRPO | recipe.composition.grpo)["per_device_train_batch_size"])
    scored = rows / samples * prompt + rows * found.answer["complementary"]
    cached = cache_bytes(base) * max(BATCH_TOKENS, prompts * samples * (prompt + limit))
    grpo = 20 * numbers["merged"] + max(cached, 1.3 * rates.bytes["merged"] * max(scored, 2 * length["merged"]))
    answered = 4 * (numbers["parametric"] + numbers["contextual"] + 3 * numbers["merged"]) + 2 * cached
    return {name: int(size) for name, size in {
        "passages": LIGHT,
        "facts": LIGHT,
        "index": rates.resident,
        "questions": rates.resident,
        "adapters": rates.resident + trained,
        "composition": rates.resident + max(held["merged"], grpo),
        "evaluation": rates.resident + answered,
    }.items()}  # fmt: skip


def cache_bytes(base: Path | None) -> int:
    """Keys and values of one token, in bf16."""
    values = sum(shape[0] for name, shape in shapes(base).items() if name.endswith(("k_proj.weight", "v_proj.weight")))
    return 2 * values


def disk(found: Amounts, numbers: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Bytes that stay and bytes that go, by stage; a checkpoint holds an adapter and Adam's moments, two are kept."""
    text, merged = LETTER_BYTES * found.words, numbers["merged"]
    rows = sum(found.rows.values()) * ROW_BYTES
    read = (found.rows["contextual"] + found.rows.get("complementary", 0)) * found.block * 4
    largest = max(numbers["parametric"], numbers["contextual"])
    sizes: dict[str, tuple[float, float]] = {
        "passages": (1.3 * text, 0),
        "facts": (RECORD / 4, 0),
        "index": (2.5 * text + found.passages * 1536, 0),
        "questions": (rows + 1.5 * read, 0),
        "adapters": (4 * merged + 6 * RECORD, 24 * largest),
        "composition": (12 * merged + 6 * RECORD, 24 * merged + 8 * merged),
        "evaluation": (2 * RECORD, 0),
    }
    return {name: (int(kept), int(gone)) for name, (kept, gone) in sizes.items()}
