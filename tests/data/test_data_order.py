"""The order of training: every sequence once an epoch, another order each time, and readable in any pieces."""

from __future__ import annotations

import numpy as np
import pytest

from llm_trainer.common.errors import DataError
from llm_trainer.data.order import EpochOrder, stable_permutation


def order(sequences: int, seed: int = 0, block: int = 4, window: int = 3) -> EpochOrder:
    return EpochOrder(np.arange(0, sequences, block), sequences, seed, window=window)


@pytest.mark.covers("R236")
@pytest.mark.parametrize("sequences", [1, 3, 4, 5, 12, 13, 100])
def test_every_epoch_holds_every_sequence_once(sequences):
    for epoch in range(3):
        assert sorted(order(sequences).indices(epoch * sequences, sequences)) == list(range(sequences))


@pytest.mark.covers("R236")
def test_epochs_and_seeds_give_different_orders_and_the_same_ones_again():
    first, second = order(100).indices(0, 100).tolist(), order(100).indices(100, 100).tolist()
    assert first != second != list(range(100)) != first
    assert order(100, seed=1).indices(0, 100).tolist() != first
    assert order(100).indices(0, 100).tolist() == first


def test_the_stream_is_the_same_in_pieces_of_any_size():
    whole = order(37).indices(0, 150)
    for size in (1, 2, 5, 36, 37, 38, 149):
        shared = order(37)
        pieces = [shared.indices(start, min(size, 150 - start)) for start in range(0, 150, size)]
        assert np.concatenate(pieces).tolist() == whole.tolist()
    assert order(37).indices(0, 0).tolist() == []


def test_blocks_of_different_sizes_are_covered():
    uneven = EpochOrder([0, 4, 5, 9, 13], 14, 0, window=2)
    assert sorted(uneven.indices(0, 14)) == list(range(14))


def test_sequences_are_mixed_from_distant_places_but_read_from_few_blocks_at_a_time():
    sequences, block, window = 64 * 100, 16, 8
    indices = EpochOrder(np.arange(0, sequences, block), sequences, 0, window=window).indices(0, sequences)
    for start in range(0, sequences, block * window):
        blocks = set((indices[start : start + block * window] // block).tolist())
        assert len(blocks) == window
        assert max(blocks) - min(blocks) > window


@pytest.mark.covers("R236")
def test_the_order_is_fixed_for_ever():
    """A checkpoint of an older version must go on with the same order: these numbers may never change."""
    assert stable_permutation(8, "unit", 0).tolist() == [2, 3, 1, 7, 5, 0, 4, 6]
    assert order(12, seed=42).indices(0, 14).tolist() == [4, 6, 10, 1, 7, 5, 9, 0, 3, 2, 8, 11, 9, 11]


def test_random_access_far_into_training_is_quick_for_ten_million_sequences():
    large = EpochOrder(np.arange(0, 10_000_000, 16), 10_000_000, 0)
    assert len(set(large.indices(123_456_789, 1000).tolist())) == 1000


def test_nothing_has_no_order():
    with pytest.raises(DataError, match="no sequences"):
        order(0)
