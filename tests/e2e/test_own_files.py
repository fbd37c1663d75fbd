"""A person's own file, from the command line: trained with, resumed, generated with, inspected, and moved."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_trainer.models import extensions, registry
from tests.e2e.conftest import TINY, llm_trainer

EXAMPLES = Path(__file__).parents[2] / "examples"
CHOICES = {
    "mamba_block": ["model.block=mamba", "model.position=none"],
    "retnet_block": ["model.attention=retention"],
}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is registered or trusted beyond a test."""
    before = {kind: dict(known) for kind, known in registry._COMPONENTS.items()}
    monkeypatch.setattr(extensions, "_trusted_here", set())
    yield
    forget()
    for kind, known in before.items():
        registry._COMPONENTS[kind].clear()
        registry._COMPONENTS[kind].update(known)


def forget() -> None:
    """As in a new process, which knows only what is in the person's folder."""
    extensions._trusted_here.clear()
    registry._COMPONENTS["block"].pop("mamba", None)
    registry._COMPONENTS["attention"].pop("retention", None)
    for name in [name for name in sys.modules if name.startswith("llm_trainer_extension_")]:
        del sys.modules[name]


@pytest.mark.covers("R162", "R408", "R409")
@pytest.mark.parametrize("name", ["mamba_block", pytest.param("retnet_block", marks=pytest.mark.slow)])
def test_an_example_is_trained_resumed_and_asked(
    workplace: Path, corpus: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_TRAINER_CACHE", str(workplace / "cache"))
    shutil.copy(EXAMPLES / f"{name}.py", workplace / "mine.py")
    mine = ["model.extensions=[mine.py]", *CHOICES[name]]
    outcome = llm_trainer("train", f"data.dataset_name={corpus}", *TINY, *mine, "--output_dir", "runs/own")
    assert outcome.code == 0, outcome.err
    (workplace / "mine.py").unlink()
    shutil.move("runs/own", "runs/moved")
    for arguments in (
        ["generate", "moved", "--prompt", "the house", "-n", 4, "--device", "cpu"],
        ["train", "runs/moved/config.yaml", "training.max_steps=8", "--resume", "--output_dir", "runs/moved"],
        ["inspect", "moved"],
    ):
        forget()
        outcome = llm_trainer(*arguments)
        assert outcome.code == 0, outcome.err
    shutil.rmtree(workplace / "cache")
    forget()
    llm_trainer("generate", "moved", "--device", "cpu", stdin="x").assert_one_message("llm-trainer trust")
    assert "trusted: runs/moved" in llm_trainer("trust", "runs/moved").out
    forget()
    assert llm_trainer("generate", "moved", "-n", 2, "--prompt", "x", "--device", "cpu").code == 0


def test_trust_that_cannot_be_kept_is_not_promised(workplace: Path) -> None:
    (workplace / "mine.py").write_text("x = 1\n")
    llm_trainer("trust", "mine.py").assert_one_message("no folder to remember it", "LLM_TRAINER_TRUST_EXTENSIONS=1")


def test_a_wrong_file_gets_one_message(workplace: Path, corpus: Path) -> None:
    words = ["train", f"data.dataset_name={corpus}", *TINY]
    llm_trainer(*words, "model.extensions=[mine.py]").assert_one_message("mine.py", "is not a Python file")
    (workplace / "mine.py").write_text("import nothing_of_this_name\n")
    llm_trainer(*words, "model.extensions=[mine.py]").assert_one_message("mine.py failed in line 1")
    (workplace / "mine.py").write_text("x = 1\n")
    llm_trainer(*words, "model.extensions=[mine.py]", "model.block=mine").assert_one_message(
        "no component is named 'mine'"
    )
    assert not (workplace / "runs").exists() or not any((workplace / "runs").iterdir())
