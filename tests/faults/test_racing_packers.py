"""Several packers at one cache, killed, stopped and confused: the same bytes, nothing twice, and nobody hangs."""

from __future__ import annotations

import errno
import json
import os
import platform
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llm_trainer.common.errors import DataError, UserError
from llm_trainer.common.leases import (
    STALE_SECONDS,
    is_held,
    lease,
    lease_path,
    others_at_work,
    packer_at_work,
)
from llm_trainer.data import TokenCache, build_cache
from llm_trainer.data import build as building
from llm_trainer.data.chunk import ChunkReader
from llm_trainer.data.leftovers import remove_leftovers
from llm_trainer.data.manifest import MANIFEST, chunk_files
from llm_trainer.data.plan import PLAN, Plan
from tests.byte_tokenizer import ByteTokenizer
from tests.faults.test_cache_faults import contents, flip, in_child, texts

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


class Slow(ByteTokenizer):
    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        time.sleep(0.003)
        return super().encode_batch(texts)


def build(folder: Path, documents=None, tokenizer: ByteTokenizer | None = None, **options) -> TokenCache:
    options = {"seq_len": 64, "unit_bytes": 1000, "source_fingerprint": "texts", **options}
    return build_cache(documents or texts(), tokenizer or ByteTokenizer(), folder, **options)


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("complete")
    build(folder)
    return contents(folder)


def wait_for(children: list[int]) -> list[int]:
    """The exit statuses; a process that hangs fails the test instead of hanging it."""
    statuses, deadline = [], time.monotonic() + 30
    for child in children:
        while (answer := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                pytest.fail("a packer hangs")
            time.sleep(0.01)
        statuses.append(answer[1])
    return statuses


def kill_one_of_several(folder: Path, complete: dict[str, bytes], times: int, packers: int) -> int:
    """Some packers of different kinds at once; kill one at a random moment. Returns how many were under way."""
    generator = random.Random(times)
    under_way = 0
    started = time.monotonic()
    wait_for([in_child(lambda: build(folder / "timing", texts(), Slow())) for _ in range(packers)])
    duration = time.monotonic() - started
    for trial in range(times):
        target = folder / str(trial)
        if trial % 3 == 2:  # a damaged cache, repaired in inverse mode
            target.mkdir()
            for name, content in complete.items():
                (target / name).write_bytes(content)
            for path in generator.sample(chunk_files(target), 8):
                path.unlink() if generator.random() < 0.5 else flip(path, -1)
        mode = "inverse" if trial % 3 == 2 else "normal"

        def packer(number: int, target: Path = target, trial: int = trial, mode: str = mode) -> None:
            streamed = trial % 3 == 1 or (trial % 3 == 0 and number % 2 == 1)
            documents = (text for text in texts()) if streamed else texts()
            build(target, documents, Slow(), mode=mode)

        children = [in_child(lambda number=number: packer(number)) for number in range(packers)]
        time.sleep(generator.uniform(0, 0.8 * duration))
        victim = children.pop(generator.randrange(packers))
        os.kill(victim, signal.SIGKILL)
        _, status = os.waitpid(victim, 0)
        under_way += os.WIFSIGNALED(status)
        wait_for(children)  # one that streams may say that the dead one took a chunk with it; nobody may hang
        for path in target.glob("[!.]*"):
            if mode == "normal":
                assert path.read_bytes() == complete[path.name], f"{path.name} is not what it must be"
        build(target, mode="inverse" if target.exists() and (target / PLAN).exists() else "normal")
        assert contents(target) == complete
    return under_way


@needs_fork
@pytest.mark.covers("R214", "R218")
def test_ten_kills_among_racing_packers(tmp_path, complete):
    assert kill_one_of_several(tmp_path, complete, 10, packers=2) > 3


@needs_fork
@pytest.mark.slow
@pytest.mark.covers("R214", "R218")
def test_fifty_kills_among_racing_packers(tmp_path, complete):
    assert kill_one_of_several(tmp_path, complete, 50, packers=3) > 15


@needs_fork
@pytest.mark.covers("R218")
def test_streams_share_the_work_and_wait_for_each_other(tmp_path, complete):
    """A text that can be read once only: what another process is making must not be taken for a changed text."""
    children = [
        in_child(lambda: _exit_well(lambda: build(tmp_path / "cache", (text for text in texts()), Slow())))
        for _ in range(3)
    ]
    assert wait_for(children) == [0, 0, 0]
    assert contents(tmp_path / "cache") == complete


def _exit_well(work: Callable[[], object]) -> None:
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


@needs_fork
def test_a_stream_says_what_a_dead_packer_took_with_it(tmp_path, complete, monkeypatch):
    """The other process dies with the lease of chunk 3 in its hand after we have passed it."""
    monkeypatch.setattr(building, "POLL_SECONDS", 0.01)
    path = tmp_path / next(name for name in complete if name.startswith("chunk-00003"))
    reached = threading.Event()

    def documents() -> Iterator[str]:
        for number, text in enumerate(texts()):
            if number == 200:
                reached.set()
            yield text

    def hold() -> None:
        with packer_at_work(tmp_path), lease(path):
            time.sleep(60)

    child = in_child(hold)
    while not is_held(lease_path(path)):
        time.sleep(0.01)
    killer = threading.Thread(target=lambda: (reached.wait(), os.kill(child, signal.SIGKILL), os.waitpid(child, 0)))
    killer.start()
    with pytest.raises(DataError, match=r"read once only.*took chunk 3 \(documents .*\n.*same command again"):
        build(tmp_path, documents())
    killer.join()
    build(tmp_path, (text for text in texts()))
    assert contents(tmp_path) == complete


@needs_fork
def test_two_streams_that_lack_the_same_chunk_do_not_wait_for_each_other(tmp_path, complete, monkeypatch):
    """Each is at work, and each thinks that the other will make what a third took with it."""
    monkeypatch.setattr(building, "POLL_SECONDS", 0.01)
    path = tmp_path / next(name for name in complete if name.startswith("chunk-00003"))
    others = in_child(lambda: _hold_and_die(path))
    while not is_held(lease_path(path)):
        time.sleep(0.01)

    def stream() -> None:
        def documents() -> Iterator[str]:
            for number, text in enumerate(texts()):
                if number == 250:
                    time.sleep(0.3)  # the third is dead by now
                yield text

        try:
            build(tmp_path, documents())
        except DataError as error:
            os._exit(7 if "took chunk 3" in str(error) else 8)
        os._exit(9)

    statuses = wait_for([in_child(stream), in_child(stream), others])
    assert [os.waitstatus_to_exitcode(status) for status in statuses] == [7, 7, 0]


def _hold_and_die(path: Path) -> None:
    with packer_at_work(path.parent), lease(path):
        time.sleep(0.25)
        os._exit(0)


@needs_fork
def test_planning_is_done_once(tmp_path, complete, monkeypatch):
    """The second packer waits for the plan of the first, and does not read all the text for one of its own."""
    monkeypatch.setattr(building, "POLL_SECONDS", 0.01)
    planned = []
    make_plan = building.make_plan

    def make_slowly(*arguments: object) -> Plan:
        planned.append(arguments)
        time.sleep(0.1)
        return make_plan(*arguments)

    monkeypatch.setattr(building, "make_plan", make_slowly)
    threads = [threading.Thread(target=build, args=(tmp_path,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents(tmp_path) == complete
    assert len(planned) == 1, "both planned"


class TestLeases:
    @pytest.mark.parametrize(
        "content", [b"", b"garbage", b"null", b"[1]", b'{"host": 3}', b"\xff\xfe", b'{"pid": "x"}']
    )
    def test_one_that_cannot_be_read_holds_for_a_minute_at_most(self, tmp_path, content):
        file = tmp_path / "chunk-00000-01234567.tok"
        path = lease_path(file)
        path.write_bytes(content)
        assert is_held(path)
        with lease(file) as mine:
            assert not mine
        for age in (STALE_SECONDS + 5, -STALE_SECONDS - 5):  # of the past, or of a clock that was set back
            path.write_bytes(content)
            os.utime(path, (time.time() - age,) * 2)
            assert not is_held(path)
            with lease(file) as mine:
                assert mine
            assert not path.exists()

    def test_of_a_process_with_a_used_number_is_void_in_a_minute(self, tmp_path):
        """The number of a dead process may be that of another one by now: only time tells."""
        file = tmp_path / "chunk-00000-01234567.tok"
        lease_path(file).write_text(json.dumps({"host": platform.node(), "pid": os.getpid()}))
        assert is_held(lease_path(file))
        os.utime(lease_path(file), (0, 0))
        with lease(file) as mine:
            assert mine

    def test_it_is_renewed_for_as_long_as_the_work_takes(self, tmp_path, monkeypatch):
        monkeypatch.setattr("llm_trainer.common.leases.RENEW_SECONDS", 0.01)
        file = tmp_path / "chunk-00000-01234567.tok"
        with lease(file) as mine:
            assert mine
            os.utime(lease_path(file), (0, 0))
            deadline = time.monotonic() + 5
            while not is_held(lease_path(file)):
                assert time.monotonic() < deadline, "the lease was not renewed"
                time.sleep(0.01)

    def test_a_process_that_was_stopped_for_long_leaves_the_lease_of_the_next_one_alone(self, tmp_path):
        file = tmp_path / "chunk-00000-01234567.tok"
        with lease(file) as outer:
            os.utime(lease_path(file), (0, 0))  # stopped
            taken = lease(file)
            assert outer
            assert taken.__enter__()
        assert lease_path(file).exists(), "the lease of another was deleted"
        taken.__exit__(None, None, None)
        assert not lease_path(file).exists()

    def test_two_that_find_no_lease_at_the_same_time_do_not_both_get_it(self, tmp_path):
        """Looking, clearing away and taking are three things; between them another process may take it."""
        file = tmp_path / "chunk-00000-01234567.tok"
        gate, got = threading.Barrier(8), []

        def take() -> None:
            gate.wait()
            with lease(file) as mine:
                got.append(mine)
                time.sleep(0.02)

        for _ in range(20):
            got.clear()
            threads = [threading.Thread(target=take) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sum(got) == 1

    def test_a_full_disk_is_one_clear_message(self, tmp_path, monkeypatch):
        def full(*arguments: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(UserError, match="the disk is full"), lease(tmp_path / "chunk-00000-01234567.tok"):
            pytest.fail("there is no lease")
        assert not list(tmp_path.iterdir())

    @needs_fork
    def test_a_packer_is_seen_whatever_it_does_and_by_others_only(self, tmp_path):
        folder = tmp_path / "cache"
        with packer_at_work(folder):
            assert not others_at_work(folder)
            status = wait_for([in_child(lambda: os._exit(7 if others_at_work(folder) else 0))])
            assert os.waitstatus_to_exitcode(status[0]) == 7
        assert not list(folder.iterdir())


@needs_fork
def test_a_packer_that_was_stopped_for_minutes_finds_its_chunk_made_and_goes_on(tmp_path, complete):
    """It holds a half-written file when it is stopped; the next packer clears that away and makes the chunk."""
    replace = os.replace
    stopped = []

    def stop_once(source: str | Path, target: str | Path) -> None:
        if "chunk-00004" in str(target) and not stopped:
            stopped.append(target)
            for path in tmp_path.glob(".*.lease"):
                os.utime(path, (0, 0))
            child = in_child(lambda: build(tmp_path))
            assert wait_for([child]) == [0]
            assert chunk_files(tmp_path)
        replace(source, target)

    os.replace = stop_once
    try:
        build(tmp_path)
    finally:
        os.replace = replace
    assert stopped
    assert contents(tmp_path) == complete


@needs_fork
def test_what_another_is_writing_is_not_a_leftover(tmp_path):
    """Half-written files are cleared away only where nobody writes them."""
    file = tmp_path / "chunk-00000-01234567.tok"
    half = tmp_path / f".{file.name}.abc123.tmp"
    with lease(file):
        half.write_bytes(b"half")
        wait_for([in_child(lambda: remove_leftovers(tmp_path))])
        assert half.exists()
    remove_leftovers(tmp_path)
    assert not half.exists()


class TestContradictions:
    def restore(self, folder: Path, complete: dict[str, bytes]) -> None:
        for name, content in complete.items():
            (folder / name).write_bytes(content)

    @pytest.mark.covers("R215")
    def test_a_manifest_of_fewer_chunks_than_planned_is_not_a_complete_cache(self, tmp_path, complete):
        """Older than the folder: it is whole, its chunks are whole, and yet half of the text is missing."""
        self.restore(tmp_path, complete)
        manifest = TokenCache.open(tmp_path).manifest
        type(manifest)(manifest.origin, manifest.chunks[:5]).write(tmp_path)
        with pytest.raises(DataError, match=r"manifest\.json names 5 chunks.*\n.*data pack"):
            TokenCache.open(tmp_path)
        build(tmp_path)
        assert contents(tmp_path) == complete

    def test_a_plan_of_other_ranges_than_the_chunks_is_noticed(self, tmp_path, complete):
        self.restore(tmp_path, complete)
        plan = Plan.read(tmp_path)
        (tmp_path / MANIFEST).unlink()
        Plan.of_ranges(plan.origin, [(u.documents, u.text_bytes + 1) for u in plan.units]).write(tmp_path)
        with pytest.raises(DataError, match=r"chunks of other documents.*\n.*--force-rebuild"):
            build(tmp_path)

    def test_a_link_to_a_chunk_is_as_good_as_the_chunk_and_a_dead_one_is_a_gap(self, tmp_path, complete):
        self.restore(tmp_path, complete)
        first, second = chunk_files(tmp_path)[:2]
        elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
        elsewhere.mkdir()
        first.rename(elsewhere / first.name)
        first.symlink_to(elsewhere / first.name)
        assert build(tmp_path).fingerprint == TokenCache.open(tmp_path).fingerprint
        second.unlink()
        second.symlink_to(elsewhere / "nothing")
        build(tmp_path, mode="inverse")
        assert contents(tmp_path) == complete

    @pytest.mark.covers("R209")
    def test_a_cache_that_is_rebuilt_under_a_reader_stays_readable(self, tmp_path, complete):
        self.restore(tmp_path, complete)
        cache = TokenCache.open(tmp_path)
        before = [sequence.tokens.tolist() for sequence in TokenCache.open(tmp_path).read(range(len(cache)))]
        build(tmp_path, force_rebuild=True)
        assert [sequence.tokens.tolist() for sequence in cache.read(range(len(cache)))] == before

    @pytest.mark.covers("R215")
    @needs_fork
    def test_a_chunk_that_is_cut_short_under_a_reader_is_named_and_kills_nobody(self, tmp_path, complete):
        """Reading a mapped page beyond the end of a file is a bus error, which no program survives."""
        generator = random.Random(0)
        documents = ["".join(generator.choices("abcdefgh", k=2000)) for _ in range(300)]
        build(tmp_path, documents, unit_bytes=1 << 20, codec="none")

        def read() -> None:
            (path,) = chunk_files(tmp_path)
            reader = ChunkReader(path)
            os.truncate(path, 8192)
            try:
                reader.block(reader.blocks - 1)
            except DataError as error:
                os._exit(7 if "truncated" in str(error) and path.name in str(error) else 8)

        status = wait_for([in_child(read)])[0]
        assert os.waitstatus_to_exitcode(status) == 7


@pytest.mark.parametrize(
    ("documents", "unit_bytes"),
    [(["x" * 300_000], 1000), (["x"] * 50, 1), (list("abcdefgh") * 40, 7), (["", "a", "", ""], 100)],
    ids=["one huge document", "units of a byte", "documents of one token", "nearly nothing"],
)
def test_odd_sizes_keep_every_token_and_are_read_in_any_order(tmp_path, documents, unit_bytes):
    cache = build(tmp_path, documents, unit_bytes=unit_bytes)
    totals = cache.manifest.totals()
    assert totals["tokens"] == totals["tokens_in"] == sum(len(text.encode()) + 2 for text in documents if text)
    assert totals["documents"] == sum(1 for text in documents if text)
    order = random.Random(0).sample(range(len(cache)), len(cache))
    assert sum(len(sequence.tokens) for sequence in cache.read(order)) == totals["tokens"]
    before = contents(tmp_path)
    chunk_files(tmp_path)[-1].unlink()
    build(tmp_path, documents, unit_bytes=unit_bytes, mode="inverse")
    assert contents(tmp_path) == before
