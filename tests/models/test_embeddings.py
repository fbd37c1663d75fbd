"""The five ways of knowing the order of tokens."""

from __future__ import annotations

import math

import pytest
import torch

from llm_trainer.models import TransformerLM
from llm_trainer.models.embeddings import (
    PositionalEncoding,
    RotaryEmbedding,
    alibi_bias,
    alibi_slopes,
    apply_rotary,
)
from tests.models.tiny import POSITIONS, tiny_config, tiny_model, token_ids


@pytest.mark.covers("R131")
def test_positional_encoding_is_the_formula_of_the_paper() -> None:
    width, length = 6, 9
    encoding = PositionalEncoding(width, length)
    added = encoding(torch.zeros(1, length, width))[0]
    for position in range(length):
        for pair in range(width // 2):
            angle = position / 10000 ** (2 * pair / width)
            assert added[position, 2 * pair].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert added[position, 2 * pair + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)


@pytest.mark.covers("R035")
def test_learned_positions_are_trained_and_sinusoidal_ones_are_fixed() -> None:
    learned, fixed = tiny_model(position="learned"), tiny_model(position="sinusoidal")
    assert "position_embedding.embedding.weight" in dict(learned.named_parameters())
    assert "position_embedding.table" in dict(fixed.named_buffers())
    assert learned.num_parameters() - fixed.num_parameters() == 32 * 32


@pytest.mark.covers("R146")
def test_rotation_keeps_lengths_and_depends_on_distance_alone() -> None:
    rotary = RotaryEmbedding(8, 64)
    query, key = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def score(query_position: int, key_position: int) -> float:
        at_query = apply_rotary(query, rotary(1, torch.tensor([[query_position]])))
        at_key = apply_rotary(key, rotary(1, torch.tensor([[key_position]])))
        assert at_query.norm().item() == pytest.approx(query.norm().item(), rel=1e-5)
        return float((at_query * at_key).sum())

    assert score(9, 4) == pytest.approx(score(50, 45), abs=1e-4)
    assert abs(score(9, 4) - score(9, 5)) > 1e-3


@pytest.mark.covers("R146", "R147")
@pytest.mark.parametrize("position", ["rope", "alibi"])
def test_relative_schemes_do_not_see_a_common_shift(position: str) -> None:
    model, ids = tiny_model(position=position), token_ids()
    shifted = torch.arange(12).expand(2, 12) + 17
    torch.testing.assert_close(model(ids).logits, model(ids, position_ids=shifted).logits, atol=2e-5, rtol=0)


def test_absolute_schemes_see_a_common_shift() -> None:
    shifted = torch.arange(12).expand(2, 12) + 17
    for position in ("learned", "sinusoidal"):
        model, ids = tiny_model(position=position), token_ids()
        assert (model(ids).logits - model(ids, position_ids=shifted).logits).abs().max() > 1e-2


@pytest.mark.covers("R146", "R147", "R035")
@pytest.mark.parametrize("position", POSITIONS)
def test_the_order_of_the_prefix_matters_unless_there_are_no_positions(position: str) -> None:
    # One layer: in a deeper model, causality alone tells a token how many others it can see.
    model, ids = tiny_model(position=position, n_layers=1), token_ids(batch=1)
    swapped = ids.clone()
    swapped[0, :11] = ids[0, torch.tensor([3, 0, 7, 1, 9, 2, 10, 4, 8, 5, 6])]
    change = (model(ids).logits[0, -1] - model(swapped).logits[0, -1]).abs().max().item()
    assert change < 1e-5 if position == "none" else change > 1e-3


@pytest.mark.covers("R147")
def test_alibi_slopes_and_bias_are_those_of_the_paper() -> None:
    torch.testing.assert_close(alibi_slopes(8), torch.tensor([2.0**-i for i in range(1, 9)]))
    # 12 heads: the 8 slopes above, then every other one of 16 heads', as the authors' code gives them
    extra = torch.tensor([2.0 ** (-0.5 * i) for i in (1, 3, 5, 7)])
    torch.testing.assert_close(alibi_slopes(12), torch.cat((alibi_slopes(8), extra)))
    positions = torch.arange(4).unsqueeze(0)
    bias = alibi_bias(alibi_slopes(8), positions, positions)
    assert bias.shape == (1, 8, 4, 4)
    assert bias[0, 0, 3].tolist() == [-1.5, -1.0, -0.5, 0.0]
    assert bias[0, 1, 3].tolist() == [-0.75, -0.5, -0.25, 0.0]


@pytest.mark.covers("R147")
def test_alibi_reads_beyond_its_training_length() -> None:
    model, ids = tiny_model(position="alibi"), token_ids(seq=80)
    logits = model(ids).logits
    assert logits.isfinite().all()
    # A penalty on distance: what is far away hardly counts, so the length hardly matters.
    assert (logits[:, -1] - model(ids[:, -32:]).logits[:, -1]).abs().max() < 1.0


@pytest.mark.parametrize("position", ["rope", "sinusoidal", "alibi"])
def test_tables_survive_the_meta_device_and_narrow_dtypes(position: str) -> None:
    config = tiny_config(position=position)
    torch.manual_seed(0)
    expected = TransformerLM(config).eval()
    with torch.device("meta"):
        model = TransformerLM(config).eval()
    model.to_empty(device="cpu")
    assert model.lm_head.weight is model.embed_tokens.weight  # to_empty alone would part them
    model.load_state_dict(expected.state_dict())
    assert torch.equal(model(token_ids()).logits, expected(token_ids()).logits)
    there_and_back = model.to(torch.bfloat16).to(torch.float32)
    for (name, table), (_, exact) in zip(there_and_back.named_buffers(), expected.named_buffers()):
        assert torch.equal(table, exact), name
