"""Mixtures of experts of transformers, with random weights: the same logits, loss and gradients from ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from llm_trainer.config import ModelConfig
from llm_trainer.models import TransformerLM
from llm_trainer.models.weights import load_into

transformers = pytest.importorskip("transformers")

SHAPE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.2,
}
OURS: dict[str, Any] = {
    **{key: value for key, value in SHAPE.items() if key != "intermediate_size"},
    "d_ff": 48,
    "n_kv_heads": 2,
    "n_experts": 4,
    "experts_per_token": 2,
}


def mixtral() -> tuple[Any, ModelConfig]:
    config = transformers.MixtralConfig(**SHAPE, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2)
    return transformers.MixtralForCausalLM(config), ModelConfig.from_dict({**OURS, "d_expert": 48, "rope_theta": 1e6})


def qwen3_moe(normalise: bool) -> tuple[Any, ModelConfig]:
    changes = {"moe_intermediate_size": 24, "norm_topk_prob": normalise, "decoder_sparse_step": 2, "head_dim": 8}
    config = transformers.Qwen3MoeConfig(
        **SHAPE, **changes, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2
    )
    ours = {**OURS, **changes, "qk_norm": True}
    return transformers.Qwen3MoeForCausalLM(config), ModelConfig.from_dict(ours)


def ours_by_name(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors under our names; gate and up are one matrix there."""
    names = {
        "model.embed_tokens": "embed_tokens",
        "model.norm": "final_norm",
        "model.layers": "blocks",
        "self_attn": "attention",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
        "mlp": "feed_forward",
        "feed_forward.gate.weight": "feed_forward.router.linear.weight",
        "experts.down_proj": "experts.down_proj.weight",
    }
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for theirs, our in names.items():
            name = name.replace(theirs, our)
        if name.endswith("gate_up_proj"):
            prefix = name.removesuffix("gate_up_proj")
            found[f"{prefix}gate_proj.weight"], found[f"{prefix}up_proj.weight"] = tensor.chunk(2, dim=1)
        else:
            found[name] = tensor
    return found


@pytest.mark.covers("R163", "R164", "R380")
@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "qwen3_moe, not normalised"])
def test_logits_loss_and_gradients_are_equal(kind: str) -> None:
    torch.manual_seed(0)
    theirs, config = mixtral() if kind == "mixtral" else qwen3_moe("not" not in kind)
    theirs.eval()
    ours = TransformerLM(config)
    tensors = ours_by_name(theirs.state_dict())
    biases = {name: torch.zeros(4) for name in ours.state_dict() if name.endswith("expert_bias")}
    load_into(ours, {**tensors, **biases}, source=kind)
    assert len(biases) == (3 if kind == "mixtral" else 1)
    ids = torch.randint(0, 61, (2, 16), generator=torch.Generator().manual_seed(1))
    expected, found = theirs(ids, labels=ids), ours(ids, labels=ids)
    assert torch.allclose(found.logits, expected.logits, atol=1e-4)
    assert found.loss.item() == pytest.approx(expected.loss.item(), abs=1e-5)
    expected.loss.backward()
    found.loss.backward()
    gradients = ours_by_name({name: parameter.grad for name, parameter in theirs.named_parameters()})
    for name, parameter in ours.named_parameters():
        assert torch.allclose(parameter.grad, gradients[name], atol=1e-5), name


@pytest.mark.covers("R165", "R169")
def test_one_layer_is_that_of_deepseek_v3() -> None:
    """Sigmoid scores, a bias for choosing, weights that are normalised and scaled, and a shared expert."""
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

    torch.manual_seed(0)
    shape = {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24, "n_shared_experts": 2}
    shared = {**shape, "hidden_size": 32, "routed_scaling_factor": 2.5, "norm_topk_prob": True}
    theirs = DeepseekV3MoE(transformers.DeepseekV3Config(**shared, n_group=1, topk_group=1)).eval()
    config = ModelConfig.from_dict({**shared, "n_heads": 4, "n_layers": 1, "scoring_func": "sigmoid"})
    ours = TransformerLM(config).blocks[0].feed_forward
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    theirs.gate.e_score_correction_bias.copy_(torch.linspace(-0.4, 0.4, 8))
    state = theirs.state_dict()
    gate, up = state["experts.gate_up_proj"].chunk(2, dim=1)
    tensors = {
        "router.linear.weight": state["gate.weight"],
        "router.expert_bias": state["gate.e_score_correction_bias"],
        "experts.gate_proj.weight": gate,
        "experts.up_proj.weight": up,
        "experts.down_proj.weight": state["experts.down_proj"],
        **{name: tensor for name, tensor in state.items() if name.startswith("shared_experts.")},
    }
    load_into(ours, tensors, source="DeepSeek-V3")
    x = torch.randn(2, 7, 32)
    assert torch.allclose(ours(x), theirs(x), atol=1e-4)
