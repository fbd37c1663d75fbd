"""A cache that is read while it is packed: every sequence once in a pass, in an order that a checkpoint can name."""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from llm_trainer.common.errors import CorruptionError, DataError
from llm_trainer.common.leases import is_held, lease, lease_path
from llm_trainer.data import TokenCache, build_cache
from llm_trainer.data.build import find_gaps
from llm_trainer.data.growing import GrowingCache, GrowingLoader
from llm_trainer.data.manifest import MANIFEST, chunk_files
from llm_trainer.data.plan import PLAN, Plan, describe_gaps
from tests.byte_tokenizer import ByteTokenizer

SEQ_LEN = 32


def texts(count: int = 400) -> list[str]:
    generator = random.Random(0)
    return [f"{number}:" + "".join(generator.choices("abcdef ", k=generator.randint(5, 60))) for number in range(count)]


def build(folder: Path, documents=None, **options) -> TokenCache:
    options = {"seq_len": SEQ_LEN, "unit_bytes": 1000, "source_fingerprint": "texts", **options}
    return build_cache(texts() if documents is None else documents, ByteTokenizer(), folder, **options)


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("complete")
    build(folder)
    return folder


def partial(complete: Path, folder: Path, units: list[int]) -> Path:
    """A folder with the plan and some of the chunks."""
    folder.mkdir(exist_ok=True)
    shutil.copy(complete / PLAN, folder)
    for unit in units:
        add(complete, folder, unit)
    return folder


def add(complete: Path, folder: Path, unit: int) -> None:
    shutil.copy(chunk_files(complete)[unit], folder)


def rows(cache: TokenCache, indices) -> list[tuple[int, ...]]:
    return [tuple(sequence.tokens.tolist()) for sequence in cache.read(indices)]


@pytest.mark.covers("R217", "R219")
class TestPlan:
    def test_it_fixes_every_range_before_any_work(self, complete):
        plan = Plan.read(complete)
        assert len(plan.units) == len(chunk_files(complete)) > 10
        assert plan.documents == len(texts())
        assert [unit.first for unit in plan.units] == np.cumsum([0, *(u.documents for u in plan.units)])[:-1].tolist()
        assert plan.text_bytes == sum(map(len, texts()))
        assert all(unit.text_bytes >= 1000 for unit in plan.units[:-1])

    def test_text_that_can_be_read_once_only_gives_the_same_files(self, complete, tmp_path):
        build(tmp_path, (text for text in texts()))
        assert contents(tmp_path) == contents(complete)

    def test_a_damaged_plan_is_named_and_made_again(self, complete, tmp_path):
        shutil.copytree(complete, tmp_path, dirs_exist_ok=True)
        (tmp_path / PLAN).write_text((tmp_path / PLAN).read_text().replace('"units"', '"unitz"'))
        with pytest.raises(CorruptionError, match=r"plan\.json is damaged"):
            Plan.read(tmp_path)
        build(tmp_path, mode="inverse")
        assert contents(tmp_path) == contents(complete)

    def test_gaps_are_told_as_ranges(self, complete):
        units = Plan.read(complete).units
        assert describe_gaps([]) == "no gaps"
        first = units[3].first
        assert describe_gaps([units[3]]) == f"chunk 3 (documents {first}-{first + units[3].documents - 1})"
        assert describe_gaps([units[1], units[2], units[5]]).startswith("chunks 1-2, 5 (documents ")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Counting(ByteTokenizer):
    def __init__(self) -> None:
        self.texts = 0

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        self.texts += len(texts)
        return super().encode_batch(texts)


@pytest.mark.covers("R208", "R218")
class TestInverse:
    @pytest.mark.parametrize("damage", ["deleted", "flipped", "truncated", "never made"])
    def test_exactly_the_gaps_are_filled_byte_for_byte(self, complete, tmp_path, damage):
        shutil.copytree(complete, tmp_path, dirs_exist_ok=True)
        files = chunk_files(tmp_path)
        hurt = [3] if damage != "never made" else list(range(5, len(files)))
        for index in hurt:
            content = files[index].read_bytes()
            if damage in ("deleted", "never made"):
                files[index].unlink()
            elif damage == "flipped":
                files[index].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            else:
                files[index].write_bytes(content[:-5])
        if damage == "never made":
            (tmp_path / MANIFEST).unlink()
        _, gaps = find_gaps(tmp_path)
        assert [unit.number for unit in gaps] == hurt
        tokenizer, said = Counting(), []
        options = {"seq_len": SEQ_LEN, "unit_bytes": 1000, "source_fingerprint": "texts", "mode": "inverse"}
        build_cache(texts(), tokenizer, tmp_path, notice=said.append, **options)
        assert tokenizer.texts == sum(unit.documents for unit in gaps)
        assert contents(tmp_path) == contents(complete)
        assert any(describe_gaps(gaps) in line for line in said)

    def test_a_whole_cache_is_checked_and_left_alone(self, complete, tmp_path):
        shutil.copytree(complete, tmp_path, dirs_exist_ok=True)
        tokenizer = Counting()
        options = {"seq_len": SEQ_LEN, "unit_bytes": 1000, "source_fingerprint": "texts", "mode": "inverse"}
        build_cache(texts(), tokenizer, tmp_path, **options)
        assert tokenizer.texts == 0
        assert contents(tmp_path) == contents(complete)

    def test_there_must_be_something_to_fill(self, tmp_path):
        with pytest.raises(DataError, match="no cache with gaps to fill"):
            build(tmp_path / "new", mode="inverse")
        with pytest.raises(DataError, match="unknown mode 'backwards'"):
            build(tmp_path / "new", mode="backwards")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
class TestSeveralPackers:
    def test_they_share_the_work_and_the_result_is_the_same(self, complete, tmp_path):
        class Slow(Counting):
            def encode_batch(self, texts: list[str]) -> list[list[int]]:
                time.sleep(0.02)
                return super().encode_batch(texts)

        children = []
        for number in range(3):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    tokenizer = Slow()
                    options = {"seq_len": SEQ_LEN, "unit_bytes": 1000, "source_fingerprint": "texts"}
                    build_cache(texts(), tokenizer, tmp_path / "cache", **options)
                    (tmp_path / f"count-{number}").write_text(str(tokenizer.texts))
                    status = 0
                finally:
                    os._exit(status)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
        assert contents(tmp_path / "cache") == contents(complete)
        counts = [int((tmp_path / f"count-{number}").read_text()) for number in range(3)]
        assert sum(counts) == len(texts()), "a document was tokenized twice, or never"
        assert min(counts) > 0

    def test_a_lease_of_a_dead_process_is_void(self, tmp_path):
        file = tmp_path / "chunk-00000-01234567.tok"
        child = os.fork()
        if child == 0:
            with lease(file):
                os._exit(0)
        os.waitpid(child, 0)
        assert lease_path(file).exists()
        assert not is_held(lease_path(file))
        with lease(file) as mine, lease(file) as again:
            assert mine
            assert not again
        assert not lease_path(file).exists()


@pytest.mark.covers("R220")
class TestGrowing:
    def test_each_sequence_is_served_once_in_a_pass_whatever_arrives_when(self, complete, tmp_path):
        total = len(chunk_files(complete))
        folder = partial(complete, tmp_path / "cache", [0, 1])
        loader = GrowingLoader(GrowingCache.open_growing(folder), batch_size=4, seed=5)
        loader.grow(loader.cache.arrived())
        arrivals = random.Random(1).sample(range(2, total), total - 2)
        while arrivals:
            for _ in range(min(3, len(arrivals))):
                add(complete, folder, arrivals.pop())
            loader.grow(loader.cache.arrived())
        served = loader.indices(0, loader.known)
        assert sorted(served.tolist()) == list(range(len(loader.cache)))
        everything = TokenCache.open(complete)
        assert sorted(rows(loader.cache, served)) == sorted(rows(everything, range(len(everything))))
        loader.grow([])
        second = loader.indices(len(served), len(served))
        assert sorted(second.tolist()) == sorted(served.tolist())
        assert second.tolist() != served.tolist()
        assert loader.cache.complete

    @pytest.mark.covers("R235", "R224")
    def test_a_state_replays_the_same_prefix_however_large_the_cache_is_now(self, complete, tmp_path):
        folder = partial(complete, tmp_path / "cache", [4, 1])
        first = GrowingLoader(GrowingCache.open_growing(folder), batch_size=4, seed=5)
        first.grow(first.cache.arrived())
        for unit in (2, 0):
            add(complete, folder, unit)
        first.grow(first.cache.arrived())
        expected = rows(first.cache, first.indices(0, first.known))
        state = first.state_dict()
        for unit in (3, 5, 6):
            add(complete, folder, unit)
        again = GrowingLoader(GrowingCache.open_growing(folder), batch_size=4, seed=5)
        again.grow(again.cache.arrived())
        again.load_state_dict(state)
        assert rows(again.cache, again.indices(0, again.known)) == expected
        assert again.cache.arrived() == [3, 5, 6]
        assert again.fingerprint == first.fingerprint
        chunk_files(folder)[1].unlink()
        with pytest.raises(CorruptionError, match=r"chunk-00001.* is missing.*\n.*--mode inverse"):
            GrowingLoader(GrowingCache.open_growing(folder), batch_size=4).load_state_dict(state)

    @pytest.mark.parametrize("world_size", [2, 4])
    def test_ranks_share_out_the_same_stream(self, complete, tmp_path, world_size):
        def stream(ranks: int) -> list[tuple[int, ...]]:
            streams = []
            for rank in range(ranks):
                cache = GrowingCache.open_growing(complete)
                loader = GrowingLoader(cache, batch_size=4 // ranks, seed=3, rank=rank, world_size=ranks)
                loader.grow(cache.arrived())
                streams.append([row.tolist() for b in loader.batches(0, 400) for row in b["input_ids"]])
            return [tuple(row) for group in zip(*streams, strict=True) for row in group]

        assert stream(world_size) == stream(1)

    def test_a_damaged_chunk_is_left_out_and_named(self, complete, tmp_path):
        folder = partial(complete, tmp_path / "cache", [0, 1, 2])
        chunk_files(folder)[1].write_bytes(b"nonsense")
        cache = GrowingCache.open_growing(folder)
        assert cache.arrived() == [0, 2]
        assert "chunk-00001" in cache.damaged[1]

    def test_the_size_of_the_whole_is_estimated_from_the_part(self, complete, tmp_path):
        folder = partial(complete, tmp_path / "cache", [0, 1, 2, 3])
        cache = GrowingCache.open_growing(folder)
        cache.take(cache.arrived())
        whole = len(TokenCache.open(complete))
        assert cache.planned_sequences() == pytest.approx(whole, rel=0.1)
        assert not cache.complete

    def test_an_empty_or_foreign_folder_is_one_clear_message(self, tmp_path, complete):
        with pytest.raises(DataError, match="there is no cache at"):
            GrowingCache.open_growing(tmp_path / "nowhere")
        with pytest.raises(DataError, match=r"no plan\.json"):
            GrowingCache.open_growing(tmp_path)
        folder = partial(complete, tmp_path / "cache", [])
        with pytest.raises(DataError, match="holds no chunk yet"):
            GrowingLoader(GrowingCache.open_growing(folder), 2).batches()
        with pytest.raises(DataError, match="packed with tokenizer bytes"):
            GrowingCache.open_growing(folder, expect_tokenizer="others")
