"""Mixtures: the shares come out, at every length, for ever, and any position can be reached at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llm_trainer.common.errors import DataError
from llm_trainer.data import TokenCache, build_cache
from llm_trainer.data.mixture import MixtureLoader, MixtureOrder, MixtureSource, largest_deficit, temperature_weights
from llm_trainer.training import Trainer
from tests.byte_tokenizer import ByteTokenizer
from tests.data.test_token_cache import NumberTokenizer
from tests.training.helpers import config, tiny_model

SHARES = (60, 15, 10, 10, 5)


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> list[TokenCache]:
    """Five sources; their sequences are full to different degrees, so that shares of sequences and tokens differ."""
    result = []
    for number, length in enumerate((62, 45, 62, 30, 50)):
        folder = tmp_path_factory.mktemp(f"source{number}")
        texts = [chr(97 + number) * length for _ in range(100 + 40 * number)]
        packer = "bfd" if length == 62 else "concat"
        seq_len = 64
        cache = build_cache(texts, ByteTokenizer(), folder, seq_len=seq_len, packer=packer, unit_bytes=3000)
        result.append(cache)
    return result


def sources(caches: list[TokenCache], weights=SHARES, **options) -> list[MixtureSource]:
    return [MixtureSource(f"s{n}", cache, weight, **options) for n, (cache, weight) in enumerate(zip(caches, weights))]


def test_shares_of_the_tokens_are_reached_within_1_percent(caches):
    loader = MixtureLoader(sources(caches), batch_size=10)
    served = loader.indices(0, 5000)
    kinds = [next(b for b in s.tokens.tolist() if b != 256) - 97 for s in loader.cache.read(served)]
    lengths = [len(s.tokens) for s in loader.cache.read(served)]
    tokens = np.bincount(kinds, weights=lengths)
    assert tokens / tokens.sum() == pytest.approx(np.array(SHARES) / 100, abs=0.01)
    assert list(loader.composition(0, 5000).values()) == pytest.approx(np.array(SHARES) / 100, abs=0.01)


def test_every_stretch_is_within_one_sequence_of_its_share(caches):
    shares = np.array([0.6, 0.15, 0.1, 0.1, 0.05])
    pattern = largest_deficit(shares, 10_000)
    running = np.cumsum(np.eye(5)[pattern], axis=0)
    expected = np.arange(1, 10_001)[:, None] * shares
    assert np.abs(running - expected).max() <= 1.0
    assert running[-1].tolist() == (shares * 10_000).tolist()


def test_any_position_is_reached_at_once_and_each_source_goes_round_its_own_order(caches):
    order = MixtureOrder(sources(caches), seed=4)
    whole = order.indices(0, 30_000)
    for start in (0, 1, 9_999, 10_000, 25_001):
        assert order.indices(start, 777).tolist() == whole[start : start + 777].tolist()
    offset = 0
    for cache in caches:
        own = whole[(whole >= offset) & (whole < offset + len(cache))]
        first_pass = own[: len(cache)]
        assert sorted(first_pass.tolist()) == list(range(offset, offset + len(cache)))
        offset += len(cache)
    assert order.indices(10**12, 5).shape == (5,)


def test_a_source_that_has_had_its_epochs_leaves_its_place_to_the_others(caches):
    limited = sources(caches, max_epochs=None)
    limited[1] = MixtureSource("s1", caches[1], 15, max_epochs=2)
    order = MixtureOrder(limited, seed=0)
    chosen, ordinals = order.sources(0, 40_000)
    mine = chosen == 1
    assert mine.sum() == 2 * len(caches[1])
    assert ordinals[mine].tolist() == list(range(2 * len(caches[1])))
    after = chosen[np.flatnonzero(mine)[-1] + 1 :]
    rates = np.array([s.weight * len(s.cache) / s.cache.manifest.totals()["tokens"] for s in limited])
    rates[1] = 0
    assert np.bincount(after, minlength=5) / len(after) == pytest.approx(rates / rates.sum(), abs=0.002)
    # Another call in the middle agrees with the first one.
    again, _ = order.sources(12_345, 100)
    assert again.tolist() == chosen[12_345:12_445].tolist()


def test_when_all_are_used_up_the_stream_ends(caches):
    loader = MixtureLoader(sources(caches, max_epochs=1), batch_size=8)
    total = sum(map(len, caches))
    assert len(loader) == total
    assert sorted(loader.indices(0, total).tolist()) == list(range(total))
    with pytest.raises(DataError, match=f"the mixture ends after {total:,} sequences"):
        loader.indices(total, 1)


def test_ranks_and_workers_change_nothing(caches):
    def rows(ranks: int, workers: int) -> list:
        streams = [
            [
                row.tolist()
                for batch in MixtureLoader(
                    sources(caches), 8 // ranks, seed=1, rank=r, world_size=ranks, num_workers=workers
                ).batches(40, 200)
                for row in batch["input_ids"]
            ]
            for r in range(ranks)
        ]
        return [row for group in zip(*streams, strict=True) for row in group]

    assert rows(1, 0) == rows(2, 2) == rows(4, 0)


def test_temperature_evens_out_shares():
    assert temperature_weights([900, 100], 1) == pytest.approx([0.9, 0.1])
    assert temperature_weights([900, 100], 2) == pytest.approx([0.75, 0.25])
    assert temperature_weights([900, 100], 1e9) == pytest.approx([0.5, 0.5])
    with pytest.raises(DataError, match="temperature must be above 0"):
        temperature_weights([1], 0)


def test_what_cannot_be_mixed_is_named(caches, tmp_path):
    with pytest.raises(DataError, match="at least one source"):
        MixtureLoader([], 2)
    with pytest.raises(DataError, match="weight of s0 must be above 0"):
        MixtureLoader(sources(caches, (0, 1, 1, 1, 1)), 2)
    other = build_cache(["7", "9"], NumberTokenizer(), tmp_path, seq_len=32)
    with pytest.raises(DataError, match="odd has sequences of 32 tokens"):
        MixtureLoader([*sources(caches), MixtureSource("odd", other, 1)], 2)


def test_the_identity_changes_with_the_shares(caches, tmp_path: Path):
    first = MixtureLoader(sources(caches), 2).fingerprint
    assert MixtureLoader(sources(caches), 4).fingerprint == first
    assert MixtureLoader(sources(caches, (1, 1, 1, 1, 1)), 2).fingerprint != first


@pytest.mark.parametrize("weights", [SHARES, (1, 1, 1, 1, 1), (1000, 1, 1, 1, 1)], ids=["issue", "equal", "uneven"])
def test_every_stretch_of_a_thousand_sequences_has_the_shares_within_1_percent(caches, weights):
    """By the tokens that are really served, wherever the stretch begins."""
    loader = MixtureLoader(sources(caches, weights), batch_size=10, seed=2)
    wanted = np.array(weights) / sum(weights)
    sizes = np.array([len(s.tokens) for s in loader.cache.read(np.arange(len(loader.cache)))])
    for start, count in ((0, 1000), (0, 1777), (9_500, 1000), (123_456, 1500)):
        chosen, _ = loader._mixed.sources(start, count)
        tokens = np.bincount(chosen, weights=sizes[loader.indices(start, count)], minlength=5)
        assert tokens / tokens.sum() == pytest.approx(wanted, abs=0.01)


def test_a_share_too_small_to_be_served_is_refused_and_not_dropped_silently(caches):
    with pytest.raises(DataError, match=r"share of s4 is so small that it would never be served.*\n.*leave"):
        MixtureLoader(sources(caches, (1, 1, 1, 1, 1e-6)), 2)
    assert MixtureLoader(sources(caches, (1, 1, 1, 1, 1e-3)), 2).composition(0, 10_000)["s4"] > 0


def test_one_source_is_that_source(caches):
    (only,) = sources(caches[:1])
    loader = MixtureLoader([only], 4, seed=1)
    assert sorted(loader.indices(0, len(loader)).tolist()) == list(range(len(caches[0])))


def test_the_same_text_twice_is_two_sources_in_orders_of_their_own(caches):
    twice = [MixtureSource(name, caches[0], 1) for name in "ab"]
    loader = MixtureLoader(twice, 4, seed=1)
    size = len(caches[0])
    served = loader.indices(0, 2 * size)
    first, second = served[served < size], served[served >= size] - size
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(size))
    assert first.tolist() != second.tolist()


def test_training_ends_where_all_sources_are_used_up(caches):
    """Three epochs were asked for and two are allowed: the run is as long as the data, and does not fail at the end."""
    limited = sources(caches[:2], (3, 1), max_epochs=2)
    total = 2 * sum(map(len, caches[:2]))
    for changes in ({"max_steps": None, "num_epochs": 3}, {"max_steps": 10_000}, {"max_steps": None, "max_minutes": 9}):
        settings = config(batch_size=64, learning_rate=1e-3, **changes)
        trainer = Trainer(tiny_model(vocab_size=257, max_seq_len=64, d_model=16, n_heads=2, n_layers=1), None, settings)
        trainer.fit(MixtureLoader(limited, 64))
        assert trainer.state.sequences == total
        assert trainer.state.step == -(-total // 64)


@pytest.mark.covers("R235")
def test_a_resumed_mixture_goes_on_exactly(caches, tmp_path):
    class Served(MixtureLoader):
        def _indices(self, order, start: int, count: int):
            found = super()._indices(order, start, count)
            seen.extend(found.tolist())
            return found

    def run(name: str, steps: int, resume: bool) -> None:
        model = tiny_model(vocab_size=257, max_seq_len=64, d_model=16, n_heads=2, n_layers=1)
        settings = config(batch_size=8, max_steps=steps, warmup_steps=0)
        Trainer(model, None, settings, run_dir=tmp_path / name).fit(
            Served(sources(caches), 8, seed=1, num_workers=0), resume=resume
        )

    seen: list[int] = []
    run("whole", 12, False)
    straight = list(seen)
    seen.clear()
    run("parts", 5, False)
    run("parts", 12, True)
    assert seen == straight
    assert len(straight) == 96
