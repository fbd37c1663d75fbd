"""Exact duplicates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_trainer.corpus.dedup.exact import exact_keys, find_exact, normalised


def groups(keys: np.ndarray, ranks: np.ndarray) -> list[int]:
    """The same decision with a dictionary."""
    best: dict[tuple[int, ...], int] = {}
    for row in np.argsort(ranks).tolist():
        best.setdefault(tuple(keys[row].tolist()), row)
    return [best[tuple(key)] for key in keys.tolist()]


@pytest.mark.covers("R200")
def test_case_spaces_and_encoding_of_accents_make_no_difference() -> None:
    texts = ["Café  au\n\nlait", "cafe\u0301 AU lait ", "cafe au lait", "Café au lait!", "STRASSE", "straße"]
    roots = find_exact(exact_keys(texts), np.arange(6))
    assert roots.tolist() == [0, 0, 2, 3, 4, 4]


def test_keys_are_the_same_on_every_machine() -> None:
    assert [hex(half) for half in exact_keys(["Hello  World"])[0].tolist()] == [
        "0xdf8d09e93f874900",
        "0xa99b8775cc15b6c7",
    ]
    assert exact_keys([]).shape == (0, 2)
    assert exact_keys(["\ud800"]).shape == (1, 2)  # half a character, as broken JSON has them


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


@settings(max_examples=40)
@given(st.lists(st.integers(0, 20), max_size=60), st.randoms(use_true_random=False), st.integers(1, 70))
def test_equal_to_a_dictionary_in_any_partition(values: list[int], random: object, rows: int) -> None:
    ranks = list(range(len(values)))
    random.shuffle(ranks)  # type: ignore[attr-defined]
    keys = exact_keys(map(str, values))
    found = find_exact(keys, np.array(ranks, dtype=np.int64), partition_rows=rows)
    assert found.tolist() == groups(keys, np.array(ranks))


@pytest.mark.covers("R199", "R200")
def test_a_duplicate_goes_from_the_source_of_lower_priority_only(tmp_path: Path) -> None:
    first, second = ["one", "two", "three"], ["zero", "TWO", "four", "one"]
    parts = []
    for name, texts in (("b", second), ("a", first)):
        np.save(tmp_path / f"{name}.npy", exact_keys(texts))
        parts.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    ranks = np.array([100, 101, 102, 103, 0, 1, 2])  # A goes before B, though its file comes later
    kept = find_exact(parts, ranks, partition_rows=2) == np.arange(7)
    assert kept.tolist() == [True, False, True, False, True, True, True]


@pytest.mark.covers("R199")
def test_a_reference_is_never_changed_and_always_goes_first() -> None:
    keys = exact_keys(["a", "a", "b", "a", "c", "c"])
    ranks = np.array([50, 51, 52, 0, 2, 1])
    assert find_exact(keys, ranks, reference=3).tolist() == [0, 1, 2, 0, 5, 5]
