"""``use_flash_attention``: the same numbers with fused kernels and with attention written out."""

from __future__ import annotations

import pytest
import torch

from llm_trainer.config import ModelConfig, RunConfig, TrainingConfig
from llm_trainer.models import TransformerLM
from llm_trainer.models.attention import explicit_attention
from llm_trainer.workflows.derive import derive


def build(wanted: bool | None) -> TransformerLM:
    """The model that a run with this setting trains."""
    run = RunConfig(
        model=ModelConfig(vocab_size=300, d_model=32, n_heads=4, n_layers=2, max_seq_len=16),
        training=TrainingConfig(device="cpu", precision="fp32", num_threads=1, use_flash_attention=wanted),
    )
    derive(run, 1000)
    torch.manual_seed(0)
    return TransformerLM(run.model)


@pytest.mark.covers("R280")
def test_the_toggle_chooses_the_kernel_and_changes_no_result() -> None:
    ids = torch.arange(32).view(2, 16)
    expected = build(False)(ids).logits
    for wanted in (True, False, None):
        model = build(wanted)
        written_out = [block.attention.backend is explicit_attention for block in model.blocks]
        assert written_out == [wanted is False] * 2
        torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=1e-5)
