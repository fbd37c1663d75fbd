"""Who does the work: this process, a pool of processes, or a Ray cluster. An engine knows nothing but tasks.

A task is a pure function of the files that it names, and writes its result whole or not at all. So an engine may run it
anywhere, in any order, and again after a crash; the result is the same, byte for byte.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, TypeVar

from llm_trainer.common.devices import available_cores
from llm_trainer.common.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")
ENGINES = ("process", "serial", "ray")


class Engine(Protocol):
    """Something that runs tasks."""

    def map(self, work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """The result of every task, as they are finished.

        Args:
            work: a function of a module, so that other processes can find it.
            tasks: plain data.
        """
        ...


class SerialEngine:
    """Everything in this process, one after the other."""

    def map(self, work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """The results in order."""
        return map(work, tasks)


class ProcessEngine:
    """A pool of processes of this machine.

    Processes are started afresh (``spawn``): a copy of a process with running threads may hang.

    Args:
        workers: how many.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def map(self, work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """The results as they come; few tasks wait in the pool, so that an interruption ends soon.

        Raises:
            UserError: a process died twice in the same task, usually for want of memory.
        """
        if len(tasks) <= 1 or self._workers == 1:
            yield from map(work, tasks)
            return
        left = dict(enumerate(tasks))
        died: set[int] = set()
        while left:
            try:
                for number, result in self._map_once(work, left):
                    del left[number]
                    yield result
            except BrokenProcessPool:
                # Nobody knows which of the tasks under way it was, so what is left is tried once more.
                if died and not set(left) < died:
                    raise UserError(
                        f"a worker process died, and died again when its work was repeated; {len(left)} work units "
                        "are left",
                        hint="usually the memory was used up: give fewer --workers, or a smaller unit_mb; what is "
                        "finished is kept",
                    ) from None
                died = set(left)

    def _map_once(self, work: Callable[[Any], Result], left: dict[int, Any]) -> Iterator[tuple[int, Result]]:
        context = multiprocessing.get_context("spawn")
        others = set(multiprocessing.active_children())
        pool = ProcessPoolExecutor(min(self._workers, len(left)), mp_context=context, initializer=_end_with_parent)
        running: dict[Future[Result], int] = {}
        waiting = iter(list(left.items()))
        try:
            while True:
                while len(running) < self._workers + 1 and (item := next(waiting, None)) is not None:
                    with _interrupts_held_back():
                        running[pool.submit(work, item[1])] = item[0]
                if not running:
                    break
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield running.pop(future), future.result()
        except BaseException:
            # Nobody waits for the units under way: an interruption should end now, and they are made again.
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """In a worker: end when the process that started it is gone. One that was killed cannot say so, and its workers
    would wait for work for ever, with all their memory."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Hold Ctrl-C back for a block in which processes are started. They inherit that for good, so that the terminal's
    signal, which goes to all of them, is answered once and by the parent, which then ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def make_engine(name: str, workers: int | None) -> Engine:
    """The engine of that name.

    Args:
        name: ``process``, ``serial`` or ``ray``.
        workers: processes; None takes one for each core (Ray: as many as the cluster has).

    Raises:
        UserError: there is no such engine, or Ray is not installed or does not answer.
    """
    if workers is not None and workers < 1:
        raise UserError(f"expected at least one worker, not {workers}")
    if name == "serial":
        return SerialEngine()
    if name == "process":
        return ProcessEngine(workers or available_cores())
    if name == "ray":
        from llm_trainer.corpus.pipeline.ray_engine import RayEngine

        return RayEngine(workers)
    raise UserError(f"there is no engine {name!r}", hint=f"use one of {', '.join(ENGINES)}")
