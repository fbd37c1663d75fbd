"""Repetition inside documents: one occurrence stays, and what is left can be read."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_trainer.common.errors import CorruptionError
from llm_trainer.corpus.dedup.spans import cut_characters, cut_tokens, merge_spans, word_places
from llm_trainer.corpus.dedup.substring import RepeatedText, Windows, collect, resolve
from llm_trainer.corpus.dedup.suffix import find_repeats, remove_repeats, resolve_suffixes
from tests.corpus.dedup.making import METHODS, prose

BOTH = pytest.mark.parametrize("method", METHODS)


def slow_spans(texts: list[list[str]], ranks: list[int], size: int) -> list[set[int]]:
    """The same decision, window by window: which tokens of each text go."""
    first: dict[tuple[str, ...], tuple[int, int]] = {}
    gone: list[set[int]] = [set() for _ in texts]
    for text in sorted(range(len(texts)), key=ranks.__getitem__):
        for place in range(len(texts[text]) - size + 1):
            window = tuple(texts[text][place : place + size])
            owner, where = first.setdefault(window, (text, place))
            if (owner, where) != (text, place):
                start = max(place, where + size) if owner == text else place
                gone[text] |= set(range(start, place + size))
    return gone


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("ab"), max_size=30), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
    st.integers(2, 6),
    st.integers(1, 40),
)
@pytest.mark.covers("R198")
def test_suffix_array_and_windows_do_what_the_slow_way_does(
    texts: list[list[str]], random: object, size: int, at_once: int
) -> None:
    pytest.importorskip("pydivsufsort")
    ranks = list(range(len(texts)))
    random.shuffle(ranks)  # type: ignore[attr-defined]
    options = RepeatedText(min_tokens=size)
    lines = [" ".join(text) for text in texts]
    expected = slow_spans(texts, ranks, size)
    by_suffix = resolve_suffixes(options.tokens(lines), np.array(ranks), options)
    cut = len(texts) // 2
    units = [collect(lines[:cut], options), collect(lines[cut:], options)]
    halves = [np.array(ranks[:cut], dtype=np.int64), np.array(ranks[cut:], dtype=np.int64)]
    head, tail = resolve(units, halves, options, windows_at_once=at_once)
    for number, tokens in enumerate(expected):
        spans = by_suffix.of(number)
        assert spans == (head.of(number) if number < cut else tail.of(number - cut))
        assert {token for start, stop in spans for token in range(start, stop)} == tokens


@BOTH
@pytest.mark.covers("R198")
def test_a_planted_substring_of_200_characters_is_removed_once(method: str) -> None:
    rng = np.random.default_rng(1)
    common = (
        "the keeper of the lighthouse wrote down the weather every evening, and when the storm of that year had taken "
        "the bridge he went on writing, because nobody could come to tell him that he should stop."
    )[:200]
    first, second = (" ".join(prose(rng, 150).split()) for _ in range(2))
    texts = [f"{first[:400]} {common} {first[400:]}", f"{second[:300]} {common} {second[300:]}", prose(rng, 100)]
    cut = remove_repeats(texts, np.arange(3), RepeatedText(method=method))
    assert cut.texts[0] == texts[0] and cut.texts[2] == texts[2]
    assert "lighthouse" not in cut.texts[1] and "should stop" not in cut.texts[1]
    assert cut.texts[1].split() == texts[1].replace(common, "").split()
    assert sum("lighthouse" in text for text in cut.texts) == 1 and not cut.short
    # With the ranks the other way round, the other one keeps it.
    cut = remove_repeats(texts, np.array([1, 0, 2]), RepeatedText(method=method))
    assert cut.texts[1] == texts[1] and "lighthouse" not in cut.texts[0]


@BOTH
def test_a_text_that_repeats_itself_keeps_the_first_time(method: str) -> None:
    rng = np.random.default_rng(2)
    paragraph, rest = prose(rng, 100), prose(rng, 60)
    texts = ["\n\n".join([paragraph] * 4 + [rest]), "again " * 500]
    cut = remove_repeats(texts, np.arange(2), RepeatedText(method=method))
    assert cut.texts[0] == f"{paragraph}\n\n{rest}"
    assert 20 <= cut.texts[1].count("again") <= 50


@BOTH
@pytest.mark.parametrize("unit", ["中文重复的句子在这里出现", "วันนี้อากาศดีมากเราไปเดินเล่นที่สวนสาธารณะกันเถอะ"])
def test_a_script_without_spaces_is_cut_between_characters(method: str, unit: str) -> None:
    text = f"開始{unit * 50}結束"
    cut = remove_repeats([text], np.array([0]), RepeatedText(method=method, min_chars=0))
    assert cut.tokens[0] > 400 and cut.tokens[1] == 0
    assert len(cut.texts[0]) < 150
    assert cut.texts[0].startswith("開始") and cut.texts[0].endswith("\n結束")
    assert all(piece in text for piece in cut.texts[0].split("\n"))


def test_cutting_makes_no_new_words_and_leaves_whole_lines() -> None:
    text = "one two three\nfour five six\nseven eight nine\nten"
    # Tokens: one two thre|e, four five six, seve|n eigh|t nine, ten.
    assert cut_tokens(text, [(4, 9)], min_tokens=4) == "one two three\nseven eight nine\nten"
    assert cut_tokens(text, [(1, 7)], min_tokens=4) == "one two three\nseven eight nine\nten"
    assert cut_tokens(text, [(1, 7)], min_tokens=3) == "one\nseven eight nine\nten"
    assert cut_tokens("alpha beta gamma delta", [(2, 4)], min_tokens=2) == "alpha\ngamma delta"
    assert cut_tokens("a b c\nd e f", [(1, 5)], min_tokens=3) == "a\nf"  # nothing whole, nothing long: all of it
    assert cut_tokens(text, [], min_tokens=2) == text


def test_a_word_that_is_covered_in_part_stays() -> None:
    text = "start international end"  # star|t inte|rnat|iona|l end
    assert cut_tokens(text, [(0, 4)], min_tokens=2) == "international end"
    assert cut_tokens(text, [(3, 6)], min_tokens=2) == text


def test_a_cut_of_nothing_is_none() -> None:
    assert cut_characters("word", [(2, 2)]) == "word"


def test_seams_are_mended() -> None:
    text = "first line\n\nsecond line\n\nthird line\n"
    start = text.index("second")
    assert cut_characters(text, [(start, start + 11)]) == "first line\n\nthird line\n"
    assert cut_characters(text, [(0, 10)]) == "second line\n\nthird line\n"
    assert cut_characters(text, [(text.index("third"), len(text))]) == "first line\n\nsecond line\n\n"
    assert cut_characters("def f():\n    a\n    b\n", [(9, 14)]) == "def f():\n    b\n"
    assert cut_characters("one two three four", [(4, 7), (8, 13)]) == "one\nfour"
    assert cut_characters("all", [(0, 3)]) == ""


@given(st.text(alphabet="ab \n", max_size=60), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=4))
def test_what_is_left_is_what_was_not_cut(text: str, cuts: list[tuple[int, int]]) -> None:
    clean: list[tuple[int, int]] = []
    for start, stop in sorted((min(cut), max(cut)) for cut in cuts):
        if stop <= len(text) and (not clean or start >= clean[-1][1]):
            clean.append((start, stop))
    gone = {place for start, stop in clean for place in range(start, stop)}
    left = "".join("|" if place in gone else char for place, char in enumerate(text))
    expected = "".join(char for char in left if char in "ab")
    found = cut_characters(text, clean)
    assert "".join(found.split()) == expected
    assert not clean or all(word in left.replace("|", " ").split() for word in found.split())


def test_stretches_are_joined_within_a_document_only() -> None:
    documents, starts, stops = np.array([1, 0, 0, 0, 1]), np.array([0, 5, 0, 3, 9]), np.array([4, 9, 3, 6, 12])
    spans = merge_spans(documents, starts, stops)
    assert spans.of(0) == [(0, 9)] and spans.of(1) == [(0, 4), (9, 12)] and spans.of(2) == []
    assert spans.tokens == 16


def test_words_are_found_where_they_stand() -> None:
    text = " a  bb, a\n\nbb…日本 'a'"
    words, places = word_places(text)
    assert all(text.startswith(word, place) for word, place in zip(words, places))
    assert "".join(words) == "".join(text.split())


@pytest.mark.covers("R198", "R199")
def test_a_reference_keeps_everything_and_its_text_goes_from_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    options = RepeatedText()
    common = prose(rng, 100)
    old = [f"{prose(rng, 50)}\n{common}", f"{common}\n{prose(rng, 50)}"]
    new = [f"{prose(rng, 60)}\n{common}"]
    collect(old, options).save(tmp_path / "old.npy")
    units = [Windows.load(tmp_path / "old.npy"), collect(new, options)]
    kept, cut = resolve(units, [np.array([5, 6]), np.array([0])], options, reference=1)
    assert len(kept) == 0 and cut.tokens >= 190
    assert cut_tokens(new[0], cut.of(0), min_tokens=50).split() == new[0].split()[:60]


def test_files_of_windows_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "windows.npy"
    collect(["too short"], RepeatedText()).save(path)
    assert len(Windows.load(path).rows) == 0
    path.write_bytes(b"something else")
    with pytest.raises(CorruptionError, match=r"windows\.npy is damaged"):
        Windows.load(path)
    np.save(path, np.arange(3))
    with pytest.raises(CorruptionError, match="holds int64"):
        Windows.load(path)


def test_documents_that_become_too_short_are_named() -> None:
    rng = np.random.default_rng(5)
    common = prose(rng, 100)
    cut = remove_repeats([f"{prose(rng, 50)}\n{common}", f"by me\n{common}", "short"], np.arange(3), RepeatedText())
    assert cut.texts[1] == "by me\n" and cut.short == [1]


def test_the_second_pass_removes_what_the_first_brings_together() -> None:
    rng = np.random.default_rng(6)
    head, tail, inset = (" ".join(prose(rng, 30).split()) for _ in range(3))  # 60 tokens each
    whole = f"{head}\n{tail}"
    texts = [f"{inset}", f"{head}\n{inset}\n{tail}", f"{prose(rng, 40)}\n\n{whole}"]
    options = RepeatedText(min_tokens=58, min_chars=1)
    assert remove_repeats(texts, np.array([0, 1, 2]), options).tokens[1] == 0
    options = RepeatedText(min_tokens=100, min_chars=1)
    inset = " ".join(prose(rng, 60).split())
    texts = [inset, f"{head}\n{inset}\n{tail}", whole]
    cut = remove_repeats(texts, np.array([0, 1, 2]), options)
    assert cut.tokens == [120, 120] and cut.texts == [inset, whole, ""] and cut.short == [2]


def test_the_method_follows_the_memory() -> None:
    rng = np.random.default_rng(7)
    common = prose(rng, 100)
    texts = [f"{prose(rng, 9000)}\n{common}", f"{prose(rng, 9000)}\n{common}"]
    big, small = (find_repeats(texts, np.arange(2), RepeatedText(memory=memory)) for memory in (1 << 30, 1 << 20))
    assert len(big) == 1 and big.of(1) == small.of(1)


@pytest.mark.slow
def test_a_document_of_many_lines_and_one_without_any_take_a_moment() -> None:
    rng = np.random.default_rng(8)
    common = prose(rng, 20_000)
    texts = [common, "\n".join(f"{line}\n{prose(rng, 3)}" for line in common.split("\n")), "x" * 2_000_000]
    options = RepeatedText(min_tokens=15, method="windows")
    start = time.process_time()
    cut = remove_repeats(texts, np.arange(3), options)
    assert time.process_time() - start < 10
    # Of the third, all but the first fifteen tokens are repeated, but it is one word.
    assert cut.texts[0] == common and len(cut.texts[1].split("\n")) == 2000 and cut.texts[2] == texts[2]
