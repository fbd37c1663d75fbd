"""The moving average: its recursion to the last bit, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from llm_trainer.common.errors import UserError
from llm_trainer.training.ema import EMA
from tests.training.helpers import tiny_model


@pytest.mark.covers("R253")
def test_the_average_follows_every_trainable_weight_and_comes_back_bit_for_bit() -> None:
    model = tiny_model()
    model.final_norm.weight.requires_grad_(False)
    ema = EMA(model, 0.999)
    expected = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    for _ in range(50):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.01)
                    expected[name].lerp_(parameter, 1 - 0.999)
        ema.update()
    assert ema.averages.keys() == expected.keys() and "final_norm.weight" not in expected
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for _ in range(3):
        with ema.applied():
            for name, average in expected.items():
                assert torch.equal(model.get_parameter(name), average)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name])
    other = EMA(tiny_model(seed=3), 0.999)
    other.load({**ema.averages, "final_norm.weight": weights["final_norm.weight"]})
    assert all(torch.equal(other.averages[name], average) for name, average in expected.items())


@pytest.mark.covers("R253")
def test_weights_in_16_bits_are_refused_because_their_average_would_stand_still() -> None:
    weight = torch.ones((), dtype=torch.bfloat16)
    assert weight.lerp(weight * 1.5, 1 - 0.999) == weight
    for dtype in (torch.bfloat16, torch.float16):
        with pytest.raises(UserError, match=r"use_ema needs weights in float32; embed_tokens\.weight is kept in"):
            EMA(tiny_model().to(dtype), 0.999)
