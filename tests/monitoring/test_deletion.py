"""Deleting: only what was named, only after a yes, never a running run, never through a link."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_trainer.common.errors import UserError
from llm_trainer.monitoring.deletion import delete_checkpoint, delete_run
from llm_trainer.monitoring.runs import list_checkpoints
from llm_trainer.monitoring.status import RunStatus
from tests.monitoring.folders import full_run, write_checkpoint


def yes(question: str) -> bool:
    return True


@pytest.mark.covers("R082", "R308")
def test_a_run_is_deleted_after_a_yes_only(tmp_path: Path) -> None:
    run = full_run(tmp_path / "a_run_1")
    other = full_run(tmp_path / "b_run_1")
    questions: list[str] = []
    assert delete_run(tmp_path, "a_run_1", confirm=lambda question: bool(questions.append(question))) == 0
    assert "a_run_1" in questions[0] and "1 checkpoint" in questions[0]
    assert run.exists()
    assert delete_run(tmp_path, "a_run_1", confirm=yes) > 1000
    assert not run.exists()
    assert other.exists()


@pytest.mark.parametrize("name", ["", ".", "..", "../outside", "inside/checkpoints", "/"])
def test_nothing_outside_the_root_is_deleted(tmp_path: Path, name: str) -> None:
    outside = full_run(tmp_path / "outside")
    root = tmp_path / "runs"
    inside = full_run(root / "inside")
    with pytest.raises(UserError):
        delete_run(root, name, confirm=yes)
    with pytest.raises(UserError):
        delete_run(root, str(outside), confirm=yes)
    assert (outside / "config.yaml").exists() and list_checkpoints(inside)


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = full_run(tmp_path / "outside")
    root = tmp_path / "runs"
    run = full_run(root / "a_run_1")
    (root / "link_run_1").symlink_to(outside)
    with pytest.raises(UserError, match="is a link"):
        delete_run(root, "link_run_1", confirm=yes)
    (run / "data").symlink_to(outside)
    (run / "checkpoints" / "step-000099").symlink_to(outside / "checkpoints" / "step-000060")
    with pytest.raises(UserError, match="is a link"):
        delete_checkpoint(run, 99, confirm=yes)
    delete_run(root, "a_run_1", confirm=yes)
    assert not run.exists()
    assert (outside / "config.yaml").exists() and list_checkpoints(outside)


@pytest.mark.covers("R082")
def test_a_running_run_is_refused(tmp_path: Path) -> None:
    run = full_run(tmp_path / "a_run_1")
    status = RunStatus(run)
    status.start()
    with pytest.raises(UserError, match="is running"):
        delete_run(tmp_path, "a_run_1", confirm=yes)
    with pytest.raises(UserError, match="is running"):
        delete_checkpoint(run, 60, confirm=yes)
    status.finish("finished")
    assert delete_checkpoint(run, 60, confirm=yes) > 0


@pytest.mark.covers("R308")
def test_a_checkpoint_is_deleted_and_the_last_one_is_named_as_such(tmp_path: Path) -> None:
    run = full_run(tmp_path / "a_run_1")
    write_checkpoint(run, 30, loss=3.0, time=5.0)
    questions: list[str] = []
    assert delete_checkpoint(run, 30, confirm=lambda question: not questions.append(question)) > 0
    assert [info.step for info in list_checkpoints(run)] == [60]
    delete_checkpoint(run, 60, confirm=lambda question: bool(questions.append(question)))
    assert "only one" not in questions[0] and "only one" in questions[1]
    assert [info.step for info in list_checkpoints(run)] == [60]
    with pytest.raises(UserError, match=r"no checkpoint of step 30[\s\S]*there are: 60"):
        delete_checkpoint(run, 30, confirm=yes)


def test_an_unknown_name_gets_the_nearest(tmp_path: Path) -> None:
    full_run(tmp_path / "first_run_1")
    with pytest.raises(UserError, match="did you mean 'first_run_1'"):
        delete_run(tmp_path, "first_run_2", confirm=yes)
