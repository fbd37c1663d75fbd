"""One tiny run, trained once through the command line, that most of these tests look at."""

from __future__ import annotations

import contextlib
import io
import random
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from llm_trainer.cli.app import main

WORDS = re.findall(
    r"\w+",
    "the a small old quiet river house garden child teacher letter morning winter bread window road song walks reads "
    "opens finds carries remembers near under behind without slowly again and because when while green seven early",
)
TINY = [
    "model.d_model=32",
    "model.n_heads=2",
    "model.n_layers=1",
    "data.max_length=64",
    "data.validation_fraction=0.2",
    "tokenizer.vocab_size=320",
    "training.batch_size=4",
    "training.max_steps=6",
    "training.logging_steps=2",
    "training.eval_steps=3",
    "training.save_steps=3",
    "training.num_threads=1",
    "training.device=cpu",
    # float32, not what a timed probe prefers today: some of these tests compare bits.
    "training.use_amp=false",
    "training.tune=false",
    "training.report_to=[]",
    "generation.max_new_tokens=4",
]


@dataclass(frozen=True)
class Outcome:
    """What a person sees of one command."""

    code: int
    out: str
    err: str

    def assert_one_message(self, *wanted: str) -> None:
        """The command stopped with one message on standard error that contains ``wanted``, and with no traceback."""
        assert self.code != 0, self.out
        assert self.err.startswith("error: ") and self.err.count("error: ") == 1, self.err
        assert "Traceback" not in self.out + self.err
        for text in wanted:
            assert text in self.err, self.err


def llm_trainer(*arguments: object, stdin: str = "") -> Outcome:
    """Run the command in this process, through the very entry point that ``llm-trainer`` has."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["llm-trainer", *map(str, arguments)])
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Outcome(code, out.getvalue(), err.getvalue())


def files_below(folder: Path) -> list[str]:
    """Every file and folder, for "nothing was written"."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 short documents, a file each."""
    folder = tmp_path_factory.mktemp("corpus") / "texts"
    folder.mkdir()
    generator = random.Random(0)
    for number in range(60):
        lines = [" ".join(generator.choices(WORDS, k=9)).capitalize() + "." for _ in range(generator.randint(4, 12))]
        (folder / f"{number:02d}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test starts in an empty folder, as a person who has just cloned."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@dataclass(frozen=True)
class TrainedRun:
    """A run that has ended, and what its training printed."""

    folder: Path
    outcome: Outcome

    @property
    def runs_dir(self) -> Path:
        return self.folder.parent

    def copy(self, to: Path) -> Path:
        """A copy to damage or delete, in a folder of runs of its own."""
        target = to / "runs" / self.folder.name
        shutil.copytree(self.folder, target)
        return target


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> TrainedRun:
    """A one-layer model after six steps."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        outcome = llm_trainer("train", f"data.dataset_name={corpus}", *TINY, "--output_dir", home / "runs" / "tiny")
    assert outcome.code == 0, outcome.err
    return TrainedRun(home / "runs" / "tiny", outcome)
