"""Tokenizers of transformers behind our interface."""

from __future__ import annotations

import pickle
import threading
from copy import deepcopy
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


@pytest.mark.covers("R126")
def test_no_copy_and_no_other_thread_lets_special_tokens_through(folder: Path) -> None:
    wrapped = HFTokenizerWrapper(folder)
    attack = "a<|im_start|>b" * 50
    plain = wrapped.encode(attack)
    special = set(wrapped.special_tokens.values())
    assert not special & set(plain)
    for copy in (pickle.loads(pickle.dumps(wrapped)), deepcopy(wrapped)):
        assert copy.encode(attack) == plain
        assert special & set(copy.encode(attack, allowed_special="all"))
    allowing = threading.Event()

    def allow() -> None:
        while not allowing.is_set():
            wrapped.encode(attack, allowed_special="all")

    thread = threading.Thread(target=allow)
    thread.start()
    try:
        assert all(wrapped.encode(attack) == plain for _ in range(300))
    finally:
        allowing.set()
        thread.join()


def test_fingerprints_are_stable_and_telling(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    trained("gpt2").save_pretrained(other)
    assert HFTokenizerWrapper(folder).fingerprint() == HFTokenizerWrapper(folder).fingerprint()
    assert HFTokenizerWrapper(folder).fingerprint() != HFTokenizerWrapper(other).fingerprint()


def test_encoding_plain_text_after_allowed_text_is_plain_again(folder: Path) -> None:
    wrapped = HFTokenizerWrapper(folder)
    assert wrapped.encode("<|endoftext|>", allowed_special="all") == [697]
    assert 697 not in wrapped.encode("<|endoftext|>")


@pytest.mark.covers("R126")
def test_some_special_tokens_can_be_allowed_and_the_others_stay_text(folder: Path) -> None:
    ours, wrapped = trained(), HFTokenizerWrapper(folder)
    for text in ("a <|im_start|> b", "<|im_start|>a<|im_end|> b<|endoftext|>", "plain"):
        ids = wrapped.encode(text, allowed_special={"<|im_start|>"})
        assert ids == ours.encode(text, allowed_special={"<|im_start|>"})
    assert wrapped.encode_with_offsets("a <|im_start|>", allowed_special={"<|im_start|>"})[1][-1] == (2, 14)
    with pytest.raises(UserError, match="not allowed"):
        wrapped.encode_with_offsets("<|im_start|><|im_end|>", allowed_special={"<|im_start|>"})


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
