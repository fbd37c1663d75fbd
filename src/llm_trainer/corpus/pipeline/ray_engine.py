"""The tasks of a pipeline on a Ray cluster: the same pipeline file, more machines.

All machines must see the same folders under the same names: sources, and the folder of the corpus. Ray is given tasks
alone; documents travel through files, as with every other engine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from llm_trainer.common.errors import UserError
from llm_trainer.common.optional import require

Task = TypeVar("Task")
Result = TypeVar("Result")
PENDING_PER_WORKER = 2
"""More would only delay an interruption."""


class RayEngine:
    """Connects to the cluster of ``RAY_ADDRESS``, or starts one on this machine.

    Args:
        workers: tasks at a time; None takes as many as the cluster has cores.

    Raises:
        UserError: Ray is not installed, or the cluster does not answer.
    """

    def __init__(self, workers: int | None) -> None:
        self._ray: Any = require("ray", extra="ray", purpose="the engine 'ray'")
        if not self._ray.is_initialized():
            local = "RAY_ADDRESS" not in os.environ
            try:
                self._ray.init(
                    num_cpus=workers if local else None,
                    include_dashboard=False if local else None,
                    log_to_driver=False,
                    logging_level="error",
                )
            except (ConnectionError, RuntimeError, OSError, ValueError) as error:
                raise UserError(f"Ray cannot be reached: {error}", hint="check RAY_ADDRESS, or unset it") from None
        self._workers = workers or max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def map(self, work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """The results as they come. A task whose machine is lost is run again elsewhere, at most three times."""
        remote = self._ray.remote(num_cpus=1, max_retries=3)(_call)
        running: list[Any] = []
        waiting = iter(tasks)
        try:
            while True:
                while len(running) < self._workers * PENDING_PER_WORKER and (task := next(waiting, None)) is not None:
                    running.append(remote.remote(work, task))
                if not running:
                    return
                finished, running = self._ray.wait(running, num_returns=1)
                yield from self._results(finished)
        finally:
            for reference in running:
                self._ray.cancel(reference)

    def _results(self, finished: Sequence[Any]) -> Iterator[Any]:
        try:
            yield from self._ray.get(list(finished))
        except self._ray.exceptions.RayTaskError as error:
            # What a task raises for a person should reach the person, not Ray's account of it.
            raise error.cause if isinstance(error.cause, UserError) else error from None


def _call(work: Callable[[Any], Any], task: Any) -> Any:
    return work(task)
