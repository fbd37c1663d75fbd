"""Near duplicates: enough of them found, little else removed, and the same result in any order."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_trainer.common.errors import CorruptionError, DataError
from llm_trainer.corpus.dedup.clusters import find_near
from llm_trainer.corpus.dedup.exact import exact_keys
from llm_trainer.corpus.dedup.lsh import ANCHORS, NEIGHBOURS, bandings, bucket_pairs
from llm_trainer.corpus.dedup.minhash import MinHash, jaccard
from llm_trainer.corpus.dedup.reference import open_reference, write_reference
from tests.corpus.dedup.making import planted, prose, words

PAIRS = 1500
SHORT = MinHash(extra=0)


def found(true: float, minhash: MinHash, seed: int = 0) -> tuple[float, int]:
    """The share of planted copies that is removed, and how many others are."""
    shingles, starts = planted(np.random.default_rng(seed), PAIRS, true)
    signatures = minhash.sign(shingles, starts)
    roots = find_near(signatures, np.arange(2 * PAIRS), minhash).root
    right = roots[PAIRS:] == np.arange(PAIRS)
    wrong = (roots[:PAIRS] != np.arange(PAIRS)).sum() + (~right & (roots[PAIRS:] != np.arange(PAIRS, 2 * PAIRS))).sum()
    return float(right.mean()), int(wrong)


@pytest.mark.covers("R197")
@pytest.mark.parametrize(
    ("true", "least", "most"), [(0.5, 0, 0.001), (0.6, 0, 0.001), (0.7, 0, 0.02), (0.8, 0.97, 1), (0.85, 0.99, 1)]
)
def test_as_many_copies_are_found_as_promised(true: float, least: float, most: float) -> None:
    share, wrong = found(true, MinHash())
    assert least <= share <= most and wrong == 0


@pytest.mark.covers("R197")
def test_one_banding_finds_what_theory_says() -> None:
    # The verification of the pairs near the threshold loses 1 % of them; without it, the banding alone is measured.
    share, _ = found(0.8, MinHash(second_rows=0, tolerance=6.0, extra=0))
    assert abs(share - (1 - (1 - 0.8**8) ** 14)) < 0.02


def test_more_values_tell_similar_from_less_similar() -> None:
    assert found(0.7, MinHash())[0] < 0.02 < 0.3 < found(0.7, MinHash(extra=0))[0]
    assert found(0.8, MinHash(extra=0))[0] > 0.97


def test_true_similarity_decides_near_the_threshold_when_asked() -> None:
    rng = np.random.default_rng(9)
    texts = []
    for _ in range(40):
        text = prose(rng, 200).split()
        texts.append(" ".join(text))
        start = int(rng.integers(10, 60))
        texts.append(" ".join(text[start:]))
    settings = MinHash(second_rows=2, extra=0)  # every pair is a candidate
    sets = settings.shingle_sets(texts)
    roots = find_near(settings.signatures(texts), np.arange(80), settings, shingles_of=lambda number: sets[number]).root
    margin = settings.tolerance * settings.standard_error
    for number in range(0, 80, 2):
        true = jaccard(sets[number], sets[number + 1])
        if abs(true - 0.8) < margin / 3:
            assert (roots[number + 1] == number) == (true >= 0.8)


def clusters_of(signatures: np.ndarray, ranks: np.ndarray, minhash: MinHash, **options: object) -> dict[int, int]:
    """rank -> rank of its representative."""
    roots = find_near(signatures, ranks, minhash, **options).root  # type: ignore[arg-type]
    return {int(rank): int(ranks[root]) for rank, root in zip(ranks, roots)}


@settings(max_examples=15, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 5))
@pytest.mark.covers("R197")
def test_the_order_of_the_rows_does_not_matter(random: object, parts: int) -> None:
    rng = np.random.default_rng(7)
    base = rng.integers(0, 2**32, (12, 112), dtype=np.uint32)
    rows = np.repeat(base, 6, axis=0)
    change = rng.random(rows.shape) < 0.15  # many pairs are near the threshold, so there are chains
    rows[change] = rng.integers(0, 2**32, int(change.sum()), dtype=np.uint32)
    expected = clusters_of(rows, np.arange(72), SHORT)
    order = list(range(72))
    random.shuffle(order)  # type: ignore[attr-defined]
    index = np.array(order)
    pieces = np.array_split(rows[index], parts)
    assert clusters_of(pieces, index, SHORT, memory=1) == expected  # type: ignore[arg-type]
    assert len(set(expected.values())) < 72


def test_a_removed_text_is_like_the_one_that_is_kept_for_it() -> None:
    """Each of a hundred texts is like the next, the first and the last have nothing in common."""
    rng = np.random.default_rng(11)
    long = rng.integers(0, 2**32, 1500, dtype=np.uint32)
    shingles = np.concatenate([long[start : start + 300] for start in range(0, 1000, 10)])
    minhash = MinHash()
    signatures = minhash.sign(shingles, np.arange(101) * 300)
    clusters = find_near(signatures, np.arange(100), minhash)
    removed = np.flatnonzero(~clusters.kept)
    assert len(removed) > 50 and clusters.kept[clusters.root].all()
    share = minhash.similarity(signatures[removed], signatures[clusters.root[removed]])
    assert share.min() >= minhash.threshold - minhash.tolerance * minhash.standard_error
    assert np.allclose(share, clusters.similarity[removed]) and (clusters.similarity[clusters.kept] == 1).all()


@pytest.mark.covers("R205")
def test_no_copy_is_on_the_other_side_of_a_split_by_cluster() -> None:
    shingles, starts = planted(np.random.default_rng(1), 300, 0.9)
    roots = find_near(MinHash().sign(shingles, starts), np.arange(600), MinHash()).root
    side = exact_keys(map(str, roots.tolist()))[:, 0] % np.uint64(10) == 0
    assert 20 < side.sum() < 120 and (side[:300] == side[300:]).all()


def test_a_huge_bucket_costs_little() -> None:
    keys = np.zeros(5000, dtype=np.uint64)
    better, worse = bucket_pairs(keys, np.ones(5000, dtype=bool))
    assert len(better) <= 5000 * (ANCHORS + NEIGHBOURS) and (better < worse).all()
    rows = np.repeat(np.random.default_rng(0).integers(0, 2**32, (1, 112), dtype=np.uint32), 5000, axis=0)
    clusters = find_near(rows, np.arange(5000)[::-1].copy(), SHORT)
    assert (clusters.root == 4999).all() and clusters.compared < 5000 * 6


def test_texts_without_shingles_are_left_alone() -> None:
    signatures = MinHash().signatures(["one two", "one two", "", "a b c d e f", "a b c d e f"])
    assert find_near(signatures, np.arange(5), MinHash()).root.tolist() == [0, 1, 2, 3, 3]


def test_every_value_is_in_each_banding_once() -> None:
    bands = bandings(MinHash())
    assert len(bands) == 30
    assert (
        sorted(np.concatenate(bands[:14]).tolist()) == sorted(np.concatenate(bands[14:]).tolist()) == list(range(112))
    )


def test_rows_that_are_not_alive_take_no_part() -> None:
    rows = np.repeat(np.random.default_rng(0).integers(0, 2**32, (1, 112), dtype=np.uint32), 4, axis=0)
    alive = np.array([False, True, False, True])
    assert find_near(rows, np.arange(4), SHORT, alive=alive).root.tolist() == [0, 1, 2, 1]


def test_signatures_of_other_settings_are_refused() -> None:
    with pytest.raises(DataError, match="112 columns, those of these settings have 184"):
        find_near(SHORT.signatures(["a"]), np.arange(1), MinHash())


@pytest.mark.covers("R199")
def test_a_near_copy_goes_from_the_later_data_set_only(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    minhash = MinHash()
    texts = [prose(rng, 200) for _ in range(30)]
    copies = [text.replace(text.split()[100], "altered") for text in texts]
    other = [prose(rng, 200) for _ in range(30)]
    b, a = minhash.signatures(copies + other), minhash.signatures(texts)
    ranks = np.concatenate([np.arange(60) + 30, np.arange(30)])
    kept = find_near([b, a], ranks, minhash).kept
    assert not kept[:30].any() and kept[30:].all()
    # The same against a corpus that was finished before.
    write_reference(tmp_path / "a", exact_keys(texts), a, minhash)
    reference = open_reference(tmp_path / "a", minhash)
    roots = find_near([reference.signatures, b], reference.ranks(np.arange(60)), minhash, reference=len(reference)).root
    assert roots[30:60].tolist() == list(range(30)) and roots[60:].tolist() == list(range(60, 90))


def test_a_reference_keeps_its_own_copies(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    minhash = MinHash()
    text = prose(rng, 100)
    write_reference(
        tmp_path, exact_keys([text, text, "x"]), minhash.signatures([text, text, "x"]), minhash, kept=np.arange(3) < 2
    )
    reference = open_reference(tmp_path, minhash)
    rows = [reference.signatures, minhash.signatures([text])]
    assert find_near(rows, reference.ranks(np.arange(1)), minhash, reference=2).root.tolist() == [0, 1, 0]


def test_a_reference_of_other_settings_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    minhash = MinHash()
    write_reference(tmp_path, exact_keys(["a"]), minhash.signatures(["a"]), minhash)
    with pytest.raises(DataError, match="other settings"):
        open_reference(tmp_path, MinHash(ngram=4))
    with pytest.raises(DataError, match=r"no index\.json"):
        open_reference(tmp_path / "nowhere", minhash)
    whole = (tmp_path / "keys.npy").read_bytes()
    for content in (b"", b"\x93NUMPY", whole[:-5], whole.replace(b"<u8", b"<u4"), b"not this"):
        (tmp_path / "keys.npy").write_bytes(content)
        with pytest.raises(CorruptionError, match="keys"):
            open_reference(tmp_path, minhash)
    (tmp_path / "keys.npy").unlink()
    with pytest.raises(DataError, match="keys"):
        open_reference(tmp_path, minhash)
    write_reference(tmp_path, exact_keys([]), minhash.signatures([]), minhash)
    assert len(open_reference(tmp_path, minhash)) == 0


@pytest.mark.slow
@pytest.mark.covers("R197")
def test_a_hundred_thousand_texts_take_less_than_a_minute() -> None:
    rng = np.random.default_rng(8)
    minhash = MinHash()
    vocabulary = np.array(words(rng, 50_000))
    texts = [" ".join(row) for row in vocabulary[rng.integers(0, 50_000, (98_000, 150))].tolist()]
    copied = []
    for text in texts[:2000]:
        # 11 shingles of 146 differ on each side: similarity 135 / 157 = 0.86.
        copied.append(" ".join(["new"] * 11 + text.split()[11:]))
    texts += copied
    start = time.process_time()
    signatures = np.concatenate(
        [minhash.signatures(texts[first : first + 1000]) for first in range(0, len(texts), 1000)]
    )
    clusters = find_near(signatures, np.arange(len(texts)), minhash)
    assert time.process_time() - start < 60
    assert (clusters.root[98_000:] == np.arange(2000)).mean() > 0.95
    assert (~clusters.kept[:98_000]).mean() < 0.01
