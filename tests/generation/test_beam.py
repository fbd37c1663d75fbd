"""Beam search: exact when nothing is pruned, equal to transformers where both prune, and no worse than greedy."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from llm_trainer.common.errors import UserError
from llm_trainer.config import GenerationConfig
from llm_trainer.generation import beam_search, generate_ids
from llm_trainer.models import TransformerLM

Make = Callable[..., TransformerLM]


def log_probability(model: torch.nn.Module, prompt: list[int], tokens: list[int]) -> float:
    """log P(tokens | prompt), from one forward pass over everything."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + tokens])).logits[0]
    steps = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return float(steps[torch.arange(len(tokens)), torch.tensor(tokens)].sum())


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0, -1.0])
def test_beams_that_hold_everything_find_the_best_of_all_texts(make_model: Make, length_penalty: float) -> None:
    vocab, eos, length = 4, 2, 4
    model = make_model(vocab_size=vocab, seed=3)
    prompt = [1, 3, 0]
    texts: list[list[int]] = []
    for size in range(1, length + 1):
        for tokens in itertools.product(range(vocab), repeat=size):
            if eos not in tokens[:-1] and (tokens[-1] == eos or size == length):
                texts.append(list(tokens))
    scored = [(log_probability(model, prompt, text) / len(text) ** length_penalty, text) for text in texts]
    scored.sort(reverse=True)
    config = GenerationConfig(num_beams=len(texts), max_new_tokens=length, length_penalty=length_penalty)
    (found,) = beam_search(model, [prompt], config, {eos})
    assert [hypothesis.tokens for hypothesis in found] == [text for _, text in scored]
    assert [hypothesis.score for hypothesis in found] == pytest.approx([score for score, _ in scored], abs=1e-4)


@pytest.mark.covers("R376")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_return_sequences": 5},
        {"early_stopping": False},
        {"early_stopping": False, "length_penalty": 0.0, "num_return_sequences": 3},
        {"length_penalty": 2.0},
        {"length_penalty": -1.0, "num_return_sequences": 5},
        {"repetition_penalty": 1.3},
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_five_beams_equal_transformers(options: dict[str, Any], seed: int) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=23, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, initializer_range=0.15, bos_token_id=None, eos_token_id=5, pad_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    ids = torch.randint(6, 23, (3, 4))
    reference = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        num_beams=5,
        do_sample=False,
        max_new_tokens=12,
        **{"early_stopping": True, **options},
    )
    ours = generate_ids(model, ids, num_beams=5, max_new_tokens=12, pad_token_id=1, **options)
    assert torch.equal(ours, reference)


@pytest.mark.covers("R376")
def test_beam_score_is_at_least_the_greedy_score(make_model: Make) -> None:
    beats = 0
    for seed in range(5):
        model = make_model(seed=seed, vocab_size=50, sharpness=4.0)
        prompt = torch.tensor([[1, 2, 3]])
        greedy = generate_ids(model, prompt, temperature=0, max_new_tokens=8)
        beams = generate_ids(model, prompt, num_beams=5, max_new_tokens=8)  # do_sample stays at its default, True
        scores = [log_probability(model, [1, 2, 3], out[0, 3:].tolist()) for out in (greedy, beams)]
        assert scores[1] >= scores[0] - 1e-4
        beats += scores[1] > scores[0] + 1e-3
    assert beats, "five beams never found a better text than greedy decoding, so this test shows nothing"


def test_the_reported_score_is_the_texts_log_probability(make_model: Make) -> None:
    model = make_model(vocab_size=50)
    config = GenerationConfig(num_beams=4, max_new_tokens=6, length_penalty=0.5)
    for found, prompt in zip(beam_search(model, [[1, 2], [3, 4, 5]], config, {7}), ([1, 2], [3, 4, 5])):
        assert len(found) == 4
        assert found == sorted(found, key=lambda hypothesis: -hypothesis.score)
        for hypothesis in found:
            expected = log_probability(model, prompt, hypothesis.tokens) / len(hypothesis.tokens) ** 0.5
            assert hypothesis.score == pytest.approx(expected, abs=1e-4)


def test_more_texts_than_exist_is_a_clear_error(make_model: Make) -> None:
    model = make_model(vocab_size=3)
    with pytest.raises(UserError, match="only 3 different continuations"):
        generate_ids(model, torch.tensor([[1]]), num_beams=5, num_return_sequences=5, max_new_tokens=1)
