"""Gaps in a text: how many tokens are offered, where spaces go, and what is refused."""

from __future__ import annotations

import pytest
import torch

from llm_trainer.common.errors import UserError
from llm_trainer.generation import fill_mask
from llm_trainer.generation.fill_mask import Filling, filled_text
from llm_trainer.models import EncoderLM
from llm_trainer.tokenizer import BPETokenizer, Tokenizer, WordPieceTokenizer
from llm_trainer.tokenizer.framing import mask_token_id
from tests.models.tiny import tiny_config

TEXTS = ["the film was great and the actor seemed happy in my view"] * 20


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    found = WordPieceTokenizer()
    found.train_from_iterator(TEXTS, 200, allow_smaller=True)
    return found


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> EncoderLM:
    torch.manual_seed(0)
    # Vocabularies of models are often padded.
    return EncoderLM(tiny_config(family="encoder", vocab_size=tokenizer.vocab_size + 7)).eval()


def test_all_that_can_be_offered_are_the_ordinary_tokens_once_each(model: EncoderLM, tokenizer: Tokenizer) -> None:
    (gap,) = fill_mask(model, tokenizer, "the [MASK] was", top_k=10**6)
    found = [filling.token_id for filling in gap]
    assert sorted(found) == sorted(set(range(tokenizer.vocab_size)) - set(tokenizer.special_tokens.values()))
    assert abs(sum(filling.probability for filling in gap) - 1) < 1e-4


@pytest.mark.parametrize("top_k", [0, -1])
def test_no_token_for_a_gap_is_refused(model: EncoderLM, tokenizer: Tokenizer, top_k: int) -> None:
    with pytest.raises(UserError, match=f"top_k must be at least 1, not {top_k}"):
        fill_mask(model, tokenizer, "the [MASK] was", top_k=top_k)


def test_a_mask_that_is_also_the_border_of_texts_is_refused() -> None:
    tokenizer = BPETokenizer()
    tokenizer.train_from_iterator(TEXTS, 300, special_tokens=["[MASK]"], allow_smaller=True)
    assert tokenizer.eos_token_id == tokenizer.special_tokens["[MASK]"]
    with pytest.raises(UserError, match=r"\[MASK\] also begins or ends texts"):
        mask_token_id(tokenizer)


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("[MASK] film", [" the"], "the film"),
        ("  [MASK] film", [" the"], "the film"),
        ("the [MASK] was", [" film"], "the film was"),
        ("the [MASK]was", ["re"], "the rewas"),
        ("[MASK][MASK]!", [" a", "b"], "ab!"),
    ],
)
def test_a_word_takes_the_place_of_the_space_before_it(text: str, words: list[str], expected: str) -> None:
    assert filled_text(text, [[Filling(0, word, 1.0)] for word in words]) == expected
