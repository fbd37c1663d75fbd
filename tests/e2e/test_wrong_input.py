"""What goes wrong at a person's hands gives one clear message, a non-zero exit, and nothing half written."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import TINY, Outcome, TrainedRun, files_below, llm_trainer

LEFTOVERS = (".tmp", ".partial")


@pytest.fixture
def configuration(workplace: Path) -> Path:
    """The tiny run as a file."""
    lines = [
        "model: {d_model: 32, n_heads: 2, n_layers: 1}",
        "training: {max_steps: 2, device: cpu, num_threads: 1, report_to: []}",
    ]
    path = workplace / "mine.yaml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def train(corpus: Path, *words: str, output_dir: Path | str = "run") -> Outcome:
    """The tiny run with something changed."""
    return llm_trainer("train", f"data.dataset_name={corpus}", *TINY, *words, "--output_dir", output_dir)


def assert_nothing_half_written(folder: Path) -> None:
    assert [name for name in files_below(folder) if name.endswith(LEFTOVERS)] == []


class TestConfiguration:
    def test_misspelt_key_names_file_line_and_nearest_key(self, configuration: Path) -> None:
        configuration.write_text("model:\n  d_model: 64\n  n_head_count: 2\ntraining:\n  lerning_rate: 1e-3\n")
        outcome = llm_trainer("train", configuration)
        outcome.assert_one_message(
            "2 problems", "mine.yaml", "line 3: model.n_head_count", "line 5", "did you mean 'learning_rate'"
        )
        assert outcome.code == 2

    def test_misspelt_override(self) -> None:
        llm_trainer("train", "training.max_step=3").assert_one_message("max_step", "did you mean", "max_steps")

    def test_misspelt_section(self) -> None:
        llm_trainer("train", "trainning.max_steps=3").assert_one_message("training")

    def test_bad_types_are_all_listed(self, configuration: Path) -> None:
        configuration.write_text("training:\n  batch_size: many\n  learning_rate: [1]\n  compile: perhaps\n")
        outcome = llm_trainer("config", "validate", configuration)
        outcome.assert_one_message("3 problems", "batch_size", "learning_rate", "compile")

    def test_broken_yaml(self, configuration: Path) -> None:
        configuration.write_text("model: {d_model: 64\ntraining: [")
        llm_trainer("train", configuration).assert_one_message("mine.yaml")

    def test_missing_file(self, configuration: Path) -> None:
        llm_trainer("train", "mien.yaml").assert_one_message("mien.yaml")

    def test_a_folder_for_a_file(self, workplace: Path) -> None:
        llm_trainer("train", workplace).assert_one_message(str(workplace))

    def test_not_a_text_file(self, configuration: Path) -> None:
        configuration.write_bytes(gzip.compress(b"model: {}"))
        llm_trainer("train", configuration).assert_one_message("mine.yaml")

    def test_sequence_longer_than_the_model(self, corpus: Path, workplace: Path) -> None:
        outcome = train(corpus, "model.max_seq_len=32")
        outcome.assert_one_message("data.max_length (64)", "model.max_seq_len (32)")
        assert files_below(workplace) == []

    def test_heads_that_do_not_divide_the_width(self, corpus: Path, workplace: Path) -> None:
        train(corpus, "model.n_heads=5").assert_one_message("n_heads")
        assert files_below(workplace) == []

    @pytest.mark.parametrize("device", ["gpu", "cuda:7", "tpu"])
    def test_device_that_is_not_there(self, corpus: Path, workplace: Path, device: str) -> None:
        train(corpus, f"training.device={device}").assert_one_message(device)
        assert files_below(workplace) == []

    def test_usage_error_has_no_traceback(self) -> None:
        outcome = llm_trainer("generate", "--max_new_tokens", "few")
        assert outcome.code == 2 and "Traceback" not in outcome.err and "max_new_tokens" in outcome.err


class TestText:
    def test_missing(self, workplace: Path) -> None:
        train(workplace / "no_such_folder").assert_one_message("no_such_folder")
        assert files_below(workplace) == []

    def test_unknown_name_says_how_to_use_local_files(self, workplace: Path) -> None:
        outcome = llm_trainer("train", "data.dataset_name=no-such-dataset", *TINY)
        outcome.assert_one_message("no-such-dataset", "LLM_TRAINER_DATA")
        assert files_below(workplace) == []

    @pytest.mark.parametrize("content", ["", "   \n\n"])
    def test_empty(self, workplace: Path, content: str) -> None:
        (workplace / "empty").mkdir()
        (workplace / "empty" / "a.txt").write_text(content)
        train(workplace / "empty").assert_one_message("empty")
        assert not (workplace / "run" / "checkpoints").exists()
        assert_nothing_half_written(workplace)

    def test_a_folder_without_text(self, workplace: Path) -> None:
        (workplace / "pictures").mkdir()
        (workplace / "pictures" / "a.png").write_bytes(b"\x89PNG\r\n")
        train(workplace / "pictures").assert_one_message("pictures")

    def test_wrong_encoding_names_the_file_and_the_setting(self, workplace: Path) -> None:
        (workplace / "latin").mkdir()
        (workplace / "latin" / "a.txt").write_bytes("Ein Mädchen öffnet die Tür. ".encode("latin-1") * 200)
        train(workplace / "latin").assert_one_message("a.txt", "encoding")
        assert_nothing_half_written(workplace)
        right = train(workplace / "latin", "data.encoding=latin-1", "data.documents=line", "tokenizer.vocab_size=270")
        assert "UTF-8" not in right.err

    def test_vocabulary_that_the_text_does_not_allow(self, corpus: Path, workplace: Path) -> None:
        train(corpus, "tokenizer.vocab_size=30000").assert_one_message("30,000", "vocab_size=")
        assert_nothing_half_written(workplace)
        assert not (workplace / "run" / "tokenizer" / "tokenizer.json").exists()

    def test_vocabulary_smaller_than_the_bytes(self, corpus: Path) -> None:
        llm_trainer("tokenizer", "train", "--text", corpus, "--vocab_size", "100", "-o", "t").assert_one_message("256")

    def test_tokenizer_larger_than_the_model(self, corpus: Path, workplace: Path) -> None:
        train(corpus, "model.vocab_size=300").assert_one_message("320", "300")
        assert files_below(workplace) == []

    def test_evaluate_on_missing_text(self, trained: TrainedRun) -> None:
        llm_trainer("evaluate", trained.folder, "--text", "nowhere.txt").assert_one_message("nowhere.txt")

    def test_quickstart_on_missing_text(self, workplace: Path) -> None:
        llm_trainer("quickstart", "--text", "nowhere").assert_one_message("nowhere")
        assert files_below(workplace) == []

    def test_pack_without_a_tokenizer(self, corpus: Path, workplace: Path) -> None:
        outcome = llm_trainer("data", "pack", "--text", corpus, "--tokenizer", "none", "-o", "c")
        outcome.assert_one_message("none")
        assert files_below(workplace) == []


class TestRuns:
    @pytest.mark.parametrize(
        "command",
        [
            ["generate", "nope", "-p", "x"],
            ["chat", "nope"],
            ["evaluate", "nope"],
            ["runs", "show", "nope"],
            ["runs", "report", "nope"],
            ["runs", "plot", "nope"],
            ["runs", "delete", "nope", "--yes"],
            ["inspect", "nope"],
            ["data", "verify", "nope"],
        ],
    )
    def test_missing(self, command: list[str], workplace: Path) -> None:
        llm_trainer(*command).assert_one_message("nope")
        assert files_below(workplace) == []

    @pytest.mark.parametrize("command", ["generate", "chat", "evaluate"])
    def test_none_yet(self, command: str) -> None:
        llm_trainer(command, stdin="x").assert_one_message("quickstart")

    def test_checkpoint_that_is_not_there(self, trained: TrainedRun) -> None:
        outcome = llm_trainer("generate", trained.folder, "-p", "x", "--checkpoint", "5")
        outcome.assert_one_message("'5'", "3, 6")

    @pytest.mark.parametrize(
        ("options", "wanted"),
        [
            (["--temperature", "3"], "temperature"),
            (["--top_p", "0"], "top_p"),
            (["--top_k", "-1"], "top_k"),
            (["-n", "0"], "max_new_tokens"),
            (["--device", "gpu"], "gpu"),
        ],
    )
    def test_generation_options_out_of_range(self, trained: TrainedRun, options: list[str], wanted: str) -> None:
        llm_trainer("generate", trained.folder, "-p", "x", *options).assert_one_message(wanted)

    def test_run_without_a_checkpoint(self, trained: TrainedRun, workplace: Path) -> None:
        copy = trained.copy(workplace)
        shutil.rmtree(copy / "checkpoints")
        (copy / "checkpoints").mkdir()
        llm_trainer("generate", copy, "-p", "x").assert_one_message("no checkpoint")

    def test_delete_outside_the_runs(self, trained: TrainedRun, workplace: Path) -> None:
        copy = trained.copy(workplace)
        llm_trainer("runs", "delete", "../" + copy.name, "--yes").assert_one_message("not the name of a run")
        assert copy.exists()


class TestDamage:
    def test_flipped_byte_in_a_checkpoint(self, trained: TrainedRun, workplace: Path) -> None:
        copy = trained.copy(workplace)
        for step in ("step-000003", "step-000006"):
            flip(copy / "checkpoints" / step / "model.safetensors")
        llm_trainer("generate", copy, "-p", "x").assert_one_message("model.safetensors")
        outcome = llm_trainer("generate", copy, "-p", "x", "--checkpoint", "last")
        outcome.assert_one_message("step-000003", "step-000006")

    def test_newest_checkpoint_damaged_the_one_before_is_used(self, trained: TrainedRun, workplace: Path) -> None:
        copy = trained.copy(workplace)
        flip(copy / "checkpoints" / "step-000006" / "model.safetensors")
        outcome = llm_trainer("generate", copy, "-p", "The", "-n", "2", "--checkpoint", "last")
        assert outcome.code == 0, outcome.err
        resumed = llm_trainer("train", "--resume", "--output_dir", copy)
        assert resumed.code == 0, resumed.err
        assert "resumed step-000003" in resumed.out and "step-000006" in resumed.out

    def test_truncated_tokenizer(self, trained: TrainedRun, workplace: Path) -> None:
        copy = trained.copy(workplace)
        path = copy / "tokenizer" / "tokenizer.json"
        path.write_bytes(path.read_bytes()[:100])
        llm_trainer("generate", copy, "-p", "x").assert_one_message("tokenizer.json")

    @pytest.mark.parametrize("name", ["status.json", "evaluation.json", "derived.json", "metrics.jsonl"])
    def test_garbage_beside_the_run_does_not_stop_its_listing(
        self, trained: TrainedRun, workplace: Path, name: str
    ) -> None:
        (trained.copy(workplace) / name).write_bytes(b'{"half')
        outcome = llm_trainer("runs", "list")
        assert outcome.code == 0 and "tiny" in outcome.out, outcome.err

    def test_flipped_byte_in_the_cache(self, corpus: Path, workplace: Path) -> None:
        assert train(corpus, output_dir="first").code == 0
        chunks = sorted(path for path in (workplace / "cache").rglob("*") if path.is_file() and path.suffix != ".json")
        flip(max(chunks, key=lambda path: path.stat().st_size))
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            outcome = train(corpus, output_dir="second")
        assert outcome.code == 0, outcome.err
        # What is damaged is packed again, and that is said.
        said = outcome.out + outcome.err + "".join(str(warning.message) for warning in warned)
        assert "again" in said and "checksum" in said
        packed = [
            path / "checkpoints" / "step-000006" / "model.safetensors" for path in (Path("first"), Path("second"))
        ]
        assert packed[0].read_bytes() == packed[1].read_bytes()

    def test_status_of_a_failed_run_says_why(self, corpus: Path, workplace: Path) -> None:
        outcome = train(
            corpus,
            "training.learning_rate=1e30",
            "training.max_grad_norm=0",
            "training.optimizer=sgd",
            "training.max_steps=60",
            "training.max_skipped_steps=3",
        )
        outcome.assert_one_message("not finite", "learning_rate")
        status = json.loads((workplace / "run" / "status.json").read_text())
        assert status["state"] == "failed"
        assert "failed" in llm_trainer("runs", "show", "run", "--runs_dir", ".").out
        assert (workplace / "run" / "report.html").exists()
        assert_nothing_half_written(workplace)


class TestMachine:
    def test_no_compiler_trains_uncompiled_and_says_so(
        self, corpus: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import torch

        def no_compiler(*arguments: object, **options: object) -> object:
            raise RuntimeError("no C++ compiler was found")

        monkeypatch.setattr(torch, "compile", no_compiler)
        outcome = train(corpus, "training.compile=true", "training.max_steps=2")
        assert outcome.code == 0, outcome.err
        assert "no C++ compiler was found" in outcome.out and "uncompiled" in outcome.out

    def test_full_disk(self, corpus: Path, tmpfs: Path) -> None:
        outcome = train(corpus, output_dir=tmpfs / "run")
        outcome.assert_one_message("disk")
        assert_nothing_half_written(tmpfs)
        checkpoints = list((tmpfs / "run" / "checkpoints").glob("step-*"))
        assert all((path / "manifest.json").exists() for path in checkpoints)

    def test_full_disk_under_the_cache(self, corpus: Path, tmpfs: Path, workplace: Path) -> None:
        (tmpfs / "ballast").write_bytes(bytes(300_000 - 9000))
        outcome = train(corpus, f"data.cache_dir={tmpfs / 'cache'}")
        outcome.assert_one_message("disk")
        assert_nothing_half_written(tmpfs)

    def test_read_only_folder(self, corpus: Path, tmpfs: Path) -> None:
        subprocess.run(["mount", "-o", "remount,ro", tmpfs], check=True)
        train(corpus, output_dir=tmpfs / "run").assert_one_message(str(tmpfs))
        llm_trainer(
            "tokenizer", "train", "--text", corpus, "--vocab_size", "300", "-o", tmpfs / "t"
        ).assert_one_message(str(tmpfs))
        assert files_below(tmpfs) == []

    def test_output_folder_is_a_file(self, corpus: Path, workplace: Path) -> None:
        (workplace / "run").write_text("mine")
        train(corpus).assert_one_message("run")
        assert (workplace / "run").read_text() == "mine"

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    def test_an_output_that_takes_nothing(self) -> None:
        with open("/dev/full", "w") as full:
            code = "from llm_trainer.cli.app import main; main()"
            command = [sys.executable, "-c", code, "--help"]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 1
        assert done.stderr == "error: the output cannot be written: No space left on device\n"


def flip(path: Path) -> None:
    """Change one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(bytes(content))


@pytest.fixture
def tmpfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 300 KB, where this process may mount one."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"mount: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
