"""Background threads: results in order, errors at the consumer, and never a thread left behind."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import traceback

import pytest

from llm_trainer.data import ThreadedDataLoader


def workers_alive() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("llm-trainer-data")]


def uneven_square(number: int) -> int:
    time.sleep(0.003 if number % 3 == 0 else 0)
    return number * number


@pytest.mark.covers("R232", "R051")
@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_results_come_in_order(workers):
    loader = ThreadedDataLoader(uneven_square, range(40), num_workers=workers, prefetch=7)
    assert list(loader) == [number * number for number in range(40)]
    assert workers_alive() == []


@pytest.mark.covers("R051")
def test_work_is_shared_by_the_number_of_threads_asked_for():
    together = threading.Barrier(3, timeout=20)
    loader = ThreadedDataLoader(lambda _: together.wait() is None, range(3), num_workers=3, prefetch=3)
    assert list(loader) == [False] * 3


@pytest.mark.covers("R232")
def test_the_queue_is_bounded():
    done: list[int] = []
    loader = ThreadedDataLoader(done.append, range(1000), num_workers=2, prefetch=5)
    results = iter(loader)
    for _ in range(3):
        next(results)
    time.sleep(0.05)
    assert len(done) <= 3 + 5
    loader.stop()


@pytest.mark.covers("R232")
@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_reaches_the_consumer_in_its_place_with_the_traceback_of_the_work(workers):
    def fail_at_three(number: int) -> int:
        if number == 3:
            raise ValueError("three is broken")
        return number

    results = iter(ThreadedDataLoader(fail_at_three, range(10), num_workers=workers))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three is broken") as error:
        next(results)
    assert any(frame.name == "fail_at_three" for frame in traceback.extract_tb(error.value.__traceback__))
    assert workers_alive() == []


@pytest.mark.covers("R232")
def test_stopping_joins_the_threads_and_ends_iteration():
    loader = ThreadedDataLoader(uneven_square, iter(int, 1), num_workers=2)
    results = iter(loader)
    next(results)
    assert workers_alive()
    loader.stop()
    assert workers_alive() == []
    assert list(results) == []
    loader.stop()


@pytest.mark.covers("R232")
def test_an_abandoned_iterator_leaves_no_thread_behind():
    results = iter(ThreadedDataLoader(uneven_square, iter(int, 1), num_workers=2))
    next(results)
    assert workers_alive()
    del results
    gc.collect()
    assert workers_alive() == []


def test_an_error_in_the_consumer_ends_the_threads():
    loader = ThreadedDataLoader(uneven_square, iter(int, 1), num_workers=2)
    with pytest.raises(RuntimeError, match="of the consumer"), loader:
        for _ in loader:
            raise RuntimeError("of the consumer")
    assert workers_alive() == []


@pytest.mark.covers("R232")
@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_ctrl_c_while_waiting_does_not_hang():
    release = threading.Event()
    timer = threading.Timer(0.1, lambda: (os.kill(os.getpid(), signal.SIGINT), release.set()))
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(ThreadedDataLoader(lambda _: release.wait(20), range(8), num_workers=2))
    assert time.monotonic() - start < 10
    assert workers_alive() == []
