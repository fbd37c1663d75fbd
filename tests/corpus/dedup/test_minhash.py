"""Signatures: what they estimate, how well, and that they never change."""

from __future__ import annotations

import numpy as np
import pytest

from llm_trainer.common.errors import ConfigError
from llm_trainer.corpus.dedup.minhash import EMPTY, MinHash, jaccard
from llm_trainer.corpus.dedup.shingles import (
    HashedWords,
    expand,
    normal_words,
    similar_hashes,
    window_hashes,
    word_pieces,
)
from llm_trainer.corpus.words import tabulate
from tests.corpus.dedup.making import planted, prose


@pytest.mark.parametrize("true", [0.3, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("extra", [0, 288])
@pytest.mark.covers("R197")
def test_the_error_of_an_estimate_is_what_theory_says(true: float, extra: int) -> None:
    pairs = 1500
    shingles, starts = planted(np.random.default_rng(int(100 * true)), pairs, true)
    settings = MinHash(extra=extra)
    signatures = settings.sign(shingles, starts)
    estimates = settings.similarity(signatures[:pairs], signatures[pairs:])
    # A byte that is equal by chance adds a little to the error.
    expected = np.sqrt(true * (1 - true) / (112 + extra) + extra * (1 - true) / 256 / (112 + extra) ** 2)
    assert abs(estimates.mean() - true) < 4 * expected / np.sqrt(pairs) + 0.002  # shingles come in whole numbers
    assert 0.9 < estimates.std() / expected < 1.1


def test_values_of_a_signature_are_independent() -> None:
    shingles, starts = planted(np.random.default_rng(5), 2000, 0.5)
    signatures = MinHash(bands=5, rows=8, extra=0).sign(shingles, starts)
    equal = (signatures[:2000] == signatures[2000:]).astype(float)
    correlation = np.corrcoef(equal.T) - np.eye(40)
    assert np.abs(correlation).max() < 0.12 and abs(correlation.mean()) < 0.004


@pytest.mark.covers("R197")
def test_estimates_agree_with_true_similarity_of_real_texts() -> None:
    rng = np.random.default_rng(1)
    settings = MinHash(extra=400)
    original = prose(rng, 400).split()
    texts = [" ".join(original)]
    for changes in (2, 10, 40):
        copy = list(original)
        for place in rng.choice(400, changes, replace=False).tolist():
            copy[place] = "changed"
        texts.append(" ".join(copy))
    sets, signatures = settings.shingle_sets(texts), settings.signatures(texts)
    for number in (1, 2, 3):
        true = jaccard(sets[0], sets[number])
        estimate = float(settings.similarity(signatures[:1], signatures[number : number + 1])[0])
        assert abs(estimate - true) < 4 * np.sqrt(true * (1 - true) / 512)


def test_agrees_with_another_implementation() -> None:
    rensa = pytest.importorskip("rensa")
    rng = np.random.default_rng(2)
    original = prose(rng, 300).split()
    differences = []
    for copied in range(0, 300, 10):
        texts = [" ".join(original), " ".join(original[:copied] + prose(rng, 300 - copied).split())]
        ours = MinHash().signatures(texts)
        theirs = []
        for text in texts:
            made = rensa.RMinHash(num_perm=112, seed=1)
            made.update([" ".join(text.split()[start : start + 5]) for start in range(296)])
            theirs.append(made)
        differences.append(float(MinHash().similarity(ours[:1], ours[1:])[0]) - theirs[0].jaccard(theirs[1]))
    assert abs(np.mean(differences)) < 0.02 and np.abs(differences).max() < 0.2


def test_signatures_are_the_same_on_every_machine() -> None:
    texts = ["The quick brown fox jumps over the lazy dog, twice: 3 times.", "too short for it"]
    signatures = MinHash().signatures(texts)
    assert signatures.dtype == np.uint32 and signatures.shape == (2, 184)
    assert signatures[0, :4].tolist() == [252349835, 269968189, 1314453635, 854043773]
    assert (signatures[1] == EMPTY).all()


def test_a_batch_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    # One text alone is longer than what is hashed at once, and some have nothing to hash.
    texts = ["", prose(rng, 50), "a b c", prose(rng, 70_000), prose(rng, 5), "", *(prose(rng, 90) for _ in range(20))]
    together = MinHash().signatures(texts)
    assert (together == np.concatenate([MinHash().signatures([text]) for text in texts])).all()
    assert (together == MinHash().signatures(tabulate(texts))).all()
    assert MinHash().signatures([]).shape == (0, 184)


def test_more_values_leave_the_first_ones_as_they_are() -> None:
    texts = [prose(np.random.default_rng(4), 60)]
    assert (MinHash(extra=16).signatures(texts) == MinHash().signatures(texts)[:, :116]).all()
    assert (MinHash(seed=2).signatures(texts) != MinHash().signatures(texts)).all()
    assert MinHash(seed=2).identity() != MinHash().identity()


def test_case_punctuation_accents_and_numbers_do_not_count() -> None:
    texts = [
        "Le café, à 3.50 €, était (vraiment) très bon: 12 points!",
        "le cafe a 99 etait vraiment TRES bon 7 points",
    ]
    first, second = MinHash().signatures(texts)
    assert (first == second).all()


def test_words_are_normalised_one_by_one() -> None:
    assert normal_words("State-of-the-Art", numbers=True) == ("state", "of", "the", "art")
    assert normal_words("3.14", numbers=True) == normal_words("٣", numbers=True) == ("0",)
    assert normal_words("2024", numbers=False) == ("2024",)
    assert normal_words("...", numbers=True) == ()
    assert normal_words("日本語とPython", numbers=True) == ("日", "本", "語", "と", "python")
    assert word_pieces("international") == ["inte", "rnat", "iona", "l"]
    assert word_pieces("日本") == ["日", "本"] and word_pieces("\n") == []


@pytest.mark.parametrize("size", [1, 2, 3, 5, 13, 50])
def test_a_run_has_one_hash_wherever_it_stands(size: int) -> None:
    rng = np.random.default_rng(size)
    values = rng.integers(0, 2**64, 400, dtype=np.uint64)
    values[200 : 200 + size] = values[17 : 17 + size]
    lengths = np.array([0, 100, size - 1, 300 - size + 1])
    starts = np.concatenate(([0], np.cumsum(lengths)))
    hashes, begins = window_hashes(HashedWords(values, starts), size)
    assert np.diff(begins).tolist() == np.maximum(lengths - size + 1, 0).tolist()
    third = 200 - int(starts[3])
    assert hashes[begins[1] + 17] == hashes[begins[3] + third]
    assert len(np.unique(hashes)) == len(hashes) - 1


def test_words_that_stand_for_several_keep_their_order() -> None:
    joined = expand(tabulate(["a b-c d", "", "e_f g"]), similar_hashes)
    plain = expand(tabulate(["a b c d", "", "e f g"]), similar_hashes)
    assert (joined.values == plain.values).all() and (joined.starts == plain.starts).all()


def test_contradictions_are_named() -> None:
    with pytest.raises(ConfigError, match="second_rows"):
        MinHash(bands=2, rows=2, second_rows=5)


def test_tables_and_sums_of_different_numbers_are_no_copies() -> None:
    rng = np.random.default_rng(6)
    tables = [" ".join(map(str, rng.integers(0, 10_000, 200).tolist())) for _ in range(3)]
    sums = [f"{a} + {b} = {a + b}" for a, b in rng.integers(0, 100, (3, 2)).tolist()]
    signatures = MinHash().signatures(tables + sums)
    assert (signatures == EMPTY).all()
    # Numbers between words still count as one word, so that two dates of a page are no difference.
    pages = [f"{prose(np.random.default_rng(7), 60)} updated on {day} of May {year}" for day, year in ((1, 2), (3, 4))]
    sets = MinHash().shingle_sets([*pages, f"{tables[0]} {pages[0]}"])
    assert jaccard(sets[0], sets[1]) == 1.0
    assert len(sets[2]) == len(sets[0]) + 4
