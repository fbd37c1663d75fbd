"""Whether a run is alive. A dead run must never look alive, so the file alone is not believed.

The process that trains rewrites ``status.json`` every few seconds. A reader calls the run *running* only if that
heartbeat is fresh and, where it can look (same boot of the same machine, same process namespace), the process exists
and is the one that wrote it, not a later one with the same number. Everything else that says "running" has *died*.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from llm_trainer.common.errors import TrainingError, UserError
from llm_trainer.common.files import read_json, write_json
from llm_trainer.common.hashing import fingerprint

STATUS_FILE = "status.json"
HEARTBEAT_SECONDS = 5.0
# Six missed beats: a laptop under load may be late, a dead process is found soon enough.
FRESH_SECONDS = 30.0
END_STATES = ("finished", "interrupted", "failed")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StatusView:
    """The state of a run as a person should see it.

    Attributes:
        state: ``running``, ``finished``, ``interrupted``, ``failed``, ``died`` (it said running, but nothing runs), or
            ``unknown`` (no status was ever written, or it cannot be read).
        step: steps done when the status was written.
        time: unix seconds of the last sign of life.
        started: unix seconds of the start of the process that trained last.
        message: why it ended, if it said so.
        pid: the process.
    """

    state: str
    step: int | None = None
    time: float | None = None
    started: float | None = None
    message: str = ""
    pid: int | None = None


class RunStatus:
    """Writes ``run_dir/status.json`` while a run goes on. Set :attr:`step` freely; the next heartbeat writes it.

    Args:
        run_dir: the run's folder.
        interval: seconds between heartbeats.
    """

    def __init__(self, run_dir: str | Path, *, interval: float = HEARTBEAT_SECONDS) -> None:
        self.run_dir = Path(run_dir)
        self.step = 0
        self._interval = interval
        self._started = time.time()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._identity: dict[str, Any] = {}

    def start(self) -> None:
        """Write the first status and begin the heartbeat.

        Raises:
            TrainingError: another living process trains in this folder.
            UserError: the folder cannot be written.
        """
        other = read_status(self.run_dir)
        if other.state == "running" and other.pid != os.getpid():
            raise TrainingError(
                f"{self.run_dir} is being trained by process {other.pid} right now",
                hint="stop that process, or choose another --output_dir",
            )
        self._identity = {
            "pid": os.getpid(),
            "process_started": psutil.Process().create_time(),
            "token": _machine_token(),
        }
        self._write("running", "")
        self._thread = threading.Thread(target=self._beat, name="run-status-heartbeat", daemon=True)
        self._thread.start()

    def finish(self, state: str, message: str = "") -> None:
        """End the heartbeat and write how the run ended. Does nothing if :meth:`start` did not succeed.

        Args:
            state: ``finished``, ``interrupted`` or ``failed``.
            message: why, in words.
        """
        if state not in END_STATES:
            raise ValueError(f"state must be one of {END_STATES}, got {state!r}")
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        self._write(state, message)

    def _beat(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                self._write("running", "")
            except (UserError, OSError) as error:
                # A full disk stops the trainer where it saves, with its own message; here the next beat may succeed.
                _log.warning("could not write %s: %s", STATUS_FILE, error)

    def _write(self, state: str, message: str) -> None:
        status = {
            "state": state,
            "step": self.step,
            "time": time.time(),
            "started": self._started,
            "message": message,
            **self._identity,
        }
        write_json(self.run_dir / STATUS_FILE, status)


def read_status(run_dir: str | Path, *, now: Callable[[], float] = time.time) -> StatusView:
    """The state of a run, judged and not only read; see :class:`StatusView`.

    Args:
        run_dir: the run's folder.
        now: the clock, for tests.
    """
    try:
        saved = read_json(Path(run_dir) / STATUS_FILE)
        state, beat = str(saved["state"]), float(saved["time"])
    except (UserError, KeyError, TypeError, ValueError):
        return StatusView("unknown")
    if state == "running":
        state = "running" if _is_alive(saved, age=now() - beat) else "died"
    elif state not in END_STATES:
        state = "unknown"
    return StatusView(
        state=state,
        step=saved.get("step"),
        time=beat,
        started=saved.get("started"),
        message=str(saved.get("message", "")),
        pid=saved.get("pid"),
    )


def _is_alive(saved: dict[str, Any], *, age: float) -> bool:
    # abs: a clock that was set back must not keep a dead run alive for as long as it was set back.
    if abs(age) > FRESH_SECONDS:
        return False
    if saved.get("token") != _machine_token():
        # Another machine on a shared disk, or another container: its processes cannot be seen from here, and its
        # heartbeat is the only witness. A machine that has just rebooted is cleared by the age above within seconds.
        return True
    try:
        process = psutil.Process(int(saved["pid"]))
        same = abs(process.create_time() - float(saved["process_started"])) < 1.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, KeyError, TypeError, ValueError):
        return False


def _machine_token() -> str:
    """Names this boot of this machine and this process namespace without saying anything about the machine."""
    namespace = ""
    with contextlib.suppress(OSError):  # only Linux has process namespaces
        namespace = Path("/proc/self/ns/pid").readlink().name
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = str(round(psutil.boot_time(), -1))
    return fingerprint([boot, namespace])
