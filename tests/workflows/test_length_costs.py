"""What longer sequences cost: quadratic where every token sees all, linear where it sees a window."""

from __future__ import annotations

import pytest

from llm_trainer.config import ModelConfig, RunConfig, TrainingConfig
from llm_trainer.workflows.length_costs import describe_lengths, length_costs


def run(**values: object) -> RunConfig:
    shape = {"vocab_size": 300, "d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 128}
    return RunConfig(model=ModelConfig(**{**shape, **values}), training=TrainingConfig(device="cpu", precision="fp32"))


@pytest.mark.covers("R409")
def test_the_arithmetic_of_attention_grows_with_the_length_unless_it_has_a_window() -> None:
    full, windowed = length_costs(run()), length_costs(run(sliding_window=128))
    assert [cost.length for cost in full] == [128, 256, 512, 1024]
    # 12 x layers x width x length more for every token.
    assert full[3].flops_per_token - full[0].flops_per_token == 12 * 2 * 64 * (1024 - 128)
    assert full[0].attention < full[1].attention < full[2].attention < full[3].attention
    assert len({cost.flops_per_token for cost in windowed}) == 1
    assert windowed[0].flops_per_token == full[0].flops_per_token


@pytest.mark.covers("R409")
def test_memory_is_quadratic_only_where_scores_are_kept() -> None:
    fused, explicit = length_costs(run()), length_costs(run(attention_backend="explicit"))
    assert fused[3].activations / fused[0].activations < 8
    assert explicit[3].activations / explicit[0].activations > 20
    lines = describe_lengths(run())
    assert [line.split()[0] for line in lines[1:5]] == ["128", "256", "512", "1,024"]
