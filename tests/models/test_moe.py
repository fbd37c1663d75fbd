"""Mixture of experts: what a token gets, what it costs, and that the fast way is the readable one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from llm_trainer.common.errors import ConfigError
from llm_trainer.config import ModelConfig
from llm_trainer.models import TransformerLM
from llm_trainer.models.factory import build_model
from llm_trainer.models.grouped import ExpertLinear, grouped_product
from llm_trainer.models.kv_cache import KVCache
from llm_trainer.models.layers import FeedForward
from llm_trainer.models.moe import MoEFeedForward, apply_experts, explicit_experts
from llm_trainer.models.moe_routing import Router, imbalance
from llm_trainer.models.roles import roles_of
from tests.models.tiny import VOCAB, tiny_config, tiny_model, token_ids

MOE: dict[str, Any] = {"n_experts": 4, "d_expert": 16}


def layer(dtype: torch.dtype = torch.float32, **values: Any) -> MoEFeedForward:
    model = tiny_model(**{**MOE, "init_std": 0.5, **values}).to(dtype)
    for module in model.modules():
        if isinstance(module, ExpertLinear) and module.bias is not None:
            torch.nn.init.normal_(module.bias)
    found = model.blocks[0].feed_forward
    assert isinstance(found, MoEFeedForward)
    return found


@pytest.mark.covers("R163", "R164")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"experts_per_token": 1},
        {"experts_per_token": 3, "router_scores": "sigmoid", "expert_scale": 2.5},
        {"activation": "gelu", "bias": True},
        {"d_expert": 7, "normalise_expert_weights": False},  # widths that PyTorch's kernel does not take
    ],
    ids=str,
)
def test_grouped_computation_is_that_of_token_by_token(values: dict, dtype: torch.dtype) -> None:
    moe = layer(dtype, **values)
    x = torch.randn(2, 9, 32, dtype=dtype, generator=torch.Generator().manual_seed(3), requires_grad=True)
    results = []
    for compute in (apply_experts, explicit_experts):
        moe.zero_grad()
        x.grad = None
        y = compute(moe.experts, x, moe.router(x))
        y.square().sum().backward()
        gradients = [parameter.grad.clone() for parameter in (x, *moe.router.parameters(), *moe.experts.parameters())]
        results.append([y.detach(), *gradients])
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for fast, plain in zip(*results, strict=True):
        assert plain.abs().max() > 0
        assert torch.allclose(fast, plain, rtol=tolerance, atol=tolerance * plain.abs().max())


def test_groups_may_be_empty() -> None:
    rows, matrices = torch.randn(10, 16), torch.randn(4, 8, 16)
    for ends in ([0, 10, 10, 10], [0, 0, 0, 10], [3, 3, 7, 10], [10, 10, 10, 10]):
        product = grouped_product(rows, matrices, torch.tensor(ends, dtype=torch.int32))
        for group, (start, end) in enumerate(zip([0, *ends], ends)):
            assert torch.allclose(product[start:end], rows[start:end] @ matrices[group].T, atol=1e-5)
    assert grouped_product(rows[:0], matrices, torch.zeros(4, dtype=torch.int32)).shape == (0, 8)


@pytest.mark.covers("R164")
@pytest.mark.parametrize("active", [1, 2])
def test_a_token_meets_exactly_so_many_experts(active: int) -> None:
    moe = layer(experts_per_token=active)
    x = torch.randn(1, 1, 32, requires_grad=True)
    moe(x).square().sum().backward()
    assert moe.experts.down_proj.weight.grad is not None
    touched = moe.experts.down_proj.weight.grad.flatten(1).abs().amax(dim=1) > 0
    routing = moe.router(torch.randn(3, 5, 32))
    assert int(touched.sum()) == active
    assert routing.experts.shape == (3, 5, active)
    assert all(len(set(row)) == active for row in routing.experts.flatten(0, 1).tolist())


def test_the_bias_chooses_but_does_not_weigh() -> None:
    moe, x = layer(), torch.randn(2, 6, 32)
    before = moe.router(x)
    moe.router.expert_bias[2] = 10.0
    after = moe.router(x)
    assert (after.experts[..., 0] == 2).all()
    assert torch.equal(after.scores, before.scores)
    chosen = after.scores.gather(-1, after.experts)
    assert torch.allclose(after.weights, chosen / chosen.sum(-1, keepdim=True))


@pytest.mark.covers("R169")
def test_shared_experts_answer_every_token() -> None:
    moe = layer(n_shared_experts=2)
    x = torch.randn(2, 6, 32)
    assert isinstance(moe.shared_experts, FeedForward)
    assert moe.shared_experts.up_proj.out_features == 2 * 16
    routed = apply_experts(moe.experts, x, moe.router(x))
    assert torch.allclose(moe(x), routed + moe.shared_experts(x), atol=1e-6)


def test_a_token_is_answered_alike_in_any_company() -> None:
    moe, x = layer().eval(), torch.randn(4, 8, 32)
    assert torch.allclose(moe(x)[2:3, 5:6], moe(x[2:3, 5:6]), atol=1e-5)


@pytest.mark.covers("R133")
def test_the_future_is_not_seen_and_a_cache_changes_nothing() -> None:
    model, ids = tiny_model(**MOE), token_ids(1, 10)
    logits = model(ids).logits
    changed = ids.clone()
    changed[0, 7] = (ids[0, 7] + 1) % VOCAB
    assert torch.allclose(model(changed).logits[:, :7], logits[:, :7], atol=1e-5)
    cache = KVCache(model.config, 1)
    steps = [model(ids[:, t : t + 1], cache=cache).logits for t in range(10)]
    assert torch.allclose(torch.cat(steps, dim=1), logits, atol=1e-4)


@pytest.mark.covers("R168")
@pytest.mark.parametrize(
    "values", [{}, {"norm": "layernorm", "activation": "gelu_tanh", "bias": True, "position": "learned"}], ids=str
)
def test_a_gradient_reaches_every_parameter(values: dict) -> None:
    model, ids = tiny_model(**{**MOE, **values}), token_ids(8, 32)
    model(ids, labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_layers_with_experts_are_those_that_were_asked_for() -> None:
    config = tiny_config(**MOE, n_layers=6, moe_every=2, first_dense_layers=3)
    kinds = [type(block.feed_forward) for block in TransformerLM(config).blocks]
    assert [kind is MoEFeedForward for kind in kinds] == [False, False, False, True, False, True]
    assert config.moe_layers == (3, 5)


@pytest.mark.covers("R167")
def test_more_experts_cost_no_more_arithmetic() -> None:
    models = [tiny_model(n_experts=experts, d_model=64) for experts in (2, 4, 8)]
    flops, total = [model.flops_per_token(32) for model in models], [model.num_parameters() for model in models]
    active = [model.num_active_parameters() for model in models]
    # What grows is the router alone: 2 layers x 64 weights for each further expert.
    assert [flop - flops[0] for flop in flops] == [0, 6 * 2 * 2 * 64, 6 * 6 * 2 * 64]
    assert [count - active[0] for count in active] == [0, 2 * 2 * 64, 6 * 2 * 64]
    assert total[2] > 2 * total[0]
    assert active[0] == total[0]
    dense = tiny_model(d_model=64)
    assert flops[2] < 1.02 * dense.flops_per_token(32)
    assert dense.num_active_parameters() == dense.num_parameters()


def test_expert_matrices_are_matrices_to_an_optimizer() -> None:
    roles = roles_of(tiny_model(**MOE, bias=True, activation="gelu"))
    assert roles["blocks.0.feed_forward.experts.up_proj.weight"] == "matrix"
    assert roles["blocks.0.feed_forward.router.linear.weight"] == "matrix"
    assert roles["blocks.0.feed_forward.experts.up_proj.bias"] == "vector"


def test_initial_weights_follow_the_rule_of_dense_layers() -> None:
    model = tiny_model(n_experts=8, d_model=64, init_std=0.02)
    experts = model.blocks[0].feed_forward.experts
    assert experts.up_proj.weight.detach().std() == pytest.approx(0.02, rel=0.05)
    assert experts.down_proj.weight.detach().std() == pytest.approx(0.01, rel=0.05)


def test_the_auxiliary_loss_is_one_a_token_when_balanced() -> None:
    even = torch.full((2, 8, 4), 0.25)
    experts = torch.arange(8).view(1, 8, 1).expand(2, 8, 1) % 4
    assert imbalance(even, experts) == pytest.approx(16.0)
    one = torch.zeros(2, 8, 4)
    one[..., 3] = 1.0
    assert imbalance(one, torch.full((2, 8, 1), 3)) == pytest.approx(4 * 16.0)


def test_the_auxiliary_loss_takes_part_in_the_gradient_alone() -> None:
    router, x = layer().router, torch.randn(2, 6, 32)

    def gradient() -> tuple[Tensor, Tensor]:
        router.zero_grad()
        weights = router(x).weights
        weights.square().sum().backward()
        assert router.linear.weight.grad is not None
        return weights.detach(), router.linear.weight.grad.clone()

    plain_weights, plain = gradient()
    router.zero_grad()
    routing = router(x)
    (0.3 * imbalance(routing.scores, routing.experts)).backward()
    assert router.linear.weight.grad is not None
    extra = router.linear.weight.grad.clone()
    router.balance_price = torch.tensor(0.3)
    weights, both = gradient()
    assert torch.equal(weights, plain_weights)
    assert extra.abs().max() > 0
    assert torch.allclose(both, plain + extra, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_experts": 2, "experts_per_token": 3}, r"experts_per_token \(3\) is more than n_experts \(2\)"),
        ({"n_experts": 4, "experts_per_token": 1, "norm_topk_prob": True}, "the router would never learn"),
        ({"n_experts": 4, "first_dense_layers": 2}, "none of the 2 layers has experts"),
        ({"feed_forward": "moe", "n_experts": 0}, "feed_forward: moe needs experts"),
        ({"use_moe": False, "num_experts": 4}, "use_moe: false contradicts num_experts: 4"),
        ({"use_moe": "yes"}, "use_moe: expected true or false, got 'yes'"),
        ({"n_expert": 4}, "n_expert: unknown key; did you mean 'n_experts'"),
    ],
)
def test_what_cannot_be_is_said(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(**values)


@pytest.mark.covers("R163")
def test_use_moe_means_eight_experts() -> None:
    assert tiny_config(use_moe=True).n_experts == 8
    assert tiny_config(use_moe=True, num_local_experts=4).n_experts == 4
    assert tiny_config(use_moe=False).n_experts == 0
    assert tiny_config(feed_forward="moe").moe_layers == (0, 1)
    saved = tiny_config(use_moe=True)
    assert ModelConfig.from_dict(saved.to_dict()) == saved


@pytest.mark.covers("R168")
@pytest.mark.parametrize("family", ["encoder", "encoder_decoder"])
def test_other_families_have_experts_too(family: str) -> None:
    torch.manual_seed(0)
    model = build_model(tiny_config(**MOE, family=family, position="sinusoidal", n_layers=2))
    assert sum(isinstance(module, MoEFeedForward) for module in model.modules()) == (2 if family == "encoder" else 4)
    ids = token_ids(4, 12)
    loss = model(ids, labels=ids).loss
    loss.backward()
    experts = [parameter for name, parameter in model.named_parameters() if ".experts." in name]
    assert len(experts) == (6 if family == "encoder" else 12)
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in experts)


@pytest.mark.parametrize("values", [{}, {"n_shared_experts": 1, "router_scores": "sigmoid"}], ids=str)
def test_saved_and_loaded(tmp_path, values: dict) -> None:
    model, ids = tiny_model(**MOE, **values), token_ids()
    for module in model.modules():
        if isinstance(module, Router):
            module.expert_bias.copy_(torch.tensor([0.0, 0.3, -0.2, 0.1]))
    model.save_pretrained(tmp_path)
    again = TransformerLM.from_pretrained(tmp_path)
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert torch.equal(again.blocks[1].feed_forward.router.expert_bias, torch.tensor([0.0, 0.3, -0.2, 0.1]))


def test_under_autocast_products_are_narrow_and_choices_are_not() -> None:
    moe, x = layer(), torch.randn(2, 6, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        routing, y = moe.router(x), moe(x)
    assert y.dtype == torch.bfloat16
    assert routing.scores.dtype == torch.float32
    assert torch.equal(routing.experts, moe.router(x).experts)
    wide = moe(x).detach()
    assert torch.allclose(y.float(), wide, atol=0.05 * float(wide.abs().max()))
