"""Our faster layers compute what torch's, PEFT's and transformers' compute, gradients included."""

from functools import partial
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from skillcompose.kernels.attention import _causal, attend
from skillcompose.kernels.head import token_log_probs
from skillcompose.kernels.lora import Linear
from skillcompose.kernels.ordered import MANY, order, ordered
from skillcompose.models import load_adapter, load_base, new_adapter, using

LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]}


@pytest.mark.parametrize("length", [9, 800])
def test_grouped_attention_equals_the_fused_kernel(length: int) -> None:
    query, key, value = (torch.randn(2, heads, length, 16) for heads in (6, 2, 2))
    seen = torch.ones(length, length, dtype=torch.bool).tril()[None, None].repeat(2, 1, 1, 1)
    seen[1, :, 3:, 1] = False
    found, _ = attend(torch.nn.Module(), query, key, value, seen)
    fused = torch.nn.functional.scaled_dot_product_attention(query, key, value, seen, enable_gqa=True)
    torch.testing.assert_close(found, fused.transpose(1, 2))


@pytest.mark.parametrize("prefix", [0, 100, 700, 820])
def test_a_long_shared_prefix_is_told_to_the_fused_kernel(prefix: int) -> None:
    """Three branches behind it, in rows of which the second is padded; also gradients."""
    length = 820
    branches = torch.tensor([0] * prefix + [1 + i % 3 for i in range(length - prefix)]).repeat(2, 1)
    if prefix < length:
        branches[1, -30:] = -1
    seen = branches[:, :, None] == branches[:, None]
    seen |= (branches > 0)[:, :, None] & (branches == 0)[:, None]
    mask = (seen & torch.ones(length, length, dtype=torch.bool).tril())[:, None]
    inputs = [torch.randn(2, heads, length, 16, requires_grad=True) for heads in (6, 2, 2)]
    found, _ = attend(torch.nn.Module(), *inputs, mask)
    fused = torch.nn.functional.scaled_dot_product_attention(*inputs, mask, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(found, fused)
    weights = torch.randn_like(found)
    ours, theirs = (torch.autograd.grad(out, inputs, weights) for out in (found, fused))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert _causal(mask) >= prefix


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_and_gates_equal_those_of_transformers(tiny_model: Path, dtype: torch.dtype) -> None:
    ours, stock = load_base(str(tiny_model), dtype), AutoModelForCausalLM.from_pretrained(tiny_model, dtype=dtype)
    torch.manual_seed(0)
    layers = [(model.model.layers[0].post_attention_layernorm, model.model.layers[0].mlp) for model in (ours, stock)]
    weight = torch.rand_like(layers[0][0].weight.data) + 0.5
    x = torch.randn(2, 9, ours.config.hidden_size, dtype=dtype, requires_grad=True)
    away = torch.randn_like(x)
    results = []
    for norm, mlp in layers:
        norm.weight.data = weight.clone()
        out = mlp(norm(x))
        results.append((out, *torch.autograd.grad(out, x, away)))
    assert isinstance(layers[0][0].forward, partial) and isinstance(layers[0][1].forward, partial)
    exactness = {} if dtype == torch.float32 else {"atol": 0.02, "rtol": 0.02}
    torch.testing.assert_close(*results, **exactness)
    trained = layers[0][0].weight.requires_grad_()
    layers[0][0](x).sum().backward()
    assert trained.grad is not None and trained.grad.norm() > 0


def randomised(model: PeftModel) -> PeftModel:
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.05)
    return model


def gradients(model: PeftModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("extra", [{}, {"use_rslora": True}, {"use_dora": True}])
def test_lora_layers_equal_peft(tiny_model: Path, extra: dict[str, bool]) -> None:
    ours = randomised(new_adapter(load_base(str(tiny_model)), LORA | extra, 0))
    config = LoraConfig(**LORA, **extra, lora_dropout=0.0, task_type="CAUSAL_LM")
    stock = randomised(get_peft_model(load_base(str(tiny_model)), config))
    assert sum(isinstance(layer, Linear) for layer in ours.modules()) == 4
    assert not any(isinstance(layer, Linear) for layer in stock.modules())
    ids = torch.randint(1, 200, (2, 9))
    found, expected = ours(ids).logits, stock(ids).logits
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    torch.testing.assert_close(
        gradients(ours, (found * weights).sum()), gradients(stock, (expected * weights).sum()), atol=1e-4, rtol=1e-4
    )


def test_a_saved_adapter_gets_our_layers_back_and_says_nothing_of_them(tiny_model: Path, tmp_path: Path) -> None:
    model = randomised(new_adapter(load_base(str(tiny_model)), LORA, 0))
    model.save_pretrained(tmp_path)
    loaded = load_adapter(load_base(str(tiny_model)), tmp_path)
    load_adapter(loaded, tmp_path, "second")
    assert sum(isinstance(layer, Linear) for layer in loaded.modules()) == 4
    stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32), tmp_path)
    ids = torch.randint(1, 200, (2, 9))
    for name in ("default", "second"):
        with using(loaded, name):
            torch.testing.assert_close(loaded(ids).logits, stock(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_using_an_adapter_leaves_every_weight_as_it_was(tiny_model: Path, dtype: torch.dtype) -> None:
    model = randomised(new_adapter(load_base(str(tiny_model), dtype), LORA, 0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ids = torch.randint(1, 200, (2, 9))
    plain = model(ids).logits
    with using(model, "default"):
        assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
        tolerance = 1e-4 if dtype == torch.float32 else 0.05
        torch.testing.assert_close(model(ids).logits, plain, atol=tolerance, rtol=tolerance)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) and after[name].dtype == value.dtype for name, value in before.items())


@pytest.mark.parametrize("tokens", [9, MANY])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ordered_weights_give_the_same_products(tiny_model: Path, dtype: torch.dtype, tokens: int) -> None:
    model = load_base(str(tiny_model), dtype)
    can = torch.backends.mkldnn.is_available() and (
        dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    ids = torch.randint(1, 200, (2, tokens))
    with torch.inference_mode():
        plain = model(ids).logits
        with ordered(model):
            same = model(ids).logits
            layers = [layer for layer in model.modules() if type(layer) is torch.nn.Linear]
            assert all(("forward" in vars(layer)) == can for layer in layers)
    exactness = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.0, "rtol": 0.02}
    torch.testing.assert_close(same, plain, **exactness)
    assert not any("forward" in vars(layer) for layer in layers)


def test_weights_that_the_processor_cannot_order_stay_as_they_are(tiny_model: Path) -> None:
    assert order(load_base(str(tiny_model), torch.float16)) == []


@pytest.mark.parametrize("kind", ["llama", "an architecture that scales its logits"])
def test_token_log_probs_equal_a_softmax_over_the_vocabulary(tiny_model: Path, kind: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    model.get_output_embeddings().weight.requires_grad_(False)
    model.config.model_type = kind
    torch.manual_seed(0)
    ids = torch.randint(1, 200, (3, 40))
    where = torch.rand(3, 40) < 0.7
    tokens = torch.randint(1, 200, (int(where.sum()),))

    def gradient(log_probs: torch.Tensor) -> torch.Tensor:
        model.zero_grad()
        (log_probs * torch.linspace(-1, 1, len(tokens))).sum().backward()
        return model.model.layers[0].mlp.down_proj.weight.grad.clone()

    logs = torch.log_softmax(model(ids).logits[where] / 0.7, -1)
    plain = logs.gather(-1, tokens[:, None])[:, 0]
    found, entropies, _ = token_log_probs(model, model, {"input_ids": ids}, where, tokens, 0.7)
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(entropies, -(logs.exp() * logs).sum(-1))
    assert not entropies.requires_grad
    torch.testing.assert_close(gradient(found), gradient(plain), atol=1e-5, rtol=1e-4)
    found, _, vocabulary = token_log_probs(model, model, {"input_ids": ids}, where, tokens, 0.7, ~where)
    logs = torch.log_softmax(model(ids).logits / 0.7, -1)
    plain = logs[where].gather(-1, tokens[:, None])[:, 0]
    torch.testing.assert_close(vocabulary, logs[~where])
    sums = (one + other[:, 5].sum() for one, other in ((found, vocabulary), (plain, logs[~where])))
    torch.testing.assert_close(*map(gradient, sums), atol=1e-5, rtol=1e-4)
    assert model(ids).logits.shape == (3, 40, model.config.vocab_size)
