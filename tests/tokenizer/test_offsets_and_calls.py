"""Calls and offsets, argument by argument, against transformers on the same saved files."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_trainer.common.errors import UserError
from llm_trainer.tokenizer import BPETokenizer, HFTokenizerWrapper, Tokenizer
from tests.tokenizer.samples import many_strings, trained

TEXTS = ["one", "two words, größer", "and some more words 世界 🙂", ""]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("saved")
    trained().save_pretrained(folder)
    return folder, AutoTokenizer.from_pretrained(folder)


@cache
def own() -> BPETokenizer:
    return BPETokenizer(trained().vocabulary)


@pytest.mark.covers("R124")
@pytest.mark.parametrize("which", ["ours", "wrapped"])
@pytest.mark.parametrize("padding", [False, True, "longest", "max_length"])
@pytest.mark.parametrize("length", [None, 1, 7, 40])
def test_calls_equal_those_of_transformers(
    pair: tuple[Path, Any], which: str, padding: Any, length: int | None
) -> None:
    folder, reference = pair
    tokenizer: Tokenizer = own() if which == "ours" else HFTokenizerWrapper(folder)
    if padding == "max_length" and length is None:
        return  # an error here; transformers goes on without padding
    for sides in itertools.product(("left", "right"), repeat=2):
        tokenizer.padding_side, tokenizer.truncation_side = reference.padding_side, reference.truncation_side = sides
        options: dict[str, Any] = {"padding": padding, "max_length": length, "truncation": length is not None}
        options |= {"return_offsets_mapping": True}
        if padding:
            options["pad_to_multiple_of"] = 8 if length is None else None
        ours, theirs = tokenizer(TEXTS, **options), reference(TEXTS, **options)
        for key in ("input_ids", "attention_mask", "offset_mapping"):
            assert ours[key] == theirs[key], (sides, key)
        if padding and length is not None and padding == "max_length":
            for kind in ("np", "pt"):
                made, expected = (
                    tokenizer(TEXTS, return_tensors=kind, **options),
                    reference(TEXTS, return_tensors=kind, **options),
                )
                for key in ("input_ids", "attention_mask", "offset_mapping"):
                    np.testing.assert_array_equal(np.asarray(made[key]), np.asarray(expected[key]))
    tokenizer.padding_side = tokenizer.truncation_side = reference.padding_side = reference.truncation_side = "right"
    one, one_theirs = tokenizer(TEXTS[2], return_offsets_mapping=True), reference(TEXTS[2], return_offsets_mapping=True)
    assert one["input_ids"] == one_theirs["input_ids"]
    assert one["offset_mapping"] == one_theirs["offset_mapping"]


def test_a_call_may_choose_its_own_side() -> None:
    batch = own()(["a b c", "d"], padding=True, padding_side="left", return_tensors="pt")
    assert batch.attention_mask[1].tolist()[0] == 0
    assert own().padding_side == "right"
    assert batch.input_ids.dtype == torch.long


def test_truncation_keeps_the_start_token() -> None:
    tokenizer = own()
    for side in ("left", "right"):
        tokenizer.truncation_side = side
        ids = tokenizer("many words in a row", truncation=True, max_length=3, add_special_tokens=True)["input_ids"]
        tokenizer.truncation_side = "right"
        plain = tokenizer.encode("many words in a row")
        assert ids == [tokenizer.bos_token_id, *(plain[:2] if side == "right" else plain[-2:])]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncation": True, "max_length": 0}, "max_length is 0"),
        ({"padding": True, "pad_to_multiple_of": 0}, "pad_to_multiple_of is 0"),
        ({"padding": True, "padding_side": "top"}, "padding_side is 'top'"),
    ],
)
def test_impossible_arguments_are_explained(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        own()(TEXTS, **options)


@pytest.mark.covers("R117")
@pytest.mark.parametrize("pattern", ["gpt4", "gpt2"])
def test_offsets_equal_those_of_tokenizers_on_many_scripts(tmp_path: Path, pattern: str) -> None:
    from tokenizers import Tokenizer as Reference

    tokenizer = trained(pattern)
    tokenizer.save_pretrained(tmp_path)
    reference = Reference.from_file(str(tmp_path / "tokenizer.json"))
    reference.encode_special_tokens = True
    for text in many_strings():
        expected = reference.encode(text)
        assert tokenizer.encode_with_offsets(text) == (expected.ids, expected.offsets), text


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=40))
def test_offsets_cover_any_text_in_order(text: str) -> None:
    ids, offsets = own().encode_with_offsets(text)
    assert ids == own().encode(text)
    starts = [start for start, _ in offsets]
    assert starts == sorted(starts)
    assert all(start < end for start, end in offsets)
    if not any(0xD800 <= ord(character) < 0xE000 for character in text):
        assert {place for start, end in offsets for place in range(start, end)} == set(range(len(text)))


def test_offsets_of_special_tokens() -> None:
    ids, offsets = own().encode_with_offsets("é<|im_start|>b", allowed_special="all", add_special_tokens=True)
    assert offsets[0] == (0, 0)
    assert offsets[ids.index(own().special_tokens["<|im_start|>"])] == (1, 13)
    assert offsets[-1] == (13, 14)
