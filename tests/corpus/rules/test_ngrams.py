"""Repeated runs of words, against the same thing said with dictionaries."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_trainer.corpus.filters.gopher_repetition import _lines, _paragraphs
from llm_trainer.corpus.filters.ngrams import duplicate_characters, duplicated, repeats, top_characters
from llm_trainer.corpus.words import tabulate

texts = st.lists(
    st.lists(st.sampled_from(["a", "bb", "ccc", "dddd"]), max_size=60).map(" ".join), min_size=1, max_size=5
)


def plain_top(words: list[str], size: int) -> int:
    runs = [" ".join(words[i : i + size]) for i in range(len(words) - size + 1)]
    if not runs:
        return 0
    run, count = Counter(runs).most_common(1)[0]
    return len(run) * count


def plain_duplicates(words: list[str], size: int) -> int:
    seen: set[tuple[str, ...]] = set()
    characters = index = 0
    while index + size <= len(words):
        run = tuple(words[index : index + size])
        if run in seen:
            characters += sum(map(len, run))
            index += size
        else:
            seen.add(run)
            index += 1
    return characters


@given(texts)
def test_all_lengths_agree_with_dictionaries(batch: list[str]) -> None:
    table = tabulate(batch)
    for found in repeats(table, 10):
        words = [text.split() for text in batch]
        assert top_characters(table, found).tolist() == [plain_top(row, found.size) for row in words]
        assert duplicate_characters(table, found).tolist() == [plain_duplicates(row, found.size) for row in words]


def test_a_repeated_run_is_found_in_its_own_text_only() -> None:
    table = tabulate(["one two three four five", "one two three four five", "one two one two"])
    sizes = {found.size: found for found in repeats(table, 3)}
    assert sizes[2].positions.tolist() == [10, 12]
    assert sizes[2].counts.tolist() == [2]
    assert sizes[3].positions.tolist() == []


@pytest.mark.parametrize("batch", [[], [""], ["", "word", ""]])
def test_texts_without_runs(batch: list[str]) -> None:
    table = tabulate(batch)
    for found in repeats(table, 10):
        assert top_characters(table, found).tolist() == [0] * len(batch)
        assert duplicate_characters(table, found).tolist() == [0] * len(batch)


def test_duplicated_counts_what_came_before() -> None:
    assert duplicated(["aa", "b", "aa", "aa"]) == (2, 4)
    assert duplicated(["aa", "b"]) == (0, 0)
    assert duplicated([]) == (0, 0)


@given(st.text(alphabet="ab \n", max_size=60))
def test_lines_and_paragraphs_are_cut_at_line_breaks(text: str) -> None:
    for cut, pieces in ((_lines, re.split("\n+", text)), (_paragraphs, re.split("\n{2,}", text.strip()))):
        first = [piece not in pieces[:index] for index, piece in enumerate(pieces)]
        characters = sum(len(piece) for piece, new in zip(pieces, first, strict=True) if not new)
        # An empty text is one empty piece to datatrove; here it is none, which makes no difference to any share.
        expected = (len(pieces), len(pieces) - sum(first), characters)
        assert cut(text) == (expected if text else (cut(text)[0], 0, 0))
