"""SentencePiece models: the ids of the original, without its package; saved for transformers and for llama2.c."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_trainer.common.errors import CorruptionError, DataError, UserError
from llm_trainer.tokenizer import ChatTemplate, SentencePieceTokenizer, load_tokenizer
from llm_trainer.tokenizer.llama2c import read_llama2c, write_llama2c
from llm_trainer.tokenizer.sentencepiece_model import UNKNOWN
from tests.tokenizer.samples import many_strings

MODELS = Path(__file__).parent / "sentencepiece_models"
EXPECTED: dict[str, list[dict[str, Any]]] = json.loads((MODELS / "expected.json").read_text(encoding="utf-8"))
EXACT = ("bpe_bytes", "unigram_bytes")  # bytes for what is unknown, and no change to text


def opened(name: str) -> SentencePieceTokenizer:
    return SentencePieceTokenizer.from_file(MODELS / f"{name}.model")


@pytest.mark.covers("R122")
@pytest.mark.parametrize("name", EXPECTED)
def test_ids_and_texts_are_those_of_sentencepiece(name: str) -> None:
    tokenizer = opened(name)
    unknown = next(i for i, piece in enumerate(tokenizer.model.pieces) if piece.kind == UNKNOWN)
    for row in EXPECTED[name]:
        ids = tokenizer.encode(row["text"])
        assert ids == row["ids"], row["text"]
        if unknown not in ids:  # SentencePiece writes an unknown token as " ⁇ ", we as <unk>
            assert tokenizer.decode(ids) == row["decoded"]


@pytest.mark.covers("R122")
@pytest.mark.parametrize("name", EXACT)
def test_any_text_comes_back(name: str) -> None:
    tokenizer = opened(name)
    for text in many_strings(300):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("name", EXPECTED)
def test_streaming_equals_decoding_of_texts_and_of_any_ids(name: str) -> None:
    tokenizer = opened(name)
    chooser = random.Random(0)
    rows = [tokenizer.encode(text) for text in many_strings(200)]
    rows += [chooser.choices(range(tokenizer.vocab_size), k=12) for _ in range(200)]
    # A special token before the space of a word: at the start of a text that space goes, elsewhere it stays.
    rows += [
        [*tokenizer.encode("a"), special, *tokenizer.encode("b c")] for special in tokenizer.special_tokens.values()
    ]
    for ids in rows:
        for skip in (False, True):
            stream = tokenizer.stream_decoder(skip_special_tokens=skip)
            for _ in range(2):  # flush makes it ready for another text
                streamed = "".join(map(stream.push, ids)) + stream.flush()
                assert streamed == tokenizer.decode(ids, skip_special_tokens=skip)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=40))
def test_any_text_comes_back_and_is_covered_by_its_offsets(text: str) -> None:
    tokenizer = opened("bpe_bytes")
    ids, offsets = tokenizer.encode_with_offsets(text)
    assert ids == tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert {position for start, end in offsets for position in range(start, end)} == set(range(len(text)))
    stream = tokenizer.stream_decoder()
    assert "".join(stream.push(token_id) for token_id in ids) + stream.flush() == text


def test_control_pieces_in_text_are_text_and_symbols_always_count() -> None:
    tokenizer = opened("bpe_symbols")
    assert not set(tokenizer.encode("</s> <s>")) & {tokenizer.bos_token_id, tokenizer.eos_token_id}
    assert tokenizer.encode("a</s>", allowed_special={"</s>"})[-1] == tokenizer.eos_token_id
    assert tokenizer.encode("x<tool>y").count(tokenizer.model.ids["<tool>"]) == 1
    assert tokenizer.encode("a", add_special_tokens=True)[0] == tokenizer.bos_token_id


@pytest.mark.covers("R117")
@pytest.mark.parametrize("name", ["bpe_bytes", "unigram_bytes", "unigram_folded"])
def test_transformers_gives_identical_ids(tmp_path: Path, name: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = opened(name)
    tokenizer.save_pretrained(tmp_path)
    reference = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*many_strings(300), *(row["text"] for row in EXPECTED[name])]:
        # Not for spaces that are written out, nor, with Unigram, control pieces of unknown characters: `tokenizers`
        # cannot tell either from its own.
        if "▁" in text or ("</s>" in text and name != "bpe_bytes"):
            continue
        theirs = reference(text, return_offsets_mapping=True)
        ids, offsets = tokenizer.encode_with_offsets(text)
        assert theirs["input_ids"] == ids == tokenizer.encode(text), text
        if name == "bpe_bytes":  # elsewhere `tokenizers` gives several tokens one common place
            assert theirs["offset_mapping"] == offsets, text
    for role in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert role == "pad_token_id" or getattr(reference, role) == getattr(tokenizer, role)


@pytest.mark.covers("R118", "R122")
@pytest.mark.parametrize("name", EXPECTED)
def test_a_saved_one_comes_back_equal(tmp_path: Path, name: str) -> None:
    tokenizer = opened(name)
    tokenizer.chat_template = ChatTemplate.load("plain")
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert isinstance(again, SentencePieceTokenizer)
    assert again.fingerprint() == tokenizer.fingerprint()
    assert again.chat_template == tokenizer.chat_template
    assert (tmp_path / "tokenizer.model").read_bytes() == (MODELS / f"{name}.model").read_bytes()
    assert (tmp_path / "tokenizer.json").exists() == (name != "bpe_symbols")  # which transformers cannot cut alike


def test_answers_are_masked_though_the_text_cannot_be_encoded_in_pieces() -> None:
    tokenizer = opened("bpe_bytes")
    assert not tokenizer.exact_pieces
    tokenizer.chat_template = ChatTemplate.load("plain")
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The quick fox"}]
    ids, mask = tokenizer.render(messages)
    trained = [token_id for token_id, counts in zip(ids, mask) if counts]
    assert tokenizer.decode(trained).strip() == "The quick fox</s>"
    prompt = tokenizer.render(messages[:1], add_generation_prompt=True).ids
    assert ids[: len(prompt)] == prompt


# ---- llama2.c ----


def test_llama2c_file_holds_every_piece(tmp_path: Path) -> None:
    tokenizer = opened("bpe_bytes")
    write_llama2c(tokenizer, tmp_path / "tokenizer.bin")
    data = (tmp_path / "tokenizer.bin").read_bytes()
    # Read as run.c does: the longest length, then score, length and bytes for each id.
    (longest,), position, read = struct.unpack("<I", data[:4]), 4, []
    while position < len(data):
        score, size = struct.unpack("<fI", data[position : position + 8])
        read.append((data[position + 8 : position + 8 + size], score))
        position += 8 + size
    assert len(read) == tokenizer.vocab_size
    assert longest == max(len(token) for token, _ in read)
    assert read[1][0] == b"\n<s>\n" and read[2][0] == b"\n</s>\n"
    assert read[3][0] == b"<0x00>" and read[258][0] == b"<0xFF>"
    for (token, score), piece in zip(read[259:], tokenizer.model.pieces[259:]):
        assert (token.decode(), score) == (piece.text.replace("▁", " "), piece.score)
    assert read_llama2c(tmp_path / "tokenizer.bin") == read


@pytest.mark.parametrize("name", ["unigram_bytes", "bpe_symbols"])
def test_llama2c_refuses_what_it_would_encode_differently(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"llama2\.c"):
        write_llama2c(opened(name), tmp_path / "tokenizer.bin")
    assert not (tmp_path / "tokenizer.bin").exists()


@pytest.mark.parametrize("data", [b"", b"\x05\0\0", b"\x05\0\0\0\0\0\0\0\x09\0\0\0abc", b"\x03\0\0\0"])
def test_a_damaged_llama2c_file_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t.bin").write_bytes(data)
    with pytest.raises(CorruptionError, match=r"t\.bin"):
        read_llama2c(tmp_path / "t.bin")


# ---- damage ----


def test_files_that_are_no_model_are_named(tmp_path: Path) -> None:
    for data in (b"", b"{}", b"\x0a\x05\x0a\x01a\x15\0", b"\x0a\x07\x0a\x01a\x15\0\0\xc0\x7f"):
        (tmp_path / "x.model").write_bytes(data)
        with pytest.raises(CorruptionError, match=r"x\.model is not a sound SentencePiece model"):
            load_tokenizer(tmp_path / "x.model")
    with pytest.raises(DataError, match="cannot be read"):
        SentencePieceTokenizer.from_file(tmp_path / "none.model")


def test_models_of_words_are_refused(tmp_path: Path) -> None:
    data = (MODELS / "bpe_symbols.model").read_bytes()
    model_type = b"bpe_symbols\x18\x02"  # field 3 of the trainer, behind the name of the model
    assert data.count(model_type) == 1
    (tmp_path / "word.model").write_bytes(data.replace(model_type, b"bpe_symbols\x18\x03"))
    with pytest.raises(DataError, match="kind 'word'"):
        load_tokenizer(tmp_path / "word.model")
