"""WordPiece: the score is the definition, the twins agree, ids are those of BERT's tokenizers, files load anywhere."""

from __future__ import annotations

import time
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm_trainer.common.errors import DataError
from llm_trainer.tokenizer import (
    WordPieceTokenizer,
    wordpiece_fast,
    wordpiece_plain,
)
from llm_trainer.tokenizer.bert_text import BertText
from llm_trainer.tokenizer.wordpiece_vocabulary import BERT_SPECIAL_TOKENS, WordPieceVocabulary, choose_alphabet
from tests.tokenizer.samples import SCRIPTS, many_strings, standard_library

TEXTS = [text * 3 for text in SCRIPTS.values()]


@cache
def trained(lowercase: bool = True, vocab_size: int = 900) -> WordPieceTokenizer:
    """A small tokenizer that has seen every script. Shared: do not train it again."""
    return WordPieceTokenizer().train_from_iterator(
        TEXTS, vocab_size, lowercase=lowercase, special_tokens=["<|im_start|>"], workers=1
    )


# ---- training ----


def best_by_definition(words: list[list[str]]) -> float:
    """The highest score of any pair, counted in the plainest way: over a list of all words, one by one."""
    pieces = [piece for word in words for piece in word]
    pairs = [pair for word in words for pair in pairwise(word)]
    return max((pairs.count(p) / (pieces.count(p[0]) * pieces.count(p[1])) for p in set(pairs)), default=0.0)


@pytest.mark.covers("R115")
@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=7))
def test_every_merge_has_the_highest_score_by_definition(texts: list[str]) -> None:
    counts = Counter(texts)
    alphabet = choose_alphabet(counts, 10, BertText())
    words = [list(wordpiece_plain.characters_of(word)) for word in texts]
    for learned in wordpiece_fast.train_pieces(counts, alphabet, 8, min_frequency=1):
        pieces = [piece for word in words for piece in word]
        pairs = Counter(pair for word in words for pair in pairwise(word))
        made = [pair for pair in pairs if wordpiece_plain.join(*pair) == learned]
        scores = [pairs[p] / (pieces.count(p[0]) * pieces.count(p[1])) for p in made]
        best = best_by_definition(words)
        chosen = made[scores.index(best)]
        words = [list(wordpiece_plain.merge_pair(tuple(word), chosen)) for word in words]


@pytest.mark.covers("R115")
def test_pieces_that_are_seldom_apart_are_joined_before_frequent_ones() -> None:
    # ##u and ##g stand together 20 times, but ##u is often elsewhere: 20 / (36 * 20). ##g ##s: 5 / (20 * 5), the
    # highest. Then b ##u, p ##u and h ##u are equal, 1 / 36 each, and b is the oldest; then bu ##n: 4 / (4 * 16).
    counts = {"hug": 10, "pug": 5, "pun": 12, "bun": 4, "hugs": 5}
    alphabet = choose_alphabet(counts, 100, BertText())
    assert wordpiece_fast.train_pieces(counts, alphabet, 3) == ["##gs", "bu", "bun"]
    assert wordpiece_fast.train_pieces(counts, alphabet, 1, score="frequency") == ["##ug"]


@pytest.mark.parametrize("score", ["likelihood", "frequency"])
@pytest.mark.parametrize("first_floor", [0, 20])
def test_fast_and_readable_twin_learn_alike(score: Any, first_floor: int) -> None:
    words = Counter(word for text in TEXTS for word in BertText().words(text))
    alphabet = choose_alphabet(words, 1000, BertText())
    arguments = (words, alphabet, 150, 2, score, first_floor)
    assert len(wordpiece_plain.train_pieces(*arguments)) == 150
    assert wordpiece_fast.train_pieces(*arguments) == wordpiece_plain.train_pieces(*arguments)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.text("ab", min_size=1, max_size=12), st.integers(1, 5), min_size=1, max_size=8),
    st.integers(0, 6),
    st.sampled_from(["likelihood", "frequency"]),
)
def test_twins_agree_where_pairs_overlap(words: dict[str, int], first_floor: int, score: Any) -> None:
    alphabet = choose_alphabet(words, 10, BertText())
    arguments = (words, alphabet, 30, 1, score, first_floor)
    learned = wordpiece_fast.train_pieces(*arguments)
    assert learned == wordpiece_plain.train_pieces(*arguments)
    assert len(set(learned)) == len(learned)


def test_frequent_text_is_not_spelled_in_rare_pairs() -> None:
    """The floor keeps the likelihood from spending the vocabulary on pairs that hardly occur."""
    texts = standard_library(150_000)
    by_likelihood = WordPieceTokenizer().train_from_iterator(texts, 1500, workers=1)
    by_frequency = WordPieceTokenizer().train_from_iterator(texts, 1500, workers=1, score="frequency")
    assert by_likelihood.vocab_size == by_frequency.vocab_size == 1500
    lengths = [sum(map(len, tokenizer.encode_batch(texts))) for tokenizer in (by_likelihood, by_frequency)]
    assert lengths[0] < 1.03 * lengths[1]


def test_a_known_character_is_known_wherever_it_stands() -> None:
    tokenizer = WordPieceTokenizer().train_from_iterator(["xa xb ya."] * 3, 15, workers=1)
    assert tokenizer.unk_token_id not in tokenizer.encode("ax by. aabbxxyy")
    assert tokenizer.encode("axq b") == [tokenizer.unk_token_id, *tokenizer.encode("b")]
    assert "##." not in tokenizer.vocabulary.ids


def test_rare_characters_are_left_out_of_a_small_alphabet() -> None:
    tokenizer = WordPieceTokenizer().train_from_iterator(["aab ab ac"] * 2, 10, max_alphabet=2, allow_smaller=True)
    assert tokenizer.encode("ab") != [tokenizer.unk_token_id]
    assert tokenizer.encode("ac") == [tokenizer.unk_token_id]


# ---- encoding ----


def references(tokenizer: WordPieceTokenizer, folder: Path) -> list[Any]:
    """BERT's tokenizer of transformers on our vocabulary, and the folder as AutoTokenizer loads it."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import AutoTokenizer, BertTokenizerFast

    tokenizer.save_pretrained(folder)
    lowercase = tokenizer.vocabulary.text.lowercase
    bert = BertTokenizerFast(vocab=dict(tokenizer.vocabulary.ids), do_lower_case=lowercase)
    rust = BertWordPieceTokenizer(dict(tokenizer.vocabulary.ids), lowercase=lowercase)
    auto = AutoTokenizer.from_pretrained(folder)
    return [
        lambda text: bert(text, add_special_tokens=False, split_special_tokens=True)["input_ids"],
        lambda text: rust.encode(text, add_special_tokens=False).ids,
        lambda text: auto(text)["input_ids"],
    ]


@pytest.mark.covers("R115", "R117")
@pytest.mark.parametrize("lowercase", [True, False])
def test_ids_are_those_of_bert_on_many_scripts(tmp_path: Path, lowercase: bool) -> None:
    tokenizer = trained(lowercase)
    encoders = references(tokenizer, tmp_path)
    for text in many_strings() if lowercase else many_strings()[::4]:
        ids = tokenizer.encode(text)
        assert wordpiece_plain.encode(text, tokenizer.vocabulary) == ids, text
        for encode in encoders:
            assert encode(text) == ids, text


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(max_codepoint=0x4FF) | st.sampled_from("".join(SCRIPTS.values())), max_size=40))
@example("ΑΣ ΌΣΟΣ İstanbul ǅ ﬁ Å\u0301\u0323 \u1fef\u037e a\u00adb\u200bc\x0bd\x85e\ufeff")
@example("x" * 100 + " " + "y" * 101 + " 人a人 $^+ ##ing [SEP] [UNK]")
def test_readable_and_compiled_encoding_agree(text: str) -> None:
    tokenizer = trained()
    assert tokenizer.encode(text) == wordpiece_plain.encode(text, tokenizer.vocabulary)


@pytest.mark.slow
def test_readable_and_compiled_text_rules_differ_on_rare_characters_only() -> None:
    """``tokenizers`` has older tables of punctuation and accents than Python."""
    from tokenizers import normalizers, pre_tokenizers

    normalizer = normalizers.BertNormalizer()
    cut = pre_tokenizers.BertPreTokenizer()
    ours = BertText()
    different = []
    for code in range(0x110000):
        text = f"a{chr(code)}b"
        if 0xD800 <= code < 0xE000:
            continue
        theirs = [word for word, _ in cut.pre_tokenize_str(normalizer.normalize_str(text))]
        if ours.words(text) != theirs:
            different.append(code)
    assert 0 < len(different) < 700
    assert min(different) > 0x500


def test_offsets_are_those_of_the_tokenizers_library(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = trained()
    tokenizer.save_pretrained(tmp_path)
    reference = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    reference.encode_special_tokens = True
    for text in [*SCRIPTS.values(), "Ünïcödé  naïve\u0301 \x00x", "a<|im_start|>b", ""]:
        ids, offsets = tokenizer.encode_with_offsets(text)
        expected = reference.encode(text)
        assert ids == tokenizer.encode(text) == expected.ids
        assert offsets == expected.offsets, text
    ids, offsets = tokenizer.encode_with_offsets("one<|im_start|>Two", allowed_special="all")
    assert offsets[ids.index(tokenizer.special_tokens["<|im_start|>"])] == (3, 15)
    assert offsets[-1][1] == 18


def test_text_that_spells_a_special_token_is_plain_text() -> None:
    tokenizer = trained(lowercase=False)
    special = set(tokenizer.special_tokens.values()) - {tokenizer.unk_token_id}
    assert not special & set(tokenizer.encode("[SEP] [CLS][MASK] <|im_start|>"))
    allowed = tokenizer.encode("a [SEP]", allowed_special={"[SEP]"})
    assert allowed[-1] == tokenizer.eos_token_id
    assert tokenizer("a", add_special_tokens=True)["input_ids"][0] == tokenizer.bos_token_id


def test_offsets_of_a_very_long_word_take_no_longer_than_many_short_ones() -> None:
    tokenizer = trained()
    started = time.process_time()
    ids, offsets = tokenizer.encode_with_offsets("x" * 200_000)
    assert (ids, offsets) == ([tokenizer.unk_token_id], [(0, 200_000)])
    assert time.process_time() - started < 5  # it was a minute when each character copied the word


# ---- decoding ----


def test_what_is_lost_is_space_case_accents_and_unknown_words() -> None:
    tokenizer = trained()
    assert tokenizer.decode(tokenizer.encode("The  QUICK\n\tfox, it's Größer!")) == "the quick fox, it ' s großer!"
    assert tokenizer.decode(tokenizer.encode("fox \u2603")) == "fox [UNK]"
    assert tokenizer.decode(tokenizer.encode("fox \u2603"), skip_special_tokens=True) == "fox"
    assert tokenizer.token_bytes(tokenizer.unk_token_id) == b""


def test_decoding_equals_transformers_and_the_stream(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = trained()
    tokenizer.save_pretrained(tmp_path)
    reference = AutoTokenizer.from_pretrained(tmp_path)
    rows = [tokenizer.encode(text) for text in many_strings(300)]
    rows += [[900 * step % 899 for step in range(start, start + 30)] for start in range(20)]
    rows += [list(range(start, start + 30)) for start in range(0, 860, 30)]
    for ids in rows:
        for skip in (False, True):
            text = tokenizer.decode(ids, skip_special_tokens=skip)
            assert text == reference.decode(ids, skip_special_tokens=skip)
            stream = tokenizer.stream_decoder(skip_special_tokens=skip)
            assert "".join(map(stream.push, ids)) + stream.flush() == text
    with pytest.raises(DataError, match="ids 0 to 899"):
        tokenizer.decode([900])
    with pytest.raises(DataError, match="ids 0 to 899"):
        tokenizer.stream_decoder().push(-1)


# ---- files ----


def test_a_folder_with_only_vocab_txt_is_berts(tmp_path: Path) -> None:
    tokenizer = trained(lowercase=False)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    again = WordPieceTokenizer.from_pretrained(tmp_path)
    assert again.fingerprint() == tokenizer.fingerprint()
    (tmp_path / "tokenizer_config.json").unlink()  # then BERT's defaults: small letters, its five special tokens
    again = WordPieceTokenizer.from_pretrained(tmp_path)
    assert again.vocabulary.text == BertText()
    assert list(again.special_tokens) == list(BERT_SPECIAL_TOKENS)


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        WordPieceTokenizer.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no tokenizer\.json"):
        WordPieceTokenizer.from_pretrained(tmp_path)


def test_vocabularies_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(DataError, match="more than one id"):
        WordPieceVocabulary.build(["a", "a"], (), BertText())
    with pytest.raises(DataError, match="unknown token"):
        WordPieceVocabulary(["a"], {}, BertText())
    with pytest.raises(DataError, match="another token's"):
        WordPieceVocabulary(["[UNK]", "a"], {"[UNK]": 0, "[X]": 1}, BertText())
    with pytest.raises(DataError, match="not among the special tokens"):
        WordPieceVocabulary(["[UNK]", "a"], {"[UNK]": 0}, BertText(), pad_token="a")
