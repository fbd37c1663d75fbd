"""Held-out evaluation: every byte once, whatever the batching, and figures that can be checked by hand."""

from __future__ import annotations

import lzma
import math

import pytest
import torch
import torch.nn.functional as F

from llm_trainer.common.errors import DataError
from llm_trainer.evaluation import compressor_baselines, evaluate_documents, generation_quality
from llm_trainer.training.objectives import CausalLM
from llm_trainer.training.validation import byte_lengths, validate
from tests.byte_tokenizer import ByteTokenizer
from tests.training.helpers import ListLoader, tiny_model

TEXTS = ["short", "a text that is longer than the sixteen tokens of the model's context", "naïve café 日本", ""]


def manual_nats(texts: list[str], context: int, length: int = 16) -> tuple[float, int]:
    """Predict each token on its own from the window that it belongs to."""
    model, tokenizer = tiny_model(vocab_size=257).eval(), ByteTokenizer()
    total, count = 0.0, 0
    for text in texts:
        ids = [256, *tokenizer.encode(text), 256]
        for target in range(1, len(ids)):
            first = 0
            while target >= first + length:
                first += length - context
            logits = model(torch.tensor([ids[first:target]])).logits[0, -1].double()
            total -= float(F.log_softmax(logits, dim=0)[ids[target]])
            count += 1
    return total, count


@pytest.mark.covers("R312")
@pytest.mark.parametrize("batch_tokens", [16, 40, 1000])
@pytest.mark.parametrize("context", [1, 8])
def test_every_token_is_predicted_once(batch_tokens: int, context: int) -> None:
    model = tiny_model(vocab_size=257)
    with torch.no_grad():
        nats, tokens = manual_nats(TEXTS, context)
    result = evaluate_documents(model, ByteTokenizer(), TEXTS, batch_tokens=batch_tokens, context=context)
    text_bytes = sum(len(text.encode()) for text in TEXTS)
    assert (result.tokens, result.bytes, result.documents) == (tokens, text_bytes, 4)
    assert tokens == text_bytes + 4  # every byte, and the end of each document
    assert result.loss == pytest.approx(nats / tokens, rel=1e-5)
    assert result.bits_per_byte == pytest.approx(nats / math.log(2) / text_bytes, rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert model.training


def test_no_text_is_an_error() -> None:
    with pytest.raises(DataError, match="no text to evaluate on"):
        evaluate_documents(tiny_model(vocab_size=257), ByteTokenizer(), [])


def test_compressors_are_what_they_say() -> None:
    text = "the same sentence again and again. " * 200
    data = text.encode()
    expected = 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data)
    assert compressor_baselines([text])["xz -9e"] == expected
    assert compressor_baselines([]) == {}


def test_validation_does_not_depend_on_the_batches() -> None:
    model, results = tiny_model(), []
    for batch in (1, 3, 8):
        loader = ListLoader(sequences=24, batch_size=batch)
        results.append(
            validate(
                model,
                CausalLM(),
                loader.batches(0, 24),
                device=torch.device("cpu"),
                autocast=torch.autocast("cpu", enabled=False),
                token_bytes=torch.full((61,), 2),
            )
        )
    for result in results[1:]:
        assert result == pytest.approx(results[0], rel=1e-6)
    loss = results[0]["validation/loss"]
    assert results[0]["validation/bits_per_byte"] == pytest.approx(loss / math.log(2) / 2, rel=1e-6)
    lengths = byte_lengths(ByteTokenizer())
    assert lengths is not None and lengths.tolist() == [1] * 256 + [0]


@pytest.mark.covers("R312")
def test_repetition_shows_in_the_quality_figures() -> None:
    varied = generation_quality(["one two three four five six"])
    looping = generation_quality(["one two one two one two one two"])
    assert varied == {"distinct_1": 1.0, "distinct_2": 1.0, "repetition": 0.0}
    assert looping["repetition"] == pytest.approx(5 / 7)
    assert looping["distinct_1"] == 2 / 8
    assert generation_quality(["", "word"])["repetition"] == 0.0
