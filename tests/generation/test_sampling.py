"""The filters: equal to transformers' processors, minimal where they promise to be, and safe on bad logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llm_trainer.common.errors import UserError
from llm_trainer.config import GenerationConfig
from llm_trainer.generation.sampling import (
    apply_min_p,
    apply_repetition_penalty,
    apply_temperature,
    apply_top_k,
    apply_top_p,
    filter_logits,
    sample,
)


def random_logits(rows: int, vocab: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def generators(rows: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + row) for row in range(rows)]


def test_every_filter_equals_transformers() -> None:
    from transformers.generation import logits_process as reference

    logits = random_logits(4, 5000)
    history = torch.randint(0, 5000, (4, 30), generator=torch.Generator().manual_seed(1))
    seen = torch.zeros_like(logits, dtype=torch.bool).scatter(1, history, True)
    pairs = [
        (apply_temperature(logits, 0.7), reference.TemperatureLogitsWarper(0.7)),
        (apply_top_k(logits, 50), reference.TopKLogitsWarper(50)),
        (apply_top_p(logits, 0.9), reference.TopPLogitsWarper(0.9)),
        (apply_top_p(logits, 0.05), reference.TopPLogitsWarper(0.05)),
        (apply_min_p(logits, 0.1), reference.MinPLogitsWarper(0.1)),
        (apply_repetition_penalty(logits, seen, 1.3), reference.RepetitionPenaltyLogitsProcessor(1.3)),
        (apply_repetition_penalty(logits, seen, 0.8), reference.RepetitionPenaltyLogitsProcessor(0.8)),
    ]
    for ours, processor in pairs:
        torch.testing.assert_close(ours, processor(history, logits.clone()), msg=type(processor).__name__)


def test_all_filters_together_equal_transformers_generate_order() -> None:
    from transformers import GenerationConfig as ReferenceConfig
    from transformers import GPT2Config, GPT2LMHeadModel

    options = {"temperature": 0.8, "top_k": 200, "top_p": 0.95, "min_p": 0.02, "repetition_penalty": 1.2}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=1000, n_embd=8, n_layer=1, n_head=1))
    reference_config = ReferenceConfig(do_sample=True, **options)
    processors = model._get_logits_processor(generation_config=reference_config, input_ids_seq_length=5)
    logits = random_logits(3, 1000, seed=2)
    history = torch.randint(0, 1000, (3, 20), generator=torch.Generator().manual_seed(3))
    seen = torch.zeros_like(logits, dtype=torch.bool).scatter(1, history, True)
    ours = filter_logits(logits, GenerationConfig(**options), seen)
    torch.testing.assert_close(ours, processors(history, logits.clone()))


@pytest.mark.covers("R375")
@settings(max_examples=60, deadline=None)
@given(
    p=st.floats(0.01, 0.999),
    vocab=st.sampled_from([1, 2, 7, 600, 6000]),
    scale=st.sampled_from([0.0, 0.5, 3.0, 20.0]),
    seed=st.integers(0, 1000),
)
def test_nucleus_is_the_smallest_set_that_reaches_p(p: float, vocab: int, scale: float, seed: int) -> None:
    logits = random_logits(2, vocab, seed, scale).double()
    kept = torch.isfinite(apply_top_p(logits, p))
    for row in range(2):
        probabilities = logits[row].softmax(-1)
        mass = probabilities[kept[row]].sum().item()
        assert kept[row].any()
        assert mass >= p - 1e-9
        assert mass - probabilities[kept[row]].min().item() < p + 1e-9
        if not kept[row].all():  # the kept ones are the most likely ones
            assert probabilities[kept[row]].min() >= probabilities[~kept[row]].max()


def test_top_k_keeps_k_and_min_p_keeps_by_ratio() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.15, 0.06, 0.04]]))
    assert torch.isfinite(apply_top_k(logits, 2)).tolist() == [[True, True, False, False, False]]
    assert torch.isfinite(apply_top_k(logits, 99)).all() and torch.isfinite(apply_top_k(logits, 0)).all()
    assert torch.isfinite(apply_min_p(logits, 0.2)).tolist() == [[True, True, True, False, False]]


@pytest.mark.covers("R378")
def test_temperature_zero_is_greedy_and_two_is_the_limit() -> None:
    logits = random_logits(3, 50)
    config = GenerationConfig(temperature=0.0)
    assert torch.equal(sample(logits, config, generators(3)), logits.argmax(-1))
    assert torch.isfinite(filter_logits(logits, config)).sum(-1).tolist() == [1, 1, 1]
    assert sample(logits, GenerationConfig(temperature=2), generators(3)).shape == (3,)
    with pytest.raises(UserError, match="temperature"):
        GenerationConfig(temperature=2.1)


def test_draws_follow_the_distribution_and_never_pick_the_forbidden() -> None:
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    logits = probabilities.log().expand(4000, -1)
    one = torch.Generator().manual_seed(0)
    drawn = sample(logits, GenerationConfig(), [one] * 4000)
    shares = torch.bincount(drawn, minlength=6) / 4000
    assert shares[[0, 2, 5]].tolist() == [0, 0, 0]
    # Five standard deviations of a share near one half.
    assert (shares - probabilities).abs().max() < 5 * (0.25 / 4000) ** 0.5


def test_a_row_depends_only_on_its_own_generator() -> None:
    logits = random_logits(3, 100)
    config = GenerationConfig(top_p=0.95)
    together = sample(logits, config, generators(3, seed=7))
    for row in range(3):
        alone = sample(logits[row : row + 1], config, generators(1, seed=7 + row))
        assert alone.item() == together[row].item()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("config", [GenerationConfig(), GenerationConfig(temperature=0), GenerationConfig(top_p=0.5)])
def test_logits_that_are_not_numbers_are_a_clear_error(bad: float, config: GenerationConfig) -> None:
    logits = random_logits(2, 10)
    logits[1, 4] = bad
    with pytest.raises(UserError, match=r"not finite numbers \(sequence 1"):
        sample(logits, config, generators(2))
    with pytest.raises(UserError, match="not finite"):
        sample(torch.full((1, 10), float("-inf")), config, generators(1))
