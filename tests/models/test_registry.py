"""A person's own components, chosen by name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from llm_trainer.common.errors import ConfigError
from llm_trainer.models import TransformerLM, register, registered, registry
from llm_trainer.models.context import AttentionContext
from tests.models.tiny import tiny_config, token_ids


class RunningMean(nn.Module):
    """Attention with equal weights: a mean over the past."""

    def __init__(self, config, layer_index: int) -> None:
        super().__init__()
        self.value = nn.Linear(config.d_model, config.d_model)
        self.o_proj = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        counts = torch.arange(1, x.shape[1] + 1).view(1, -1, 1)
        return self.o_proj(self.value(x).cumsum(dim=1) / counts)


class OneMatrix(nn.Module):
    def __init__(self, config) -> None:
        super().__init__()
        self.linear = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).sin()


class MaxNorm(nn.Module):
    def __init__(self, config, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.abs().amax(dim=-1, keepdim=True) + 1e-6) * self.gain


class Parallel(nn.Module):
    """A block that runs its own parts side by side."""

    def __init__(self, config, layer_index: int) -> None:
        super().__init__()
        self.mixing, self.thinking = RunningMean(config, layer_index), OneMatrix(config)

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        return x + self.mixing(x, context) + self.thinking(x)


@pytest.fixture(autouse=True)
def own_components() -> Iterator[None]:
    before = {kind: dict(known) for kind, known in registry._COMPONENTS.items()}
    register("attention", "running_mean")(RunningMean)
    register("feed_forward", "one_matrix")(OneMatrix)
    register("norm", "max_norm")(MaxNorm)
    register("block", "parallel")(Parallel)
    yield
    registry._COMPONENTS.update(before)


@pytest.mark.covers("R008", "R161")
@pytest.mark.parametrize(
    "choice",
    [
        {"attention": "running_mean"},
        {"feed_forward": "one_matrix"},
        {"norm": "max_norm"},
        {"block": "parallel"},
        {"attention": "running_mean", "feed_forward": "one_matrix", "norm": "max_norm"},
    ],
    ids=str,
)
def test_own_components_train_by_name(choice: dict) -> None:
    torch.manual_seed(0)
    model = TransformerLM(tiny_config(**choice))
    classes = {RunningMean, OneMatrix, MaxNorm, Parallel}
    assert sum(type(module) in classes for module in model.modules()) >= 2
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids, losses = token_ids(), []
    for _ in range(3):
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]


@pytest.mark.covers("R070")
def test_a_subclass_of_the_model_trains() -> None:
    class CustomTransformer(TransformerLM):
        def hidden_states(self, input_ids: Tensor, **kwargs) -> Tensor:
            return super().hidden_states(input_ids, **kwargs) * self.temperature

        def __init__(self, config) -> None:
            super().__init__(config)
            self.temperature = nn.Parameter(torch.ones(()))

    model, ids = CustomTransformer(tiny_config()), token_ids()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = model(ids, labels=ids).loss
    first.backward()
    assert model.temperature.grad != 0
    optimizer.step()
    assert model(ids, labels=ids).loss < first


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"named 'runing_mean'; did you mean 'running_mean'\? known: mha, running_mean"
    ):
        TransformerLM(tiny_config(attention="runing_mean"))
    with pytest.raises(
        ConfigError, match="not a kind of component; the kinds are attention, feed_forward, norm, block"
    ):
        register("optimizer", "x")


def test_a_name_cannot_be_taken_twice_but_a_cell_can_run_again() -> None:
    with pytest.raises(ConfigError, match=r"'mha' is already registered by llm_trainer\.models\.attention"):
        register("attention", "mha")(RunningMean)
    register("attention", "running_mean")(RunningMean)
    assert registered("attention") == ["mha", "running_mean"]
