"""What people write when they bring their own habits: the trainer of ``tokenizers``, batches, ids and vectors."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from llm_trainer.tokenizer import BPETokenizer, load_tokenizer
from llm_trainer.tokenizer.kinds import KINDS, train_tokenizer
from tests.tokenizer.samples import SCRIPTS, many_strings, standard_library


@pytest.mark.covers("R119", "R121")
@pytest.mark.parametrize("special_tokens", [[], ["<|endoftext|>"]])
def test_what_the_tokenizers_library_trains_is_loaded_and_used(tmp_path: Path, special_tokens: list[str]) -> None:
    from tokenizers import ByteLevelBPETokenizer

    def train(texts: list[str], vocab_size: int = 50000) -> Any:
        tokenizer = ByteLevelBPETokenizer()
        tokenizer.train_from_iterator(texts, vocab_size=vocab_size, special_tokens=special_tokens, show_progress=False)
        return tokenizer

    theirs = train([text * 3 for text in SCRIPTS.values()])
    theirs.save_model(str(tmp_path))
    ours = load_tokenizer(tmp_path)
    assert isinstance(ours, BPETokenizer)
    assert ours.vocab_size == theirs.get_vocab_size()
    assert list(ours.special_tokens) == special_tokens
    for text in many_strings(400):
        assert ours.decode(ours.encode(text)) == text
        if "<|endoftext|>" not in text:  # there, control tokens in text count
            assert ours.encode(text) == theirs.encode(text).ids
    assert ours.encode("a<|endoftext|>", allowed_special="all") == theirs.encode("a<|endoftext|>").ids


@pytest.mark.covers("R114")
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_encoded_at_a_megabyte_a_second_and_words_are_found_again(kind: str) -> None:
    texts = standard_library(1_000_000)
    tokenizer: Any = train_tokenizer(kind, texts, 3000, workers=1)
    started = time.process_time()
    rows = tokenizer.encode_batch(texts)
    seconds = time.process_time() - started
    assert sum(len(text.encode()) for text in texts) / seconds > 1e6
    assert rows == [tokenizer.encode(text) for text in texts]
    if kind != "bpe":  # whose engine is faster than looking up
        info = tokenizer.cache_info()
        assert info.hits > 4 * info.misses > 0
        assert info.size <= info.misses


@pytest.mark.covers("R123")
def test_a_text_becomes_ids_and_ids_become_vectors() -> None:
    import torch

    from llm_trainer.config import ModelConfig
    from llm_trainer.models import TransformerLM

    tokenizer = train_tokenizer("bpe", [text * 3 for text in SCRIPTS.values()], 400, workers=1)
    sizes = {"d_model": 16, "n_layers": 1, "n_heads": 2, "max_seq_len": 32}
    model = TransformerLM(ModelConfig.from_dict({"vocab_size": tokenizer.vocab_size, **sizes}))
    ids = tokenizer.encode("two two", return_tensors="pt")  # (1, seq)
    vectors = model.embed_tokens(ids)  # (1, seq, d_model)
    assert vectors.shape == (1, ids.shape[1], 16)
    for position, token_id in enumerate(ids[0].tolist()):
        assert torch.equal(vectors[0, position], model.embed_tokens.weight[token_id])
    page = (Path(__file__).parents[2] / "docs" / "concepts" / "tokenizer.md").read_text(encoding="utf-8")
    assert "## From ids to vectors" in page
