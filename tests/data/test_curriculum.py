"""Orders other than a shuffle: what they promise, and that any position can be reached at once."""

from __future__ import annotations

import numpy as np
import pytest

from llm_trainer.common.errors import DataError
from llm_trainer.data import PackedLoader, TokenCache, build_cache
from llm_trainer.data.curriculum import BucketOrder, CurriculumOrder, mean_document_length
from tests.byte_tokenizer import ByteTokenizer
from tests.data.test_token_cache import some_texts

LENGTHS = np.random.default_rng(0).integers(5, 500, 2000)


@pytest.mark.parametrize("order", [CurriculumOrder(LENGTHS, seed=3, mixed=64), BucketOrder(LENGTHS, 16, seed=3)])
def test_each_epoch_serves_everything_once_and_any_position_is_the_same_again(order):
    whole = order.indices(0, 6000)
    for epoch in range(3):
        assert sorted(whole[2000 * epoch : 2000 * (epoch + 1)].tolist()) == list(range(2000))
    for start in (0, 999, 1999, 4321):
        assert order.indices(start, 300).tolist() == whole[start : start + 300].tolist()
    assert whole[:2000].tolist() != whole[2000:4000].tolist()


def test_a_curriculum_goes_from_low_to_high_and_is_then_over():
    order = CurriculumOrder(LENGTHS, seed=3, epochs=1, mixed=64)
    first, second = LENGTHS[order.indices(0, 2000)], LENGTHS[order.indices(2000, 2000)]
    means = first[:1984].reshape(-1, 64).mean(axis=1)
    assert (np.diff(means) > 0).all()
    assert len(set(np.diff(first[:64]).tolist())) > 10, "neighbours are mixed"
    assert abs(np.corrcoef(np.arange(2000), second)[0, 1]) < 0.1


@pytest.mark.covers("R237")
def test_batches_by_length_pad_far_less_than_shuffled_ones():
    def padding(order: np.ndarray) -> float:
        batches = LENGTHS[order].reshape(-1, 16)
        return 1 - batches.sum() / (batches.max(axis=1, keepdims=True) * np.ones((1, 16))).sum()

    bucketed = padding(BucketOrder(LENGTHS, 16, seed=1).indices(0, 2000))
    shuffled = padding(np.random.default_rng(1).permutation(2000))
    assert bucketed < 0.05 < 0.3 < shuffled
    means = LENGTHS[BucketOrder(LENGTHS, 16, seed=1).indices(0, 2000)].reshape(-1, 16).mean(axis=1)
    assert abs(np.corrcoef(np.arange(125), means)[0, 1]) < 0.25, "the batches themselves are shuffled"


def test_a_loader_with_a_curriculum_goes_on_where_it_was(tmp_path):
    cache = build_cache(some_texts(), ByteTokenizer(), tmp_path, seq_len=64, unit_bytes=3000)
    scores = mean_document_length(cache)
    assert len(scores) == len(cache)

    def loader(seed: int = 0) -> PackedLoader:
        return PackedLoader(cache, 4, order=CurriculumOrder(scores, seed=seed, mixed=8))

    whole = [batch["input_ids"].tolist() for batch in loader().batches(0, 80)]
    assert [batch["input_ids"].tolist() for batch in loader().batches(40, 80)] == whole[10:]
    assert loader().fingerprint != PackedLoader(cache, 4).fingerprint
    assert isinstance(cache, TokenCache)


def test_impossible_orders_are_refused():
    for scores in ([], [1.0, float("nan")], [[1.0]]):
        with pytest.raises(DataError, match="one finite score for each sequence"):
            CurriculumOrder(scores)
    with pytest.raises(DataError, match="at least one a batch"):
        BucketOrder([3], 0)
