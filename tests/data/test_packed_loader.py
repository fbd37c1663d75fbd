"""Batches in an order that only the seed and the count of sequences decide."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from itertools import islice

import pytest
import torch

from llm_trainer.common.errors import DataError
from llm_trainer.data import Batch, PackedLoader, TokenCache, build_cache
from tests.byte_tokenizer import ByteTokenizer

SEQ_LEN = 32


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> TokenCache:
    """About a hundred sequences in several chunks, every one different."""
    generator = random.Random(0)
    texts = [f"{number:04d}" + "x" * generator.randint(0, 40) for number in range(150)]
    return build_cache(texts, ByteTokenizer(), tmp_path_factory.mktemp("cache"), seq_len=SEQ_LEN, unit_bytes=1000)


def rows(batches: Iterable[Batch]) -> list[tuple[int, ...]]:
    """All rows that have a target, as tuples."""
    return [
        tuple(row)
        for batch in batches
        for row, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist())
        if max(labels) >= 0
    ]


def same(first: Iterable[Batch], second: Iterable[Batch]) -> bool:
    pairs = list(zip(first, second, strict=True))
    assert pairs
    return all(set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs)


@pytest.mark.covers("R051", "R231", "R236")
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_change_nothing(cache, workers):
    def batches(num_workers: int):
        return PackedLoader(cache, 4, seed=1, num_workers=num_workers, prefetch=3).batches(5, 250)

    assert same(batches(workers), batches(0))


@pytest.mark.covers("R236")
def test_an_epoch_serves_every_sequence_once_in_an_order_of_its_own(cache):
    loader = PackedLoader(cache, 7, seed=3)
    first = rows(loader.batches(0, len(loader)))
    second = rows(loader.batches(len(loader), 2 * len(loader)))
    unshuffled = rows(PackedLoader(cache, 7, shuffle=False).batches(0, len(cache)))
    assert len(loader) == len(cache) == len(set(first)) > 90
    assert sorted(first) == sorted(second) == sorted(unshuffled)
    assert first != second != unshuffled != first
    assert rows(PackedLoader(cache, 7, seed=4).batches(0, len(loader))) != first


@pytest.mark.covers("R235")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_count_is_all_it_takes_to_go_on_in_the_middle_of_an_epoch(cache, workers):
    straight = list(PackedLoader(cache, 4, seed=1).batches(0, 260))
    loader = PackedLoader(cache, 4, seed=1, num_workers=workers)
    consumed = 0
    resumed = []
    for stop_after in (3, 20, 1, 41):  # four runs, each from the count of the one before, over two epoch borders
        for batch in islice(loader.batches(consumed, 260), stop_after):
            resumed.append(batch)
            consumed += len(batch["input_ids"])
    assert consumed == 260
    assert same(resumed, straight)


@pytest.mark.covers("R236")
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_share_every_step_without_overlap_and_make_equally_many(cache, world_size):
    ranks = [
        list(PackedLoader(cache, 2, seed=1, rank=rank, world_size=world_size).batches(0, len(cache)))
        for rank in range(world_size)
    ]
    one = list(PackedLoader(cache, 2 * world_size, seed=1).batches(0, len(cache)))
    assert {len(batches) for batches in ranks} == {len(one)}
    for step, whole in enumerate(one):
        shared = [rows([batches[step]]) for batches in ranks]
        assert sorted(row for rank in shared for row in rank) == sorted(rows([whole]))
    assert sorted(row for batches in ranks for row in rows(batches)) == sorted(rows(one))


def test_a_rank_without_a_sequence_in_the_last_step_still_gets_a_batch(cache):
    last = list(PackedLoader(cache, 4, rank=3, world_size=4).batches(0, 18))[-1]
    assert last["input_ids"].shape == (1, SEQ_LEN)
    assert (last["labels"] == -100).all()


def test_the_number_of_ranks_may_change_between_runs(cache):
    whole = rows(PackedLoader(cache, 4, seed=1).batches(0, 96))
    parts = rows(PackedLoader(cache, 4, seed=1).batches(0, 32))
    for start, world_size in ((32, 2), (64, 4)):
        steps = zip(
            *(
                PackedLoader(cache, 4, seed=1, rank=rank, world_size=world_size).batches(start, start + 32)
                for rank in range(world_size)
            )
        )
        parts += [row for step in steps for row in rows(step)]
    assert sorted(parts[:32]) == sorted(whole[:32])
    assert sorted(parts[32:64]) == sorted(whole[32:64])
    assert sorted(parts[64:]) == sorted(whole[64:])


def test_an_epoch_of_a_fraction_goes_on_where_the_one_before_ended(cache):
    loader = PackedLoader(cache, 5, seed=2, epoch_fraction=0.5)
    size = len(loader)
    assert size == round(0.5 * len(cache))
    first, second = (set(rows(loader.batches(epoch * size, (epoch + 1) * size))) for epoch in range(2))
    assert len(first & second) <= 1
    assert len(first | second) >= len(cache) - 1


def test_a_limit_uses_the_first_sequences_only(cache):
    loader = PackedLoader(cache, 4, shuffle=False)
    loader.limit = 10
    all_rows = rows(PackedLoader(cache, 4, shuffle=False).batches(0, len(cache)))
    assert len(loader) == 10
    assert rows(loader.batches(0, 10)) == all_rows[:10]
    shuffled = PackedLoader(cache, 4, limit=10)
    assert sorted(rows(shuffled.batches(10, 20))) == sorted(all_rows[:10])
    assert loader.fingerprint == shuffled.fingerprint != PackedLoader(cache, 4).fingerprint


def test_the_indices_of_a_stretch_are_those_that_are_served(cache):
    loader = PackedLoader(cache, 6, seed=9)
    sequences = cache.read(loader.indices(12, 6))
    served = rows(loader.batches(12, 18))
    assert [list(row[: len(sequence.tokens)]) for row, sequence in zip(served, sequences)] == [
        sequence.tokens.tolist() for sequence in sequences
    ]


@pytest.mark.covers("R052", "R231")
def test_batches_are_pinned_when_there_is_a_gpu_and_left_alone_when_there_is_none(cache, monkeypatch):
    pinned: list[torch.Tensor] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    for available, wanted, expected in ((False, True, False), (True, False, False), (True, True, True)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        pinned.clear()
        batch = next(PackedLoader(cache, 4, pin_memory=wanted, num_workers=1).batches(0, 4))
        assert all(any(tensor is done for done in pinned) for tensor in batch.values()) is expected


@pytest.mark.covers("R231")
def test_loading_is_far_faster_than_training(cache):
    """A small model on two cores consumes less than 50,000 tokens a second."""
    loader = PackedLoader(cache, 8, num_workers=1)
    start = time.process_time()
    tokens = sum(batch["input_ids"].numel() for batch in loader.batches(0, 2000))
    assert tokens / (time.process_time() - start) > 200_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
        ({"epoch_fraction": 0.0}, "epoch_fraction"),
    ],
)
def test_impossible_arguments_are_refused(cache, options, message):
    with pytest.raises(DataError, match=message):
        PackedLoader(cache, **{"batch_size": 2, **options})
