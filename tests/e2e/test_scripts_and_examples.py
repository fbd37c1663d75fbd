"""The documented scripts, configurations and examples do what the documentation says of them."""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import TINY, Outcome, TrainedRun, files_below

REPOSITORY = Path(__file__).parents[2]
CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))
DOCUMENTED = ["cpu_small_model", "small_model", "medium_model"]


def run_script(path: str, *arguments: object, stdin: str = "") -> Outcome:
    """Run a script of the repository as ``python PATH ARGUMENTS``, in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [path, *map(str, arguments)])
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                runpy.run_path(str(REPOSITORY / path), run_name="__main__")
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Outcome(code, out.getvalue(), err.getvalue())


class TestConfigurations:
    def test_the_documented_ones_are_there(self) -> None:
        assert {path.stem for path in CONFIGS} >= set(DOCUMENTED)

    @pytest.mark.covers("R061")
    @pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
    def test_dry_run(self, path: Path, corpus: Path, workplace: Path) -> None:
        words = [f"data.dataset_name={corpus}", "training.device=cpu"]
        # What is written for a GPU must still be readable on a machine without one.
        outcome = run_script("scripts/train.py", "--config", path, "--dry-run", *words, "training.use_amp=false")
        assert outcome.code == 0, outcome.err
        assert "parameters" in outcome.out
        assert files_below(workplace) == []

    @pytest.mark.covers("R062")
    def test_the_small_cpu_configuration_is_the_documented_one(self) -> None:
        assert yaml.safe_load((REPOSITORY / "configs" / "cpu_small_model.yaml").read_text()) == {
            "device": "cpu",
            "model": {"d_model": 256, "n_heads": 4, "n_layers": 4},
            "training": {
                "batch_size": 2,
                "gradient_accumulation_steps": 8,
                "use_amp": False,
                "dataloader_num_workers": 2,
            },
        }


class TestTrainScript:
    @pytest.mark.covers("R425")
    def test_with_an_output_folder(self, corpus: Path, workplace: Path) -> None:
        words = [f"data.dataset_name={corpus}", *TINY, "training.max_steps=2"]
        config = REPOSITORY / "configs" / "cpu_small_model.yaml"
        outcome = run_script("scripts/train.py", "--config", config, "--output_dir", "./my_first_llm", *words)
        assert outcome.code == 0, outcome.err
        assert (workplace / "my_first_llm" / "checkpoints" / "step-000002" / "model.safetensors").exists()
        assert (workplace / "my_first_llm" / "report.html").exists()

    @pytest.mark.covers("R063")
    def test_without_an_output_folder(self, corpus: Path, workplace: Path) -> None:
        words = [f"data.dataset_name={corpus}", *TINY, "training.max_steps=2"]
        for _ in range(2):
            outcome = run_script("scripts/train.py", "--config", REPOSITORY / "configs" / "small_model.yaml", *words)
            assert outcome.code == 0, outcome.err
        assert len(list((workplace / "runs").glob("*/checkpoints"))) == 2

    def test_one_message_for_a_misspelt_file(self, workplace: Path) -> None:
        run_script("scripts/train.py", "--config", "configs/cpu_smal_model.yaml").assert_one_message("cpu_smal_model")

    def test_as_a_program_of_its_own(self, corpus: Path, workplace: Path) -> None:
        """Through the shell, from a folder that is not the repository's."""
        done = subprocess.run(
            [sys.executable, REPOSITORY / "scripts" / "train.py", "--config", "no.yaml"],
            capture_output=True,
            text=True,
            cwd=workplace,
        )
        assert done.returncode == 2 or done.returncode == 1
        assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr


class TestExamples:
    @pytest.mark.covers("R426")
    def test_complete_pipeline_prints_its_five_stages(self, corpus: Path, workplace: Path) -> None:
        arguments = ["--dataset", corpus, "--vocab_size", "300", "--steps", "3", "--output_dir", "run"]
        outcome = run_script("examples/complete_pipeline.py", *arguments)
        assert outcome.code == 0, outcome.err
        stages = [line for line in outcome.out.splitlines() if line[:2] in {f"{number}." for number in range(1, 6)}]
        assert [stage.split()[1] for stage in stages] == ["Tokenizer", "Model", "Training", "Text", "Metrics"]
        assert "bits per byte" in outcome.out and (workplace / "run" / "report.html").exists()

    @pytest.mark.covers("R427")
    def test_train_small_model(self, corpus: Path, workplace: Path) -> None:
        outcome = run_script("examples/train_small_model.py", "--dataset", corpus, "--steps", 3, "--vocab_size", 300)
        assert outcome.code == 0, outcome.err
        assert "bits per byte; run: runs" in outcome.out
        assert list((workplace / "runs").glob("*/checkpoints/*/model.safetensors"))

    @pytest.mark.covers("R428", "R385")
    def test_generation_example_reads_a_pipe(self, trained: TrainedRun) -> None:
        outcome = run_script("examples/generation_example.py", "--run", trained.folder, stdin="The future of AI is\n")
        assert outcome.code == 0, outcome.err
        for name in ("greedy", "nucleus", "top-k", "beam search"):
            assert f"--- {name}\nThe future of AI is" in outcome.out

    def test_generation_example_without_a_run(self) -> None:
        run_script("examples/generation_example.py").assert_one_message("quickstart")

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["complete_pipeline", "train_small_model"])
    def test_on_the_text_that_is_already_here(self, name: str, workplace: Path) -> None:
        done = subprocess.run(
            [sys.executable, REPOSITORY / "examples" / f"{name}.py", "--steps", "4", "--vocab_size", "1024"],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=workplace,
        )
        assert done.returncode == 0, done.stderr
