"""Every kind that can be trained keeps the same promises: one interface, one way to train, save, load and call."""

from __future__ import annotations

import pickle
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from llm_trainer.common.errors import ConfigError, DataError, UserError
from llm_trainer.config import TokenizerConfig
from llm_trainer.tokenizer import HFTokenizerWrapper, TextTypeError, load_tokenizer, set_dataset_resolver
from llm_trainer.tokenizer import chunk_cache as chunk_cache_module
from llm_trainer.tokenizer.chunk_cache import CachedEncoder
from llm_trainer.tokenizer.kinds import KINDS, tokenizer_class, train_configured, train_tokenizer
from tests.tokenizer.samples import SCRIPTS, many_strings

TEXTS = [text * 3 for text in SCRIPTS.values()]


@cache
def trained(kind: str) -> Any:
    return train_tokenizer(kind, TEXTS, 700, workers=1)


@pytest.mark.covers("R111", "R115", "R118", "R122", "R124")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_saves_loads_and_is_called_alike(tmp_path: Path, kind: str) -> None:
    import torch

    tokenizer = trained(kind)
    assert type(tokenizer) is tokenizer_class(kind)
    assert tokenizer.vocab_size == len(tokenizer) == len(tokenizer.token_byte_lengths()) == 700
    assert None not in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)

    texts = many_strings(150)
    rows = tokenizer.encode_batch(texts)
    assert rows == [tokenizer.encode(text) for text in texts]
    assert max(map(max, filter(None, rows))) < 700
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert type(again) is type(tokenizer)
    assert again.fingerprint() == tokenizer.fingerprint()
    assert again.encode_batch(texts) == rows
    assert pickle.loads(pickle.dumps(tokenizer)).encode_batch(texts) == rows

    batch = tokenizer(["the fox", "a"], padding="max_length", truncation=True, max_length=12, return_tensors="pt")
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 12)
    assert torch.equal(
        batch["input_ids"][0, : batch["attention_mask"][0].sum()], torch.tensor(tokenizer.encode("the fox"))
    )
    assert tokenizer.decode(tokenizer.encode("the fox")) == "the fox"


@pytest.mark.covers("R117")
@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_transformers_gives_identical_ids_on_real_languages(shared_data: Path, tmp_path: Path, kind: str) -> None:
    from transformers import AutoTokenizer

    with zipfile.ZipFile(shared_data / "nltk_corpora" / "udhr.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith("-UTF8")][::3]
        texts = [archive.read(name).decode("utf-8-sig", "replace") for name in names]
    assert len(texts) > 30
    tokenizer = train_tokenizer(kind, texts, 5000, workers=1)
    tokenizer.save_pretrained(tmp_path)
    reference = AutoTokenizer.from_pretrained(tmp_path)
    for text in texts:
        assert reference(text)["input_ids"] == tokenizer.encode(text)
        assert kind == "wordpiece" or tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
def test_texts_come_from_files_and_data_sets(tmp_path: Path, kind: str) -> None:
    texts = ["low lower lowest\n"] * 9
    (tmp_path / "a.txt").write_text("".join(texts), encoding="utf-8")
    options = {"vocab_size": 310, "allow_smaller": True}
    expected = train_tokenizer(kind, ["".join(texts)], **options).fingerprint()
    assert tokenizer_class(kind)().train_from_files(tmp_path / "a.txt", **options).fingerprint() == expected
    asked: list[Any] = []

    class Document:
        text = "".join(texts)

    def resolve(*names: str, **how: Any) -> list[Document]:
        asked.append((names, how))
        return [Document()]

    set_dataset_resolver(resolve)
    try:
        tokenizer = tokenizer_class(kind)().train_from_dataset("wikitext", "raw", **options)
    finally:
        set_dataset_resolver(None)
    assert asked == [(("wikitext",), {"config": "raw", "split": "train", "text_column": "text"})]
    assert tokenizer.fingerprint() == expected
    with pytest.raises(DataError, match="does not exist"):
        tokenizer.train_from_files(tmp_path / "missing.txt")


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_tokenizer_works_at_once(kind: str) -> None:
    tokenizer = tokenizer_class(kind)()
    ids = tokenizer.encode("hello 🙂")
    assert tokenizer.decode(ids) == ("[UNK] [UNK]" if kind == "wordpiece" else "hello 🙂")
    assert tokenizer.encode("") == []
    with pytest.raises(TextTypeError, match="must be a str"):
        tokenizer.encode(b"bytes")
    with pytest.raises(UserError, match="batch"):
        tokenizer.decode([ids, ids])


def test_bert_as_transformers_saves_it_is_loaded_through_transformers(tmp_path: Path) -> None:
    from transformers import BertTokenizerFast

    # It puts [CLS] and [SEP] around a text, which ours leaves to the caller.
    BertTokenizerFast(vocab=dict(trained("wordpiece").vocabulary.ids)).save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, HFTokenizerWrapper)
    assert loaded.encode_batch(many_strings(50)) == trained("wordpiece").encode_batch(many_strings(50))


def test_wrong_kinds_and_options_are_explained() -> None:
    with pytest.raises(UserError, match="bpe, wordpiece, unigram"):
        train_tokenizer("sentencepiece", TEXTS, 700)
    with pytest.raises(UserError, match="kind wordpiece is not trained with pattern"):
        train_tokenizer("wordpiece", TEXTS, 700, pattern="gpt4")


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_configures_every_kind(kind: str) -> None:
    settings = TokenizerConfig.from_dict({"type": kind, "vocab_size": 700})
    assert train_configured(settings, TEXTS).fingerprint() == trained(kind).fingerprint()
    # A run's folder holds every setting, those of other kinds too.
    assert TokenizerConfig.from_dict(settings.to_dict()) == settings
    with pytest.raises(UserError, match="size of the tokenizer is not known"):
        train_configured(TokenizerConfig.from_dict({"type": kind}), TEXTS)


def test_settings_of_another_kind_are_refused_and_those_of_the_kind_are_used() -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.pattern means nothing to a tokenizer of type wordpiece"):
        TokenizerConfig.from_dict({"type": "wordpiece", "pattern": "gpt2"})
    with pytest.raises(ConfigError, match=r"tokenizer\.byte_fallback means nothing to a tokenizer of type bpe"):
        TokenizerConfig.from_dict({"byte_fallback": False})
    cased = train_configured(
        TokenizerConfig.from_dict({"type": "wordpiece", "vocab_size": 700, "lowercase": False}), TEXTS
    )
    assert cased.decode(cased.encode("The")) == "The"
    unknown = train_configured(
        TokenizerConfig.from_dict({"type": "unigram", "vocab_size": 450, "byte_fallback": False}), TEXTS
    )
    assert unknown.encode("\ue000") == [unknown.special_tokens["<unk>"]]


# ---- the table of chunks ----


def spelled(calls: list[list[str]]) -> CachedEncoder:
    def encode(chunks: list[str]) -> list[list[int]]:
        calls.append(sorted(chunks))
        return [[ord(char) for char in chunk] for chunk in chunks]

    return CachedEncoder(r"\S+", encode)


def test_a_chunk_is_encoded_once_and_counted() -> None:
    calls: list[list[str]] = []
    encoder = spelled(calls)
    assert encoder.encode("ab c ab") == [97, 98, 99, 97, 98]
    assert encoder.encode("c d ab") == [99, 100, 97, 98]
    assert calls == [["ab", "c"], ["d"]]
    assert encoder.info() == (3, 3, 3)


def test_the_table_is_bounded_and_long_chunks_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_cache_module, "_MOST_CHUNKS", 5)
    calls: list[list[str]] = []
    encoder = spelled(calls)
    long = "x" * 500
    for start in range(0, 40, 3):
        words = [chr(97 + start % 7), *(chr(200 + start + step) for step in range(3)), long]
        assert encoder.encode(" ".join(words)) == [ord(char) for char in "".join(words)]
        assert encoder.info().size <= 5
    assert sum(long in call for call in calls) == len(calls)


def test_long_texts_are_encoded_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(SCRIPTS.values())
    for kind in ("wordpiece", "unigram"):
        expected = trained(kind).encode(text)
        monkeypatch.setattr(chunk_cache_module, "_BLOCK_CHARACTERS", 10)
        monkeypatch.setattr(chunk_cache_module, "_BLOCK_CHUNKS", 7)
        assert trained(kind).encode(text) == expected
        monkeypatch.undo()
