"""What all tests share: one thread, no network, no surprises from the environment, and the table of requirements."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Nothing is read from, or left in, the cache folder of the person who runs the tests.
os.environ["LLM_TRAINER_CACHE"] = ""

import pytest

# A shell without job control starts background jobs with Ctrl-C ignored, and they pass that on. Some tests press it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REQUIREMENTS = Path(__file__).parent / "requirements.csv"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--requirements", action="store_true", help="print which requirement rows the tests hold")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    known = {row["row"]: row for row in csv.DictReader(REQUIREMENTS.open(encoding="utf-8"))}
    held: dict[str, set[str]] = {}
    for item in items:
        for mark in item.iter_markers("covers"):
            for row in mark.args:
                if row not in known:
                    raise pytest.UsageError(f"{item.nodeid} covers {row}, which is not in {REQUIREMENTS.name}")
                held.setdefault(row, set()).add(item.nodeid.partition("[")[0])
    if config.getoption("--requirements"):
        _print_requirements(known, held)
        items.clear()


def _print_requirements(known: dict[str, dict[str, str]], held: dict[str, set[str]]) -> None:
    for row, entry in known.items():
        tests = sorted(held.get(row, ()))
        print(f"{row} {entry['area']:>2} {'held' if tests else '-':<5} {entry['requirement'][:90]}")
        for test in tests:
            print(f"{'':14}{test}")
    print(f"\n{len(held)} of {len(known)} rows are held by a test")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    # With --requirements nothing is run on purpose; that is not "no tests found".
    if session.config.getoption("--requirements") and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def shared_data() -> Path:
    """Real public text, where a machine has it."""
    folder = os.environ.get("LLM_TRAINER_SHARED_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("LLM_TRAINER_SHARED_DATA names no folder")
    return Path(folder)
