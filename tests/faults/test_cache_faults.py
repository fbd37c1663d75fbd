"""Whatever happens while packing or afterwards to the files: nothing half-written, nothing lost, everything named.

Children are forked from this process, so that they start at once and a kill can come at any instant of packing.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llm_trainer.common.errors import CorruptionError, DataError, UserError
from llm_trainer.data import TokenCache, build_cache
from llm_trainer.data.chunk import ChunkReader
from llm_trainer.data.manifest import Manifest, chunk_files
from tests.byte_tokenizer import ByteTokenizer

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def texts(count: int = 300) -> list[str]:
    generator = random.Random(0)
    return ["".join(generator.choices("abcdefgh <|>", k=generator.randint(1, 120))) for _ in range(count)]


def build(folder: Path, tokenizer: ByteTokenizer | None = None, *, source: str = "texts", **options) -> TokenCache:
    options = {"seq_len": 64, "unit_bytes": 2000, "source_fingerprint": source, **options}
    return build_cache(texts(), tokenizer or ByteTokenizer(), folder, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a cache that nothing happened to."""
    folder = tmp_path_factory.mktemp("complete")
    build(folder)
    return contents(folder)


@pytest.fixture
def cache_dir(tmp_path: Path, complete: dict[str, bytes]) -> Path:
    """A copy of them."""
    for name, content in complete.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def in_child(work: Callable[[], object]) -> int:
    """Start ``work`` in a forked process; return its id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def assert_nothing_half_written(folder: Path, complete: dict[str, bytes]) -> bool:
    """Every visible file is whole; return whether the cache is complete."""
    for path in folder.glob("[!.]*"):
        assert path.read_bytes() == complete[path.name], f"{path.name} is not what it must be"
    if (folder / "manifest.json").exists():
        assert {path.name for path in folder.glob("[!.]*")} == set(complete)
        return True
    with pytest.raises(DataError):
        TokenCache.open(folder)
    return False


def kill_while_packing(folder: Path, complete: dict[str, bytes], times: int) -> int:
    """Kill ``times`` packings at random moments; return how many were under way."""
    generator = random.Random(times)
    start = time.monotonic()
    build(folder / "timing")
    duration = time.monotonic() - start
    under_way = 0
    for trial in range(times):
        target = folder / str(trial)
        child = in_child(lambda target=target: build(target))
        time.sleep(generator.uniform(0, duration))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if target.exists():
            finished = assert_nothing_half_written(target, complete)
            under_way += bool(not finished and any(target.iterdir()))
        build(target)
        assert contents(target) == complete
    return under_way


@needs_fork
@pytest.mark.covers("R214")
def test_ten_kills_at_random_moments(tmp_path, complete):
    assert kill_while_packing(tmp_path, complete, 10) > 0


@needs_fork
@pytest.mark.slow
@pytest.mark.covers("R214")
def test_fifty_kills_at_random_moments(tmp_path, complete):
    assert kill_while_packing(tmp_path, complete, 50) > 10


@needs_fork
@pytest.mark.covers("R214")
def test_death_at_every_step_of_writing(tmp_path):
    """A child dies right before its n-th flush or rename, for every n until one gets through."""
    build(tmp_path / "complete", unit_bytes=7000)
    complete = contents(tmp_path / "complete")
    assert len(complete) >= 4
    for deadly in range(200):
        target = tmp_path / str(deadly)

        def build_and_die(target: Path = target, deadly: int = deadly) -> None:
            calls = 0

            def dying(original: Callable) -> Callable:
                def call(*arguments: object) -> object:
                    nonlocal calls
                    if calls == deadly:
                        os._exit(9)
                    calls += 1
                    return original(*arguments)

                return call

            os.fsync, os.replace = dying(os.fsync), dying(os.replace)
            build(target, unit_bytes=7000)

        _, status = os.waitpid(in_child(build_and_die), 0)
        finished = assert_nothing_half_written(target, complete)
        build(target, unit_bytes=7000)
        assert contents(target) == complete
        if status == 0:
            assert finished
            assert deadly >= 3 * len(complete)  # flush, rename and flush of the folder, for every file
            return
    pytest.fail("packing never got through")


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x04
    path.write_bytes(content)


@pytest.mark.covers("R215")
@pytest.mark.parametrize("region", ["magic", "header", "metadata", "block table", "checksum"])
def test_a_flipped_byte_in_front_of_the_blocks_is_found_when_the_cache_is_opened(cache_dir, region):
    path = chunk_files(cache_dir)[1]
    reader = ChunkReader(path)
    first_block = int(reader._table["offset"][0])
    position = {
        "magic": 2,
        "header": 40,
        "metadata": path.read_bytes().index(b'"seq_len"'),
        "block table": first_block - 20,
        "checksum": first_block - 1,
    }[region]
    flip(path, position)
    with pytest.raises(CorruptionError, match=r"chunk-00001-[0-9a-f]{8}\.tok"):
        TokenCache.open(cache_dir)


@pytest.mark.covers("R215")
@pytest.mark.parametrize("codec", ["lz4", "none"])
@pytest.mark.parametrize("region", ["piece lengths", "tokens"])
def test_a_flipped_byte_in_a_block_is_found_when_it_is_read(tmp_path, codec, region):
    build(tmp_path, codec=codec)
    path = chunk_files(tmp_path)[1]
    first, stored = (int(ChunkReader(path)._table[name][0]) for name in ("offset", "stored"))
    flip(path, first + 2 if region == "piece lengths" else first + stored - 1)
    cache = TokenCache.open(tmp_path)
    untouched = cache.manifest.chunks[0].sequences
    cache.read(range(untouched))
    with pytest.raises(
        CorruptionError, match=r"chunk-00001-[0-9a-f]{8}\.tok: block 0 of \d+ is damaged.*\n.*--mode inverse"
    ):
        cache.read([untouched])
    with pytest.raises(CorruptionError, match=r"chunk-00001-[0-9a-f]{8}\.tok: block 0"):
        cache.verify()


@pytest.mark.covers("R215")
@pytest.mark.parametrize("first", range(3))
def test_a_flipped_byte_anywhere_in_the_manifest_is_found(cache_dir, complete, first):
    for position in range(first, len(complete["manifest.json"]), 17):
        flip(cache_dir / "manifest.json", position)
        with pytest.raises(DataError, match=r"manifest\.json.*\n.*data pack"):
            TokenCache.open(cache_dir)
        (cache_dir / "manifest.json").write_bytes(complete["manifest.json"])


@pytest.mark.parametrize("damage", ["truncated", "missing", "empty", "flipped in a block", "flipped in the manifest"])
def test_packing_again_repairs_a_damaged_cache_to_the_last_byte(cache_dir, complete, damage):
    path = chunk_files(cache_dir)[2]
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "flipped in a block":
        flip(path, -1)
        # Opening reads no block, so only who asks for it learns of this damage, and is told what to do.
        with pytest.raises(CorruptionError, match=r"chunk-00002-[0-9a-f]{8}\.tok.*\n.*--mode inverse"):
            TokenCache.open(cache_dir).verify()
    else:
        flip(cache_dir / "manifest.json", 100)
    if damage != "flipped in a block":
        with pytest.raises(
            CorruptionError, match=r"manifest\.json" if "manifest" in damage else r"chunk-00002-[0-9a-f]{8}\.tok"
        ):
            TokenCache.open(cache_dir)
    build(cache_dir, mode="inverse" if damage == "flipped in a block" else "normal")
    assert contents(cache_dir) == complete


@pytest.mark.covers("R214")
@pytest.mark.parametrize("full_from", [0, 1, 4, 20])
def test_a_full_disk_is_one_clear_message_and_packing_goes_on_when_there_is_space(
    tmp_path, complete, monkeypatch, full_from
):
    calls = 0
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > full_from:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(
        UserError, match=r"the disk is full: could not write .*(chunk-\d+-[0-9a-f]{8}\.tok|(plan|manifest)\.json)"
    ):
        build(tmp_path)
    assert not list(tmp_path.glob(".*"))
    assert not assert_nothing_half_written(tmp_path, complete)
    monkeypatch.setattr(os, "fsync", flush)
    build(tmp_path)
    assert contents(tmp_path) == complete


def test_a_folder_that_may_not_be_written_is_one_clear_message(tmp_path, monkeypatch):
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(UserError, match=r"no permission to write .*plan\.json"):
        build(tmp_path)
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"no permission to write .*new"):
        build(tmp_path / "new")


def test_a_file_in_the_place_of_the_folder_is_one_clear_message(tmp_path):
    (tmp_path / "cache").write_text("not a folder")
    with pytest.raises(UserError, match="cannot write"):
        build(tmp_path / "cache")
    with pytest.raises(DataError, match="there is no cache at"):
        TokenCache.open(tmp_path / "cache")


def test_a_complete_cache_is_used_where_nothing_may_be_written(cache_dir, monkeypatch):
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    assert build(cache_dir).fingerprint == Manifest.read(cache_dir).fingerprint


def test_a_tokenizer_that_fails_leaves_no_manifest_and_its_error_is_seen(tmp_path):
    class Failing(ByteTokenizer):
        calls = 0

        def encode_batch(self, texts: list[str]) -> list[list[int]]:
            raise ValueError("cannot encode this")

    with pytest.raises(ValueError, match="cannot encode this"):
        build(tmp_path, Failing(), workers=2)
    assert set(contents(tmp_path)) == {"plan.json"}


def test_a_source_that_fails_half_way_keeps_the_chunks_that_were_done(tmp_path, complete, monkeypatch):
    monkeypatch.setattr("llm_trainer.data.encoding.BATCH_DOCUMENTS", 10)

    def failing() -> object:
        yield from texts()[:200]
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        build_cache(failing(), ByteTokenizer(), tmp_path, seq_len=64, unit_bytes=2000, source_fingerprint="texts")
    assert len(chunk_files(tmp_path)) > 3
    assert not assert_nothing_half_written(tmp_path, complete)
    build(tmp_path)
    assert contents(tmp_path) == complete
