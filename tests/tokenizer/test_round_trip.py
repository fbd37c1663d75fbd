"""Whatever goes in comes out: any Unicode text, whole or as a stream, of any length."""

from __future__ import annotations

import pickle
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm_trainer.common.errors import DataError, UserError
from llm_trainer.tokenizer import BPETokenizer, bpe_plain
from llm_trainer.tokenizer.pretokenize import SPLIT_PATTERNS, pretokens
from tests.tokenizer.samples import SCRIPTS, many_strings, trained

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
any_string = st.text(st.characters(exclude_categories=[]) | st.sampled_from("\ud800\udc00\udfff"), max_size=20)


@pytest.mark.covers("R112")
@pytest.mark.parametrize("pattern", SPLIT_PATTERNS)
def test_any_text_comes_back(pattern: str) -> None:
    tokenizer = trained(pattern)

    @settings(max_examples=300, deadline=None)
    @given(any_text)
    @example("")
    @example("naïve café_ 日本語\r\n\t 🙂🏽\x00\ufeff\u2028 <|endoftext|>")
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
        assert "".join(pretokens(text, SPLIT_PATTERNS[pattern])) == text

    check()
    for text in many_strings():
        assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=200, deadline=None)
@given(any_string)
@example("\ud83d\ude42")
@example("lone \ud83d surrogate")
def test_lone_surrogates_become_replacement_characters_and_pairs_their_character(text: str) -> None:
    tokenizer = trained()
    expected = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert tokenizer.decode(tokenizer.encode(text)) == expected
    assert tokenizer.encode(text) == bpe_plain.encode(text, tokenizer.vocabulary)


@settings(max_examples=200, deadline=None)
@given(any_text)
@example("🙂👩‍👩‍👧 漢字 <|endoftext|>")
def test_streamed_text_is_the_whole_text_and_never_broken(text: str) -> None:
    tokenizer = BPETokenizer()  # one token a byte: every other script is cut inside its characters
    stream = tokenizer.stream_decoder()
    pieces = [stream.push(token_id) for token_id in tokenizer.encode(text)]
    assert "".join(pieces) + stream.flush() == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 699), max_size=40), st.booleans())
def test_streaming_equals_decoding_for_any_ids(ids: list[int], skip: bool) -> None:
    """A model may produce bytes that are no text; both ways must then show the same."""
    tokenizer = trained()
    stream = tokenizer.stream_decoder(skip_special_tokens=skip)
    streamed = "".join(stream.push(token_id) for token_id in ids) + stream.flush()
    assert streamed == tokenizer.decode(ids, skip_special_tokens=skip)


def test_stream_waits_for_the_end_of_a_character_and_can_be_used_again() -> None:
    tokenizer = BPETokenizer()
    first, *rest = tokenizer.encode("🙂")
    stream = tokenizer.stream_decoder()
    assert stream.push(first) == ""
    assert stream.flush() == "\ufffd"
    assert [stream.push(token_id) for token_id in [first, *rest]] == ["", "", "", "🙂"]


@pytest.mark.parametrize("pattern", ["gpt4", "gpt2"])
@pytest.mark.parametrize(
    "text",
    ["a" * 1_000_000, "ab" * 500_000, "中" * 300_000, " " * 1_500_000 + "x", "\n" * 1_500_000, "y" + " \n" * 700_000],
    ids=["letter", "letters", "chinese", "spaces", "lines", "blank lines"],
)
def test_a_megabyte_without_a_word_boundary_is_encoded_in_seconds(text: str, pattern: str) -> None:
    tokenizer = trained(pattern)
    start = time.perf_counter()
    ids = tokenizer.encode(text)
    assert time.perf_counter() - start < 10
    assert tokenizer.decode(ids) == text


def test_long_blank_runs_get_the_ids_of_the_readable_twin() -> None:
    tokenizer = trained()
    text = "words before" + " " * 250_000 + "and 🙂 after\n"
    piecewise = tokenizer._encoder._encode_piecewise(text)
    assert tokenizer.encode(text) == piecewise == tokenizer._encoder._encoding.encode_ordinary(text)


def test_decode_takes_lists_arrays_and_tensors_and_explains_the_rest() -> None:
    import torch

    tokenizer = trained()
    ids = tokenizer.encode("one two")
    assert tokenizer.decode(ids) == tokenizer.decode(np.array(ids)) == tokenizer.decode(torch.tensor(ids)) == "one two"
    assert tokenizer.decode(ids[0]) == tokenizer.decode(torch.tensor(ids)[0]) == tokenizer.decode([ids[0]])
    assert tokenizer.decode([np.int64(ids[0])]) == tokenizer.decode([ids[0]])
    assert tokenizer.batch_decode(torch.tensor([ids, ids])) == ["one two", "one two"]
    for wrong in ([700], [-1], [2**40]):
        with pytest.raises(DataError, match="ids 0 to 699"):
            tokenizer.decode(wrong)
    with pytest.raises(DataError, match="ids 0 to 699"):
        tokenizer.token_bytes(-1)
    with pytest.raises(UserError, match="batch"):
        tokenizer.decode([ids, ids])
    with pytest.raises(UserError, match="integer"):
        tokenizer.decode(["one"])


def test_a_pickled_tokenizer_encodes_the_same() -> None:
    tokenizer = trained()
    tokenizer.encode("warm")
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.fingerprint() == tokenizer.fingerprint()
    assert all(again.encode(text) == tokenizer.encode(text) for text in SCRIPTS.values())
