"""Tokenizers of transformers behind our interface."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_trainer.common.errors import DataError, UserError
from llm_trainer.tokenizer import HFTokenizerWrapper
from tests.tokenizer.samples import many_strings, trained


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    trained().save_pretrained(tmp_path)
    return tmp_path


def test_the_wrapper_and_our_own_tokenizer_agree(folder: Path) -> None:
    ours, wrapped = trained(), HFTokenizerWrapper(folder)
    assert wrapped.vocab_size == ours.vocab_size
    assert wrapped.special_tokens == ours.special_tokens
    assert (wrapped.bos_token_id, wrapped.eos_token_id, wrapped.pad_token_id) == (697, 697, 697)
    assert (wrapped.token_byte_lengths() == ours.token_byte_lengths()).all()
    for text in [*many_strings(200), "lone \ud83d surrogate"]:
        ids = ours.encode(text, add_special_tokens=True)
        assert wrapped.encode(text, add_special_tokens=True) == ids
        assert wrapped.encode(text, allowed_special="all") == ours.encode(text, allowed_special="all")
        assert wrapped.decode(ids, skip_special_tokens=True) == ours.decode(ids, skip_special_tokens=True)
        stream = wrapped.stream_decoder()
        assert "".join(stream.push(token_id) for token_id in ids) + stream.flush() == ours.decode(ids)


def test_fingerprints_are_stable_and_telling(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    trained("gpt2").save_pretrained(other)
    assert HFTokenizerWrapper(folder).fingerprint() == HFTokenizerWrapper(folder).fingerprint()
    assert HFTokenizerWrapper(folder).fingerprint() != HFTokenizerWrapper(other).fingerprint()


def test_encoding_plain_text_after_allowed_text_is_plain_again(folder: Path) -> None:
    wrapped = HFTokenizerWrapper(folder)
    assert wrapped.encode("<|endoftext|>", allowed_special="all") == [697]
    assert 697 not in wrapped.encode("<|endoftext|>")
    with pytest.raises(UserError, match="or none"):
        wrapped.encode("x", allowed_special={"<|im_start|>"})


def test_ids_outside_the_vocabulary_are_explained(folder: Path) -> None:
    wrapped = HFTokenizerWrapper(folder)
    for wrong in ([700], [-1]):
        with pytest.raises(DataError, match="ids 0 to 699"):
            wrapped.decode(wrong)


def test_without_the_hub_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="does not answer") as caught:
        HFTokenizerWrapper("mistralai/Mistral-7B-Instruct-v0.2")
    assert "--local-dir" in str(caught.value)
    with pytest.raises(DataError, match="does not exist"):
        HFTokenizerWrapper(tmp_path / "missing")
    with pytest.raises(DataError, match=r"no tokenizer\.json"):
        HFTokenizerWrapper(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="cannot be loaded"):
        HFTokenizerWrapper(tmp_path)
