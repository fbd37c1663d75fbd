"""Engines: the same result from each, errors that reach the person, workers that die."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from llm_trainer.common.errors import DataError, UserError
from llm_trainer.corpus.pipeline.engines import ProcessEngine, SerialEngine, make_engine


def square(number: int) -> int:
    return number * number


def fail(number: int) -> int:
    raise DataError(f"number {number} is bad", hint="take another")


def die_once(path: str) -> str:
    """Kills its process the first time that it is called with a path."""
    if not Path(path).exists():
        Path(path).write_text("died", encoding="utf-8")
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
    return path


def die(_: str) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


@pytest.mark.parametrize("engine", [SerialEngine(), ProcessEngine(2)])
def test_every_task_gives_one_result(engine: SerialEngine | ProcessEngine) -> None:
    assert sorted(engine.map(square, list(range(20)))) == [number * number for number in range(20)]


@pytest.mark.parametrize("engine", [SerialEngine(), ProcessEngine(2)])
def test_an_error_of_a_task_reaches_the_person_as_it_is(engine: SerialEngine | ProcessEngine) -> None:
    with pytest.raises(UserError, match=r"number \d is bad\n  -> take another"):
        list(engine.map(fail, [1, 2, 3]))


@pytest.mark.slow
def test_work_of_a_process_that_dies_is_repeated(tmp_path: Path) -> None:
    paths = [str(tmp_path / str(number)) for number in range(2)]
    assert sorted(ProcessEngine(2).map(die_once, paths)) == paths


def test_work_that_kills_its_process_again_is_an_error() -> None:
    with pytest.raises(UserError, match="died again when its work was repeated"):
        list(ProcessEngine(2).map(die, ["a", "b"]))


def test_unknown_engines_are_refused() -> None:
    with pytest.raises(UserError, match="process, serial, ray"):
        make_engine("dask", None)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_ray_cluster_builds_the_same_corpus(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    from llm_trainer.corpus.pipeline.ray_engine import RayEngine
    from tests.corpus.pipeline.test_build import build, pipeline
    from tests.corpus.pipeline.texts import corpus_bytes

    build(pipeline(tmp_path))
    try:
        engine = RayEngine(2)
        build(pipeline(tmp_path, output_dir=str(tmp_path / "ray")), engine)
        assert corpus_bytes(tmp_path / "ray") == corpus_bytes(tmp_path / "corpus")
        with pytest.raises(UserError, match=r"number \d is bad"):
            list(engine.map(fail, [1, 2]))
    finally:
        ray.shutdown()
