"""Work done ahead on background threads, with results in order.

Threads, not processes: reading, decompression, hashing, tokenizing and NumPy copies release the interpreter lock, and
threads share the decompressed blocks, need no pickling and cannot outlive the program.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class ThreadedDataLoader(Generic[Item, Result]):
    """Map ``work`` over ``items`` on threads and iterate over the results in the order of the items.

    At most ``prefetch`` results are finished or under way at any moment, so memory is bounded however slow the
    consumer is. An exception in ``work`` is raised to the consumer at its place in the order, with the thread's
    traceback. Calling :meth:`stop`, leaving a ``with`` block, an error or Ctrl-C in the consumer, and dropping the
    iterator all end the threads after the items that they are working on.

    Args:
        work: called with one item; from several threads at once if ``num_workers`` is above 1.
        items: consumed in the consumer's thread, a few ahead.
        num_workers: threads; 0 works in the consumer's thread, on demand.
        prefetch: the most results to work ahead, at least 1.
    """

    def __init__(
        self, work: Callable[[Item], Result], items: Iterable[Item], *, num_workers: int = 1, prefetch: int = 4
    ) -> None:
        self._work = work
        self._items = items
        self._num_workers = num_workers
        self._prefetch = max(1, prefetch)
        self._pool: ThreadPoolExecutor | None = None
        self._stopped = threading.Event()

    def __iter__(self) -> Iterator[Result]:
        if self._num_workers < 1:
            return map(self._work, self._items)
        self.stop()
        self._stopped.clear()
        self._pool = ThreadPoolExecutor(self._num_workers, thread_name_prefix="llm-trainer-data")
        return self._results(self._pool)

    def stop(self) -> None:
        """End the threads and wait for them. Results that were not taken are dropped, and iteration ends."""
        self._stopped.set()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _results(self, pool: ThreadPoolExecutor) -> Iterator[Result]:
        items = iter(self._items)
        queue: deque[Future[Result]] = deque()
        try:
            while not self._stopped.is_set():
                queue.extend(pool.submit(self._work, item) for item in islice(items, self._prefetch - len(queue)))
                if not queue:
                    return
                yield queue.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> ThreadedDataLoader[Item, Result]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
