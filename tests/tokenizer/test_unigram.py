"""Unigram: best spellings and counts against all spellings, equal twins, ids of ``tokenizers``, exact round trips."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm_trainer.common.errors import DataError, UserError
from llm_trainer.tokenizer import UnigramTokenizer, load_tokenizer, unigram_fast, unigram_plain
from llm_trainer.tokenizer.counting import count_pretokens
from llm_trainer.tokenizer.pretokenize import split_pattern
from llm_trainer.tokenizer.unigram_lattice import Lattice
from llm_trainer.tokenizer.unigram_vocabulary import UnigramVocabulary
from tests.tokenizer.samples import SCRIPTS, many_strings, standard_library

TEXTS = [text * 3 for text in SCRIPTS.values()]
any_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=50)


@cache
def trained(vocab_size: int = 700, **options: Any) -> UnigramTokenizer:
    """A small tokenizer that has seen every script. Shared: do not train it again."""
    return UnigramTokenizer().train_from_iterator(TEXTS, vocab_size, special_tokens=["<|im_start|>"], **options)


def words_of(texts: list[str]) -> dict[str, int]:
    counts = count_pretokens(texts, split_pattern("gpt4"), workers=1)
    return {word.decode().replace(" ", "▁"): count for word, count in counts.items()}


# ---- the definition: all spellings ----


def spellings(word: str, scores: dict[str, float]) -> Iterator[list[str]]:
    if not word:
        yield []
    for end in range(1, len(word) + 1):
        if word[:end] in scores:
            yield from ([word[:end], *rest] for rest in spellings(word[end:], scores))


models = st.dictionaries(st.text("abc", min_size=2, max_size=4), st.floats(-9, -0.5), max_size=12).flatmap(
    lambda long: st.tuples(*[st.floats(-9, -0.5)] * 3).map(lambda single: {**long, **dict(zip("abc", single))})
)


@settings(max_examples=150, deadline=None)
@given(st.text("abc", min_size=1, max_size=8), models)
def test_best_spelling_and_expected_counts_are_those_of_all_spellings(word: str, scores: dict[str, float]) -> None:
    every = list(spellings(word, scores))
    logs = [sum(scores[piece] for piece in spelling) for spelling in every]
    found = [span.piece for span in unigram_plain.best_spelling(word, scores, 16, -99.0)]
    assert "".join(found) == word
    assert sum(scores[piece] for piece in found) == pytest.approx(max(logs))

    expected: Counter[str] = Counter()
    total = sum(map(math.exp, logs))
    for spelling, log in zip(every, logs):
        for piece in spelling:
            expected[piece] += math.exp(log) / total
    assert unigram_plain.expected_counts(word, scores) == pytest.approx(dict(expected))

    pieces = list(scores)
    lattice = Lattice([word, "a" + word], pieces)
    counts = lattice.expected_counts(np.array([scores[piece] for piece in pieces]), np.array([3.0, 0.0]))
    assert counts == pytest.approx([3 * expected[piece] for piece in pieces])
    words, best = lattice.best_spellings(np.array([scores[piece] for piece in pieces]))
    assert sum(scores[pieces[piece]] for piece in best[words == 0]) == pytest.approx(max(logs))


@settings(max_examples=100, deadline=None)
@given(st.text("abc", min_size=2, max_size=7), models)
def test_second_best_spelling_does_without_the_piece(word: str, scores: dict[str, float]) -> None:
    others = {piece: score for piece, score in scores.items() if piece != word}
    best = max(sum(others[piece] for piece in spelling) for spelling in spellings(word, others))
    found = unigram_plain.best_spelling(word, {**others, word: -1.0}, 16, -99.0, forbidden=word)
    assert sum(others[span.piece] for span in found) == pytest.approx(best)


def test_loss_is_what_the_text_loses_without_a_piece() -> None:
    scores = {"a": math.log(0.2), "b": math.log(0.3), "ab": math.log(0.5)}
    # The text "ab ab a": ab twice, a once. Without ab there are 2 + 1 times a and 2 times b, five pieces in all.
    with_it = 2 * math.log(2 / 3)
    without_it = 2 * (math.log(3 / 5) + math.log(2 / 5))
    assert unigram_plain.losses({"ab": 2, "a": 1}, scores) == {"ab": pytest.approx(with_it - without_it, abs=1e-6)}


def test_digamma_has_its_known_values() -> None:
    euler = 0.5772156649015329
    known = {1.0: -euler, 2.0: 1 - euler, 0.5: -euler - 2 * math.log(2), 100.0: 4.600161852738087}
    for x, value in known.items():
        assert unigram_plain.digamma(x) == pytest.approx(value, abs=1e-11)
    values = np.array(list(known))
    assert unigram_fast.digamma(values) == pytest.approx(list(known.values()), abs=1e-11)


# ---- training ----


def test_seeds_are_the_repeated_substrings_that_branch() -> None:
    # "lo" is always followed by "w", so "low" serves as well; "we" and "ow" likewise; "er" ends words.
    seeds = unigram_plain.seed_pieces({"low": 3, "lower": 2, "x": 1}, "elorwx", 100)
    assert {piece: cover for piece, cover in seeds.items() if len(piece) > 1} == {
        "low": 15.0, "ow": 10.0, "lower": 10.0, "ower": 8.0, "wer": 6.0, "er": 4.0,
    }  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text("abc", min_size=1, max_size=4).map(lambda text: text * 6), st.integers(1, 9), min_size=1, max_size=10
    ),
    st.integers(3, 60),
)
def test_twins_start_with_the_same_seeds(words: dict[str, int], seed_size: int) -> None:
    plain = unigram_plain.seed_pieces(words, "abc", seed_size)
    pieces, cover = unigram_fast.seed_pieces(list(words), np.array(list(words.values()), float), "abc", seed_size)
    assert dict(zip(pieces, cover.tolist())) == plain


@pytest.mark.parametrize("size", [150, 320])
def test_fast_and_readable_twin_learn_alike(size: int) -> None:
    words = words_of([SCRIPTS[name] * 2 for name in ("english", "german", "code", "repeats", "chinese")])
    alphabet = sorted(set("".join(words)))
    plain = unigram_plain.train_pieces(words, alphabet, size)
    assert unigram_fast.train_pieces(words, alphabet, size) == plain
    assert size == 320 or len(plain) == size
    assert set(alphabet) <= {piece for piece, _ in plain}


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(st.text("ab", min_size=1, max_size=10), st.integers(1, 9), min_size=1, max_size=8),
    st.integers(2, 12),
)
def test_twins_agree_on_any_words(words: dict[str, int], size: int) -> None:
    assert unigram_fast.train_pieces(words, "ab", size) == unigram_plain.train_pieces(words, "ab", size)


def test_training_raises_the_probability_of_the_text() -> None:
    """The pieces that are learned spell the text in fewer nats than the same number of most frequent substrings."""
    words = words_of(standard_library(60_000))
    alphabet = sorted(set("".join(words)))
    learned = dict(unigram_fast.train_pieces(words, alphabet, 500))
    seeds = unigram_plain.seed_pieces(words, alphabet, 500)
    frequent = {piece: math.log(cover / sum(seeds.values())) for piece, cover in seeds.items()}
    for _ in range(2):
        frequent = unigram_plain.maximization(unigram_plain.expectation(words, frequent), 500)

    def nats(scores: dict[str, float]) -> float:
        spelled = ((unigram_plain.best_spelling(word, scores, 16, -99.0), n) for word, n in words.items())
        return -sum(n * sum(scores[span.piece] for span in spans) for spans, n in spelled)

    assert len(learned) == 500
    assert nats(learned) < 0.97 * nats(frequent)


def test_a_line_without_spaces_does_not_hold_training_up() -> None:
    letters = random.Random(0)
    blob = "".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=60_000))
    started = time.process_time()
    tokenizer = UnigramTokenizer().train_from_iterator([*TEXTS, blob], 900)
    assert time.process_time() - started < 8
    assert tokenizer.decode(tokenizer.encode(blob)) == blob


@pytest.mark.covers("R122")
def test_size_is_exact_and_every_known_character_has_a_piece() -> None:
    tokenizer = trained()
    assert tokenizer.vocab_size == len(tokenizer) == 700
    assert list(tokenizer.special_tokens.items()) == [("<unk>", 0), ("<s>", 1), ("</s>", 2), ("<|im_start|>", 3)]
    assert tokenizer.token_bytes(4) == b"\x00"
    counts = Counter("".join(TEXTS))
    assert set("abeи人.,{}") < set(counts)
    for char in "abeи人.,{}":
        assert char in tokenizer.vocabulary.scores
    probabilities = [math.exp(score) for _, score in tokenizer.vocabulary.scores.values()]
    assert 0.7 < sum(probabilities) < 1  # digamma takes about half a count from each piece


def test_order_of_documents_and_number_of_workers_change_nothing() -> None:
    texts = many_strings(300)
    one = UnigramTokenizer().train_from_iterator(texts, 1500, workers=1, allow_smaller=True)
    two = UnigramTokenizer().train_from_iterator(
        random.Random(1).sample(texts, 300), 1500, workers=2, allow_smaller=True
    )
    assert one.fingerprint() == two.fingerprint()


def test_failed_training_changes_nothing_and_progress_reaches_the_end() -> None:
    calls: list[tuple[int, int]] = []
    tokenizer = UnigramTokenizer()
    tokenizer.train_from_iterator(TEXTS, 600, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1][0] == calls[-1][1] > 0
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    before = tokenizer.fingerprint()
    with pytest.raises(DataError):
        tokenizer.train_from_iterator(["x"], 9000)
    assert tokenizer.fingerprint() == before


# ---- encoding ----


@pytest.mark.covers("R117", "R122")
@pytest.mark.parametrize(
    "options",
    [{}, {"byte_fallback": False, "vocab_size": 460}, {"add_prefix_space": True}, {"pattern": "gpt2"}],
    ids=["default", "unknown", "prefix", "gpt2"],
)
def test_ids_and_offsets_are_those_of_the_tokenizers_library(tmp_path: Path, options: dict[str, Any]) -> None:
    from transformers import AutoTokenizer

    tokenizer = trained(**options)
    tokenizer.save_pretrained(tmp_path)
    reference = AutoTokenizer.from_pretrained(tmp_path)
    byte_ids = set(tokenizer.vocabulary.byte_ids.values())
    texts = many_strings() if not options else many_strings()[::5]
    for text in [*texts, "</s><unk><0x41><s> ▁a▁ ", ""]:
        ids, offsets = tokenizer.encode_with_offsets(text)
        expected = reference(text, return_offsets_mapping=True)
        assert tokenizer.encode(text) == ids == expected["input_ids"], text
        assert reference.decode(ids) == tokenizer.decode(ids)
        places = [tuple(place) for place in expected["offset_mapping"]]
        # tokenizers gives a byte the whole run of unknown characters that it is in.
        compared = [number for number, token_id in enumerate(ids) if token_id not in byte_ids]
        assert [offsets[number] for number in compared] == [places[number] for number in compared], text
    assert not {0, 1, 2, 3} & set(trained().encode("</s><unk><s><|im_start|>"))


def test_offsets_cover_the_text_with_and_without_a_prefix() -> None:
    for tokenizer in (trained(), trained(add_prefix_space=True)):
        for text in ["Über  die 🙂🙂 \n x", " a", "日本 \ue000\ue001."]:
            ids, offsets = tokenizer.encode_with_offsets(text)
            assert len(ids) == len(offsets)
            covered = {place for start, end in offsets for place in range(start, end)}
            assert covered == set(range(len(text)))


def test_a_text_can_be_spelled_as_a_whole(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    before = trained().vocabulary
    whole = UnigramTokenizer(
        UnigramVocabulary(before.pieces, before.special_tokens, None, eos_token="</s>", pad_token="</s>")
    )
    whole.save_pretrained(tmp_path)
    reference = AutoTokenizer.from_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.fingerprint() == whole.fingerprint()
    for text in SCRIPTS.values():
        assert whole.encode(text) == reference(text)["input_ids"] == again.encode(text)
        assert whole.decode(whole.encode(text)) == text


@pytest.mark.covers("R126")
def test_text_that_spells_a_special_token_or_a_byte_is_plain_text() -> None:
    tokenizer = trained()
    fixed = set(tokenizer.special_tokens.values()) | set(tokenizer.vocabulary.byte_ids.values())
    attack = "<s></s><unk><|im_start|><0x41><0x0A>"
    assert not fixed & set(tokenizer.encode(attack))
    assert tokenizer.decode(tokenizer.encode(attack)) == attack
    assert tokenizer.encode("a</s>", allowed_special={"</s>"})[-1] == tokenizer.eos_token_id == 2
    assert tokenizer("a", add_special_tokens=True)["input_ids"][0] == tokenizer.bos_token_id == 1


# ---- decoding ----


@pytest.mark.covers("R112")
@pytest.mark.parametrize("options", [{}, {"add_prefix_space": True}, {"pattern": "gpt2"}], ids=str)
def test_any_text_comes_back_whole_and_as_a_stream(options: dict[str, Any]) -> None:
    tokenizer = trained(**options)

    @settings(max_examples=200, deadline=None)
    @given(any_text)
    @example("")
    @example(" ")
    @example("  leading, \t\r\n\x00 <0x41> 🙂🏽 trailing  ")
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        stream = tokenizer.stream_decoder()
        pieces = [stream.push(token_id) for token_id in ids]
        assert "".join(pieces) + stream.flush() == text
        prefix = b" " if text and options.get("add_prefix_space") else b""
        assert b"".join(map(tokenizer.token_bytes, ids)) == prefix + text.encode()

    check()
    for text in many_strings():
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_what_does_not_come_back() -> None:
    tokenizer = trained()
    assert tokenizer.decode(tokenizer.encode("a▁b")) == "a b"
    assert tokenizer.decode(tokenizer.encode("lone \ud83d surrogate")) == "lone \ufffd surrogate"
    unknown = trained(byte_fallback=False, vocab_size=460)
    assert unknown.decode(unknown.encode("a \ue000\ue001 b")) == "a <unk> b"
    assert unknown.decode(unknown.encode("a \ue000\ue001 b"), skip_special_tokens=True) == "a  b"


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 699), max_size=30), st.booleans(), st.booleans())
def test_streaming_equals_decoding_for_any_ids(ids: list[int], skip: bool, prefix: bool) -> None:
    tokenizer = trained(add_prefix_space=True) if prefix else trained()
    stream = tokenizer.stream_decoder(skip_special_tokens=skip)
    streamed = "".join(stream.push(token_id) for token_id in ids) + stream.flush()
    assert streamed == tokenizer.decode(ids, skip_special_tokens=skip)


# ---- sampling ----


def test_samples_are_spellings_with_the_right_frequencies() -> None:
    pieces = {"a": -1.0, "b": -1.5, "ab": -1.2, "aba": -2.5}
    vocabulary = UnigramVocabulary.build(list(pieces.items()), (), None, byte_fallback=False)
    tokenizer = UnigramTokenizer(vocabulary)
    alpha, draws = 0.7, 4000
    every = [tuple(spelling) for spelling in spellings("abab", pieces)]
    weights = [math.exp(alpha * sum(pieces[piece] for piece in spelling)) for spelling in every]
    names = [text for text, _ in vocabulary.pieces]
    found = Counter(
        tuple(names[i] for i in tokenizer.encode_sampled("abab", seed=seed, alpha=alpha)) for seed in range(draws)
    )
    for spelling, weight in zip(every, weights, strict=True):
        share = weight / sum(weights)
        # five standard deviations
        assert abs(found[spelling] / draws - share) < 5 * math.sqrt(share * (1 - share) / draws)


def test_samples_give_the_text_back_and_follow_the_seed() -> None:
    tokenizer = trained()
    text = "aaaaaaa abababab 0000000 🙂 größer \ue000"
    samples = {tuple(tokenizer.encode_sampled(text, seed=seed)) for seed in range(20)}
    assert len(samples) > 5
    assert {tokenizer.decode(list(sample)) for sample in samples} == {text}
    assert tokenizer.encode_sampled(text, seed=3) == tokenizer.encode_sampled(text, seed=3)
    assert tokenizer.encode_sampled(text, seed=3, alpha=1000) == tokenizer.encode(text)
    with pytest.raises(UserError, match="alpha is -1"):
        tokenizer.encode_sampled(text, seed=0, alpha=-1)
    with pytest.raises(UserError, match="alpha is nan"):
        tokenizer.encode_sampled(text, seed=0, alpha=math.nan)


def test_vocabularies_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(DataError, match="more than one id"):
        UnigramVocabulary.build([("a", -1.0), ("a", -2.0)], (), None)
    with pytest.raises(DataError, match="log-probability nan"):
        UnigramVocabulary.build([("a", math.nan)], (), None)
    with pytest.raises(DataError, match="no piece for a space"):
        UnigramVocabulary.build([("a", -1.0)], (), None)
    with pytest.raises(DataError, match="256 bytes have no piece"):
        UnigramVocabulary([("<unk>", 0.0)], {"<unk>": 0}, None, byte_fallback=True)
    with pytest.raises(DataError, match="not among the special tokens"):
        UnigramVocabulary([("<unk>", 0.0)], {"<unk>": 0}, None, byte_fallback=False, eos_token="</s>")


@pytest.mark.slow
def test_8k_on_ten_megabytes_takes_less_than_a_minute() -> None:
    texts = standard_library(10_000_000)
    started = time.process_time()
    tokenizer = UnigramTokenizer().train_from_iterator(texts, 8192, workers=1)
    assert time.process_time() - started < 60
    assert tokenizer.vocab_size == 8192
