"""Our decoder against transformers', both ways: logits, loss, gradients, files. Tiny models with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llm_trainer.models import TransformerLM, preset
from llm_trainer.models.interop import export_hf, from_hf, load_hf, to_hf

transformers = pytest.importorskip("transformers")

VOCAB = 97
LLAMA = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    # Large weights: with the usual 0.02 all logits are nearly 0, and agree whatever is wrong.
    "initializer_range": 0.15,
    "bos_token_id": None,
    "eos_token_id": None,
}
GPT2 = {
    "vocab_size": VOCAB,
    "n_embd": 48,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "initializer_range": 0.15,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "bos_token_id": None,
    "eos_token_id": None,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, grouped, untied": ("llama", {**LLAMA, "tie_word_embeddings": False}),
    "llama, grouped, tied": ("llama", {**LLAMA, "tie_word_embeddings": True}),
    "llama, multi-query": ("llama", {**LLAMA, "num_key_value_heads": 1}),
    "llama, full heads, other base": ("llama", {**LLAMA, "num_key_value_heads": 6, "rope_theta": 500000.0}),
    "llama, biases": ("llama", {**LLAMA, "attention_bias": True, "mlp_bias": True}),
    "llama, geglu": ("llama", {**LLAMA, "hidden_act": "gelu", "rms_norm_eps": 1e-3}),
    "qwen3, tied": ("qwen3", {**LLAMA, "head_dim": 8, "tie_word_embeddings": True}),
    "qwen3, untied": ("qwen3", {**LLAMA, "head_dim": 8, "tie_word_embeddings": False, "rope_theta": 1e6}),
    "gpt2": ("gpt2", GPT2),
    "gpt2, untied, relu": (
        "gpt2",
        {**GPT2, "tie_word_embeddings": False, "activation_function": "relu", "n_inner": 56},
    ),
    "gpt2, exact gelu": ("gpt2", {**GPT2, "activation_function": "gelu", "layer_norm_epsilon": 1e-3}),
}


def reference(case: str) -> Any:
    """The transformers model, with norms and biases away from 1 and 0, where mistakes hide."""
    kind, values = CASES[case]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **values)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def token_ids() -> torch.Tensor:
    return torch.randint(0, VOCAB, (3, 20), generator=torch.Generator().manual_seed(5))


@pytest.mark.covers("R148", "R149", "R160")
@pytest.mark.parametrize("case", CASES)
def test_logits_loss_and_gradients_equal_those_of_transformers(case: str) -> None:
    theirs = reference(case)
    ours = from_hf(theirs.config.to_dict(), theirs.state_dict())
    assert ours.num_parameters() == theirs.num_parameters()
    ids = token_ids()
    labels = ids.clone()
    labels[0, 12:] = -100
    expected, found = theirs(ids, labels=labels), ours(ids, labels=labels)
    assert expected.logits.std() > 0.5
    torch.testing.assert_close(found.logits, expected.logits, atol=2e-5, rtol=0)
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=1e-6)
    expected.loss.backward()
    found.loss.backward()
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    gradients.update({"lm_head.weight": ours.lm_head.weight.grad})
    _, named_as_theirs = gradients_by_their_names(ours, gradients)
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(named_as_theirs[name], parameter.grad, atol=1e-5, rtol=1e-4, msg=name)


def gradients_by_their_names(ours: TransformerLM, gradients: dict[str, torch.Tensor]) -> tuple[Any, dict]:
    """Send the gradients through the export, which renames and turns them like weights."""
    carrier = TransformerLM(ours.config)
    carrier.load_state_dict(gradients, strict=False)
    return to_hf(carrier)


@pytest.mark.covers("R305")
def test_the_qwen3_preset_is_a_qwen3(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = TransformerLM(preset("qwen3_nano", vocab_size=VOCAB, init_std=0.15, zero_init_projections=False)).eval()
    export_hf(ours, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(theirs) is transformers.Qwen3ForCausalLM
    assert theirs.num_parameters() == ours.num_parameters()
    torch.testing.assert_close(theirs(token_ids()).logits, ours(token_ids()).logits, atol=2e-5, rtol=1e-5)


@pytest.mark.covers("R305")
@pytest.mark.parametrize("case", CASES)
def test_an_exported_model_loads_in_transformers_with_the_same_logits(case: str, tmp_path: Path) -> None:
    start = reference(case)
    ours = from_hf(start.config.to_dict(), start.state_dict()).eval()
    export_hf(ours, tmp_path, eos_token_id=7, pad_token_id=7)
    loaded, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(loaded) is type(start)
    assert loaded.config.eos_token_id == 7
    assert loaded.config.bos_token_id is None
    assert loaded.dtype == torch.float32
    torch.testing.assert_close(loaded.eval()(token_ids()).logits, ours(token_ids()).logits, atol=2e-5, rtol=0)
    # what they save, we load
    loaded.save_pretrained(tmp_path / "theirs")
    assert torch.equal(load_hf(tmp_path / "theirs")(token_ids()).logits, ours(token_ids()).logits)


def test_sharded_files_of_transformers_load(tmp_path: Path) -> None:
    theirs = reference("llama, grouped, untied")
    theirs.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    expected = theirs(token_ids()).logits
    torch.testing.assert_close(load_hf(tmp_path)(token_ids()).logits, expected, atol=2e-5, rtol=0)


def test_the_published_gpt2_names_without_prefix_load() -> None:
    """The files on the hub were saved from GPT2Model, with its constant masks."""
    theirs = reference("gpt2")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in theirs.state_dict().items()}
    del bare["lm_head.weight"]
    bare["h.0.attn.bias"] = torch.ones(1, 1, 64, 64).tril()
    ours = from_hf(theirs.config.to_dict(), bare)
    torch.testing.assert_close(ours.eval()(token_ids()).logits, theirs(token_ids()).logits, atol=2e-5, rtol=0)


@pytest.mark.parametrize("case", ["llama, grouped, tied", "gpt2"])
def test_left_padding_equals_transformers_with_its_positions(case: str) -> None:
    theirs = reference(case)
    ours = from_hf(theirs.config.to_dict(), theirs.state_dict()).eval()
    mask = torch.ones(3, 20, dtype=torch.int64)
    mask[0, :6] = 0
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    expected = theirs(token_ids(), attention_mask=mask, position_ids=positions).logits
    found = ours(token_ids(), attention_mask=mask).logits
    torch.testing.assert_close(found[mask == 1], expected[mask == 1], atol=2e-5, rtol=0)


@pytest.mark.parametrize("key", ["rope_theta", "rope_parameters"])
def test_the_rotary_base_is_found_where_either_version_writes_it(key: str) -> None:
    theirs = reference("llama, full heads, other base")
    values = json.loads(theirs.config.to_json_string(use_diff=False))
    values.pop("rope_theta", None)
    values.pop("rope_parameters", None)
    values[key] = 5e5 if key == "rope_theta" else {"rope_type": "default", "rope_theta": 5e5}
    assert from_hf(values, theirs.state_dict()).config.rope_theta == 5e5
