"""Wrong arguments get one sentence, whatever the kind of tokenizer, and never a result that looks right."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from llm_trainer.common.errors import CorruptionError, DataError, UserError
from llm_trainer.tokenizer import TextTypeError, Tokenizer, load_tokenizer
from llm_trainer.tokenizer.kinds import KINDS, tokenizer_class, train_tokenizer
from llm_trainer.tokenizer.tiktoken_format import read_tiktoken_file, write_tiktoken_file
from tests.tokenizer.samples import SCRIPTS
from tests.tokenizer.samples import trained as bpe
from tests.tokenizer.test_pieces import edited

TEXTS = [text * 3 for text in SCRIPTS.values()]


@cache
def trained(kind: str) -> Any:
    return train_tokenizer(kind, TEXTS, 700, workers=1)


# ---- calling ----

WRONG_CALLS: dict[str, tuple[Callable[[Tokenizer], Any], str]] = {
    "no text": (lambda t: t(None), "not NoneType"),  # type: ignore[arg-type]
    "bytes": (lambda t: t(b"abc"), "not bytes"),  # type: ignore[arg-type]
    "a dictionary": (lambda t: t.encode_batch({"text": "a"}), "not dict"),
    "numbers": (lambda t: t([1]), "a text must be a str, not int"),  # type: ignore[list-item]
    "length as text": (lambda t: t("a b", truncation=True, max_length="3"), "max_length is '3'"),  # type: ignore[arg-type]
    "length as float": (lambda t: t("a b", truncation=True, max_length=3.0), "max_length is 3.0"),  # type: ignore[arg-type]
    "truncation": (lambda t: t("a b", truncation="only_second", max_length=3), "truncation is 'only_second'"),  # type: ignore[arg-type]
    "rows too long": (
        lambda t: t(["a b c d e f g h", "a"], padding="max_length", max_length=2, return_tensors="np"),
        "truncation=True",
    ),
    "ids": (lambda t: t.decode(None), "a list of integers, not NoneType"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", WRONG_CALLS)
def test_wrong_calls_are_explained(kind: str, case: str) -> None:
    call, message = WRONG_CALLS[case]
    with pytest.raises(UserError, match=message):
        call(trained(kind))


@pytest.mark.covers("R124")
@pytest.mark.parametrize("kind", KINDS)
def test_truncation_takes_the_words_of_transformers(kind: str) -> None:
    tokenizer = trained(kind)
    text = "the quick brown fox doesn't jump"
    whole = tokenizer(text)["input_ids"]
    assert tokenizer(text, truncation="longest_first", max_length=3)["input_ids"] == whole[:3]
    assert tokenizer(text, truncation="do_not_truncate", max_length=3)["input_ids"] == whole


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tensors", ["pt", "np"])
def test_no_texts_make_a_rectangle_without_rows(kind: str, tensors: Any) -> None:
    batch = trained(kind)([], padding=True, return_tensors=tensors)
    assert tuple(batch["input_ids"].shape) == tuple(batch["attention_mask"].shape) == (0, 0)
    assert tuple(trained(kind)("", return_tensors=tensors)["input_ids"].shape) == (1, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_hold_what_lists_hold(kind: str) -> None:
    tokenizer = trained(kind)
    texts = [*SCRIPTS.values(), "", "lone \ud83d surrogate", "\ud83d\ude42", "<|endoftext|></s>[SEP]", " " * 250_000]
    rows = tokenizer.encode_arrays(texts)
    assert [row.tolist() for row in rows] == tokenizer.encode_batch(texts)
    with pytest.raises(TextTypeError, match="not int"):
        tokenizer.encode_arrays([1])


# ---- training ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ("one text", {}, "not a list of texts"),
        (b"bytes", {}, "not a list of texts"),
        (5, {}, "int, not a list of texts"),
        (TEXTS, {"vocab_size": 700.5}, "vocab_size is 700.5"),
        (TEXTS, {"vocab_size": "700"}, "vocab_size is '700'"),
        (TEXTS, {"special_tokens": "<|x|>"}, "special_tokens is one text"),
        (TEXTS, {"special_tokens": ["<|\ud800|>"]}, "lone surrogate"),
    ],
)
def test_wrong_requests_for_training_are_explained(
    kind: str, texts: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        tokenizer_class(kind)().train_from_iterator(texts, **{"vocab_size": 700, **options})
    str(caught.value).encode()  # it can be printed


def test_a_special_token_of_two_lines_does_not_break_vocab_txt() -> None:
    with pytest.raises(DataError, match="line end"):
        train_tokenizer("wordpiece", TEXTS, 900, special_tokens=["<a\nb>"])


# ---- files ----


@pytest.mark.parametrize(
    ("file", "path", "value"),
    [
        ("tokenizer.json", ("model", "max_input_chars_per_word"), "x"),
        ("tokenizer.json", ("model", "max_input_chars_per_word"), 0),
        ("tokenizer.json", ("model", "unk_token"), ["[UNK]"]),
        ("tokenizer.json", ("normalizer", "lowercase"), "yes"),
        ("tokenizer.json", ("normalizer", "strip_accents"), 2),
        ("tokenizer_config.json", ("additional_special_tokens",), [["x"]]),
        ("tokenizer_config.json", ("do_lower_case",), "no"),
    ],
)
def test_settings_of_the_wrong_type_are_damage(tmp_path: Path, file: str, path: tuple[str, ...], value: Any) -> None:
    trained("wordpiece").save_pretrained(tmp_path)
    edited(tmp_path / file, list(path), value)
    if file == "tokenizer_config.json":  # it decides only where there is nothing but vocab.txt
        (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(CorruptionError, match=file.replace(".", r"\.")):
        tokenizer_class("wordpiece").from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_brackets_without_end_are_damage(tmp_path: Path, kind: str, name: str) -> None:
    trained(kind).save_pretrained(tmp_path)
    (tmp_path / name).write_text("[" * 300_000)
    with pytest.raises(CorruptionError, match=name.replace(".", r"\.")):
        load_tokenizer(tmp_path)


def test_any_file_of_a_folder_names_its_tokenizer(tmp_path: Path) -> None:
    bpe("gpt2").save_pretrained(tmp_path / "bpe")
    trained("wordpiece").save_pretrained(tmp_path / "wordpiece")
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        assert load_tokenizer(tmp_path / "bpe" / name).fingerprint() == bpe("gpt2").fingerprint()
    assert load_tokenizer(tmp_path / "wordpiece" / "vocab.txt").fingerprint() == trained("wordpiece").fingerprint()
    shutil.copy(tmp_path / "bpe" / "tokenizer.json", tmp_path / "mine.json")
    with pytest.raises(DataError, match="must be called that"):
        load_tokenizer(tmp_path / "mine.json")


@pytest.mark.parametrize("name", ["", "hf:"])
def test_no_name_is_not_the_current_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bpe().save_pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="name of the tokenizer is empty"):
        load_tokenizer(name)


# ---- tiktoken ----


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("", "cover all text"), ("a", "cover all text"), (r"\w+|\d*", "cover all text"), ("(", "cannot be run")],
)
def test_a_cut_that_would_lose_text_is_refused(tmp_path: Path, pattern: str, message: str) -> None:
    write_tiktoken_file(bpe(), tmp_path / "x.tiktoken")
    with pytest.raises(UserError, match=message):
        read_tiktoken_file(tmp_path / "x.tiktoken", pattern=pattern)
    kept = read_tiktoken_file(tmp_path / "x.tiktoken", pattern=r"\S+|\s+")
    assert kept.decode(kept.encode("a (b)  c")) == "a (b)  c"


def test_special_tokens_stand_behind_the_highest_rank_even_if_there_are_holes(tmp_path: Path) -> None:
    write_tiktoken_file(bpe(), tmp_path / "x.tiktoken")
    *lines, last = (tmp_path / "x.tiktoken").read_text().splitlines()
    token, rank = last.split()
    (tmp_path / "x.tiktoken").write_text("\n".join([*lines, f"{token} {int(rank) + 5}"]))
    tokenizer = load_tokenizer(tmp_path / "x.tiktoken")
    assert tokenizer.special_tokens["<|endoftext|>"] == int(rank) + 6 == tokenizer.vocab_size - 1
    (tmp_path / "y.tiktoken").write_text("\n".join(lines[1:]))  # a byte is missing: that is what is said
    with pytest.raises(CorruptionError, match="256 bytes have no token"):
        load_tokenizer(tmp_path / "y.tiktoken")
