"""The commands, as a person types them; most look at one tiny run."""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from llm_trainer.config import load_config
from llm_trainer.training.checkpoint import list_checkpoints
from tests.e2e.conftest import TINY, TrainedRun, files_below, llm_trainer

COMMANDS = ("quickstart", "train", "evaluate", "generate", "chat", "tokenizer", "data", "config", "runs", "inspect")
LIVE_LINE = re.compile(
    r"^Step +(?P<step>[\d,]+)/(?P<total>[\d,]+) \( *(?P<percent>\d+\.\d)%\) \| Loss: (?P<loss>\d+\.\d{3}) \| "
    r"(?P<speed>[\d,]+) tok/s \| ETA: (?:\d\d:\d\d[hm]|--:--)"
)


class TestFirstContact:
    def test_help_answers_at_once_and_names_every_command(self) -> None:
        script = Path(sys.executable).with_name("llm-trainer")
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            text = subprocess.run([script, "--help"], capture_output=True, text=True, check=True).stdout
            seconds.append(time.perf_counter() - started)
        assert [name for name in (*COMMANDS, "ablate", "doctor") if name not in text] == []
        # 0.5 s is the promise on a quiet machine; a busy one gets twice that.
        assert statistics.median(seconds) < 1.0
        imported = subprocess.run(
            [sys.executable, "-c", "import sys, llm_trainer.cli.app; print('torch' in sys.modules)"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert imported.stdout.strip() == "False"

    @pytest.mark.parametrize("command", [*COMMANDS, "ablate", "doctor", "runs delete", "config edit", "data pack"])
    def test_every_command_explains_itself(self, command: str) -> None:
        outcome = llm_trainer(*command.split(), "--help")
        assert outcome.code == 0
        assert f"llm-trainer {command}" in outcome.out

    def test_version(self) -> None:
        assert re.fullmatch(r"llm-trainer \d+\.\d+\.\d+\n", llm_trainer("--version").out)

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_shell_completion(self, shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("_LLM_TRAINER_COMPLETE", f"source_{shell}")
        outcome = llm_trainer()
        assert outcome.code == 0
        assert "llm-trainer" in outcome.out and "_LLM_TRAINER_COMPLETE" in outcome.out

    def test_unknown_command_names_the_nearest(self) -> None:
        outcome = llm_trainer("trian")
        assert outcome.code == 2
        assert "'train'" in outcome.err

    @pytest.mark.covers("R030")
    def test_doctor(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("llm_trainer.workflows.doctor.compiler_problem", lambda device: "no compiler")
        outcome = llm_trainer("doctor")
        assert outcome.code == 0, outcome.out
        for topic in ("Python", "PyTorch", "cores", "memory", "disk", "device", "bfloat16", "compile"):
            assert topic in outcome.out

    @pytest.mark.covers("R029")
    def test_verification_line(self) -> None:
        import lz4.frame

        assert lz4.frame.decompress(lz4.frame.compress(b"works")) == b"works"


class TestTrain:
    def test_a_run_is_a_folder(self, trained: TrainedRun) -> None:
        there = set(files_below(trained.folder))
        assert {"config.yaml", "environment.json", "metrics.jsonl", "report.html", "samples.md"} <= there
        assert {"tokenizer/tokenizer.json", "checkpoints/step-000006/model.safetensors"} <= there
        assert trained.outcome.err == ""

    @pytest.mark.covers("R294", "R307")
    def test_checkpoints_are_made_when_they_are_due(self, trained: TrainedRun) -> None:
        assert [path.name for path in list_checkpoints(trained.folder / "checkpoints")] == [
            "step-000003",
            "step-000006",
        ]
        shown = llm_trainer("runs", "show", trained.folder).out
        assert re.search(r"Step: 3 \| Loss: \d\.\d{4} \| Time: \d{4}-\d\d-\d\d \d\d:\d\d", shown)

    @pytest.mark.covers("R315")
    def test_live_line_when_piped(self, trained: TrainedRun) -> None:
        lines = [match for match in map(LIVE_LINE.match, trained.outcome.out.splitlines()) if match]
        assert [(line["step"], line["total"], line["percent"]) for line in lines] == [
            ("2", "6", "33.3"),
            ("4", "6", "66.7"),
            ("6", "6", "100.0"),
        ]
        assert "\x1b" not in trained.outcome.out and "\r" not in trained.outcome.out

    def test_it_learns(self, trained: TrainedRun) -> None:
        records = [json.loads(line) for line in (trained.folder / "metrics.jsonl").read_text().splitlines()]
        losses = [record["validation/loss"] for record in records if "validation/loss" in record]
        assert losses[-1] < losses[0]
        assert all("validation/bits_per_byte" in record for record in records if "validation/loss" in record)

    def test_override_wins_and_is_kept(self, trained: TrainedRun) -> None:
        saved = yaml.safe_load((trained.folder / "config.yaml").read_text())
        assert saved["training"]["batch_size"] == 4 and saved["model"]["d_model"] == 32
        assert saved["model"]["vocab_size"] == 320

    def test_dry_run_says_what_and_writes_nothing(self, corpus: Path, workplace: Path) -> None:
        outcome = llm_trainer(
            "train", f"data.dataset_name={corpus}", "model.d_model=64", "model.n_heads=2", "--dry-run"
        )
        assert outcome.code == 0, outcome.err
        for text in ("d_model: 64", "tokenizer.vocab_size = 1024: enough text", "parameters", "memory", "time"):
            assert text in outcome.out
        assert files_below(workplace) == []

    def test_existing_run_is_not_overwritten(self, trained: TrainedRun) -> None:
        before = files_below(trained.folder)
        outcome = llm_trainer("train", trained.folder / "config.yaml", "--output_dir", trained.folder)
        outcome.assert_one_message("already holds a run", "--resume")
        assert files_below(trained.folder) == before

    @pytest.mark.covers("R296", "R297")
    def test_names_of_runs_and_checkpoints(self, corpus: Path, workplace: Path) -> None:
        """A derived name says what was trained; a folder of one's own has the checkpoints in it."""
        words = [f"data.dataset_name={corpus}", *TINY, "training.max_steps=1"]
        assert llm_trainer("train", *words).code == 0
        assert re.search(r"^ 24K_texts_64_checkpoint_1_run_1$", llm_trainer("runs", "show").out, re.MULTILINE)
        assert llm_trainer("train", *words, "--output_dir", "current_training").code == 0
        assert list_checkpoints(workplace / "current_training" / "checkpoints")

    @pytest.mark.covers("R015", "R258")
    def test_saved_configuration_makes_the_same_run(self, trained: TrainedRun, workplace: Path) -> None:
        outcome = llm_trainer("train", trained.folder / "config.yaml", "--output_dir", workplace / "again")
        assert outcome.code == 0, outcome.err
        first, second = (load_config(folder / "config.yaml").run for folder in (trained.folder, workplace / "again"))
        assert first.fingerprint() == second.fingerprint()
        weights = [
            (folder / "checkpoints" / "step-000006" / "model.safetensors").read_bytes()
            for folder in (trained.folder, workplace / "again")
        ]
        assert weights[0] == weights[1]

    @pytest.mark.covers("R301")
    def test_resume_goes_on_to_the_same_weights(self, trained: TrainedRun, workplace: Path) -> None:
        copy = trained.copy(workplace)
        whole = (copy / "checkpoints" / "step-000006" / "model.safetensors").read_bytes()
        shutil.rmtree(copy / "checkpoints" / "step-000006")
        outcome = llm_trainer("train", "--resume", "--output_dir", copy)
        assert outcome.code == 0, outcome.err
        assert "resumed step-000003" in outcome.out
        assert (copy / "checkpoints" / "step-000006" / "model.safetensors").read_bytes() == whole
        steps = [json.loads(line)["step"] for line in (copy / "metrics.jsonl").read_text().splitlines()]
        assert steps == sorted(steps) and steps[-1] == 6

    def test_resume_without_a_name_continues_the_newest_run(self, trained: TrainedRun, workplace: Path) -> None:
        copy = trained.copy(workplace)
        shutil.rmtree(copy / "checkpoints" / "step-000006")
        outcome = llm_trainer("train", "--resume")
        assert outcome.code == 0, outcome.err
        assert "resumed step-000003" in outcome.out and [path.name for path in (workplace / "runs").iterdir()] == [
            "tiny"
        ]

    def test_resume_never_starts_a_run_that_was_not_meant(self, corpus: Path, workplace: Path) -> None:
        llm_trainer("train", "--resume").assert_one_message("no trained model")
        (workplace / "mine.yaml").write_text(f"data: {{dataset_name: {corpus}}}\n", encoding="utf-8")
        llm_trainer("train", "mine.yaml", "--resume").assert_one_message("which run", "--output_dir")
        assert files_below(workplace) == ["mine.yaml"]

    def test_an_override_wins_over_a_shortcut_in_the_file(self, corpus: Path, workplace: Path) -> None:
        (workplace / "mine.yaml").write_text(f"device: auto\nseed: 1\ndata: {{dataset_name: {corpus}}}\n")
        outcome = llm_trainer("config", "show", "mine.yaml", "training.device=cpu", "training.seed=2")
        assert outcome.code == 0, outcome.err
        values = yaml.safe_load(outcome.out)["training"]
        assert (values["device"], values["seed"]) == ("cpu", 2)

    def test_aliases_of_other_tools_are_said(self, corpus: Path) -> None:
        words = ["data.dataset_name=" + str(corpus), "training.per_device_train_batch_size=3", "model.n_embd=64"]
        outcome = llm_trainer("train", *words, "model.n_heads=2", "--dry-run")
        assert outcome.code == 0, outcome.err
        assert "per_device_train_batch_size is read as batch_size" in outcome.out
        assert "n_embd is read as d_model" in outcome.out
        assert "batch_size: 3" in outcome.out and "d_model: 64" in outcome.out

    @pytest.mark.covers("R012")
    def test_no_network_is_touched(self, trained: TrainedRun, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import socket

        asked: list[object] = []

        def refuse(self: object, address: object) -> None:
            asked.append(address)
            raise OSError("no network")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        outcome = llm_trainer(
            "train", trained.folder / "config.yaml", "training.report_to=[tensorboard]", "--output_dir", "offline"
        )
        assert outcome.code == 0, outcome.err
        assert llm_trainer("generate", "offline", "-p", "The", "-n", "2").code == 0
        assert asked == []


class TestQuickstart:
    @pytest.mark.covers("R006", "R011")
    def test_from_text_to_a_model_in_one_command(
        self, corpus: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        outcome = llm_trainer("quickstart", "--minutes", "0.05", "--text", corpus, "--output_dir", "first")
        assert outcome.code == 0, outcome.err
        for text in ("--- temperature 0 ", "--- temperature 1 ", "bits per byte", "xz -9e", "Next:"):
            assert text in outcome.out
        temperatures = re.findall(r"^--- temperature ([\d.]+) ", outcome.out, re.MULTILINE)
        assert temperatures == ["0", "0.5", "0.8", "1"]
        assert "llm-trainer chat first" in outcome.out and "llm-trainer quickstart --text" in outcome.out
        report = (workplace / "first" / "report.html").read_text(encoding="utf-8")
        assert "<svg" in report and "xz -9e" in report
        assert not re.search(r"""(?:src|href)=["']?https?://""", report)
        assert llm_trainer("generate", "first", "-p", "The", "-n", "3").code == 0

    @pytest.mark.slow
    def test_without_any_text_of_ones_own(self, workplace: Path) -> None:
        outcome = llm_trainer("quickstart", "--minutes", "0.05")
        assert outcome.code == 0, outcome.err
        (run,) = (workplace / "runs").iterdir()
        assert (run / "report.html").exists()


class TestUse:
    @pytest.mark.covers("R386")
    def test_generate_continues_the_prompt_once(self, trained: TrainedRun) -> None:
        outcome = llm_trainer("generate", trained.folder, "--prompt", "The future of AI is", "-n", "8", "--seed", "1")
        assert outcome.code == 0, outcome.err
        assert outcome.out.startswith("The future of AI is") and outcome.out.count("The future of AI is") == 1
        assert len(outcome.out) > len("The future of AI is\n")

    @pytest.mark.covers("R385")
    def test_generate_reads_a_pipe(self, trained: TrainedRun) -> None:
        outcome = llm_trainer("generate", trained.folder, "-n", "4", stdin="The quiet river\n")
        assert outcome.code == 0 and outcome.out.startswith("The quiet river")

    def test_seeds(self, trained: TrainedRun) -> None:
        def text(seed: int) -> str:
            return llm_trainer("generate", trained.folder, "-p", "A", "-n", "12", "--seed", seed).out

        assert text(1) == text(1)
        assert len({text(seed) for seed in range(4)}) > 1

    @pytest.mark.parametrize(
        "options",
        [
            ["-t", "0"],
            ["--top_k", "5"],
            ["--top-p", "0.9", "--min-p", "0.05"],
            ["--num_beams", "3"],
            ["--repetition_penalty", "1.3"],
            ["--checkpoint", "3"],
            ["--checkpoint", "last"],
        ],
    )
    def test_generate_options(self, trained: TrainedRun, options: list[str]) -> None:
        outcome = llm_trainer("generate", trained.folder, "-p", "The", "-n", "4", *options)
        assert outcome.code == 0, outcome.err
        assert outcome.out.startswith("The")

    def test_stop_string_ends_the_text(self, trained: TrainedRun) -> None:
        command = ["generate", trained.folder, "-p", "The", "-n", "12", "--seed", "3"]
        text = llm_trainer(*command).out.rstrip("\n")
        stop = text[len("The") + 2]
        assert llm_trainer(*command, "--stop", stop).out.rstrip("\n") == "The" + text[3:].partition(stop)[0]

    def test_the_newest_run_is_used_when_none_is_named(self, trained: TrainedRun) -> None:
        outcome = llm_trainer("generate", "-p", "The", "-n", "2", "--runs_dir", trained.runs_dir)
        assert outcome.code == 0, outcome.err

    @pytest.mark.covers("R385")
    def test_chat_with_commands_and_end_of_input(self, trained: TrainedRun) -> None:
        lines = "hello\n/temperature 0.5\n/temperature 9\n/tokens few\n/seed 7\n/dance\n\nThe river\n"
        outcome = llm_trainer("chat", trained.folder, "-n", "4", stdin=lines)
        assert outcome.code == 0, outcome.err
        assert outcome.out.count("hello") == 1 and "\nThe river" in outcome.out
        for text in ("temperature = 0.5", "/temperature: ", "/tokens: ", "seed = 7", "unknown command"):
            assert text in outcome.out
        assert "Traceback" not in outcome.out + outcome.err

    def test_quit_ends_the_chat(self, trained: TrainedRun) -> None:
        outcome = llm_trainer("chat", trained.folder, "-n", "4", stdin="/quit\nnever read\n")
        assert outcome.code == 0 and "never read" not in outcome.out

    def test_evaluate_on_held_out_and_on_own_text(self, trained: TrainedRun, workplace: Path) -> None:
        own = llm_trainer("evaluate", trained.folder)
        assert own.code == 0, own.err
        (workplace / "other.txt").write_text("The small house. " * 40, encoding="utf-8")
        other = llm_trainer("evaluate", trained.folder, "--text", "other.txt")
        for outcome in (own, other):
            assert re.search(r"bits per byte +\d\.\d{4}", outcome.out)
            assert "perplexity" in outcome.out and "xz -9e" in outcome.out
        assert own.out != other.out

    def test_inspect_shows_every_parameter(self, trained: TrainedRun) -> None:
        outcome = llm_trainer("inspect", trained.folder)
        assert "blocks.0.attention.q_proj.weight" in outcome.out and "Model parameters: 23,648" in outcome.out


class TestPrepare:
    def test_tokenizer_then_cache_then_training(self, corpus: Path, workplace: Path) -> None:
        made = llm_trainer("tokenizer", "train", "--text", corpus, "--vocab_size", "300", "-o", "my_tokenizer")
        assert made.code == 0, made.err
        packed = llm_trainer(
            "data", "pack", "--text", corpus, "--tokenizer", "my_tokenizer", "-o", "my_cache", "--seq_len", "64"
        )
        assert packed.code == 0, packed.err
        checked = llm_trainer("data", "verify", "my_cache")
        assert checked.code == 0 and "all blocks good" in checked.out
        words = [f"data.dataset_name={corpus}", "tokenizer.path=my_tokenizer", *TINY, "training.max_steps=2"]
        words.remove("tokenizer.vocab_size=320")
        trained = llm_trainer("train", *words, "-o", "run")
        assert trained.code == 0, trained.err
        saved = [workplace / folder / "tokenizer.json" for folder in ("my_tokenizer", "run/tokenizer")]
        assert saved[0].read_bytes() == saved[1].read_bytes()

    @pytest.mark.covers("R013")
    def test_a_script_that_is_not_latin(self, workplace: Path) -> None:
        text = "ქართული ენა არის ძალიან ლამაზი და ძველი. " * 60
        (workplace / "georgian.txt").write_text(text, encoding="utf-8")
        outcome = llm_trainer("tokenizer", "train", "--text", "georgian.txt", "--vocab_size", "290", "-o", "tokenizer")
        assert outcome.code == 0, outcome.err
        from llm_trainer.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(workplace / "tokenizer")
        ids = tokenizer.encode("ქართული ენა")
        assert tokenizer.decode(ids) == "ქართული ენა"
        assert len("ქართული ენა".encode()) / len(ids) > 3

    def test_config_show_and_validate(self, workplace: Path) -> None:
        (workplace / "mine.yaml").write_text("model: {d_model: 64, n_heads: 4}\n")
        shown = llm_trainer("config", "show", "mine.yaml", "training.batch_size=3")
        values = yaml.safe_load(shown.out)
        assert values["model"]["d_model"] == 64 and values["training"]["batch_size"] == 3
        assert llm_trainer("config", "validate", "mine.yaml").out.endswith("mine.yaml is valid\n")

    def test_config_schema_is_json_with_descriptions(self) -> None:
        schema = json.loads(llm_trainer("config", "schema").out)
        assert schema["$defs"]["TrainingConfig"]["properties"]["batch_size"]["description"]

    @pytest.mark.covers("R068", "R069")
    def test_config_edit(self, workplace: Path) -> None:
        lines = "training\ntraining.batch_size=5\n? model.d_model\ntraining.batch_size=many\nmodel.d_modl=3\nsave\n"
        outcome = llm_trainer("config", "edit", "mine.yaml", stdin=lines)
        assert outcome.code == 0, outcome.err
        assert "training.learning_rate" in outcome.out and "model.d_model: " in outcome.out
        assert load_config(workplace / "mine.yaml").run.training.batch_size == 5
        again = llm_trainer("config", "edit", "mine.yaml", stdin="training\nquit\n")
        assert re.search(r"\* training\.batch_size +5", again.out)

    @pytest.mark.covers("R041")
    def test_config_edit_refuses_what_is_out_of_range(self, workplace: Path) -> None:
        lines = "model.n_layers=0\nmodel.n_heads=-1\nmodel.d_model=0\nquit\n"
        outcome = llm_trainer("config", "edit", "mine.yaml", stdin=lines)
        assert outcome.code == 0 and outcome.out.count("1 problem") == 3
        assert not (workplace / "mine.yaml").exists()

    def test_config_edit_at_the_end_of_the_input(self, workplace: Path) -> None:
        llm_trainer("config", "edit", "mine.yaml", stdin="training.batch_size=5\n").assert_one_message("ended before")
        assert files_below(workplace) == []


class TestRuns:
    def test_list(self, trained: TrainedRun) -> None:
        lines = llm_trainer("runs", "list", "--runs_dir", trained.runs_dir).out.splitlines()
        assert lines[0].split()[:3] == ["run", "state", "step"]
        assert lines[1].split()[:3] == ["tiny", "finished", "6"]

    def test_list_without_any(self) -> None:
        outcome = llm_trainer("runs", "list")
        assert outcome.code == 0 and "no run" in outcome.out and "quickstart" in outcome.out

    def test_show_as_json(self, trained: TrainedRun) -> None:
        log = json.loads(llm_trainer("runs", "show", "tiny", "--json", "--runs_dir", trained.runs_dir).out)
        assert "6" in json.dumps(log)

    def test_report_is_made_again(self, trained: TrainedRun, workplace: Path) -> None:
        copy = trained.copy(workplace)
        (copy / "report.html").unlink()
        assert llm_trainer("runs", "report", "tiny").code == 0
        assert "<svg" in (copy / "report.html").read_text(encoding="utf-8")

    @pytest.mark.covers("R317")
    def test_plot(self, trained: TrainedRun, workplace: Path) -> None:
        outcome = llm_trainer("runs", "plot", trained.folder, "-o", "pictures")
        assert outcome.code == 0, outcome.err
        assert (workplace / "pictures" / "loss.svg").read_text(encoding="utf-8").lstrip().startswith("<")

    @pytest.mark.covers("R308")
    def test_delete_asks(self, trained: TrainedRun, workplace: Path) -> None:
        copy = trained.copy(workplace)
        refused = llm_trainer("runs", "delete", "tiny", stdin="n\n")
        assert "cannot be undone" in refused.out and copy.exists()
        at_the_end_of_the_input = llm_trainer("runs", "delete", "tiny", stdin="")
        assert at_the_end_of_the_input.code != 0 and copy.exists()
        assert "Traceback" not in at_the_end_of_the_input.err
        one = llm_trainer("runs", "delete", "tiny", "--checkpoint", "3", "--yes")
        assert one.code == 0 and "freed" in one.out
        assert [path.name for path in list_checkpoints(copy / "checkpoints")] == ["step-000006"]
        assert "freed" in llm_trainer("runs", "delete", "tiny", stdin="y\n").out
        assert not copy.exists()


@pytest.mark.covers("R014")
def test_ablate_compares_parts(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llm_trainer.workflows import ablate

    monkeypatch.setattr(ablate, "DOCUMENTS", 20)
    monkeypatch.setattr(ablate, "BASE", {**ablate.BASE, "d_model": 16, "n_layers": 1, "max_seq_len": 32})
    outcome = llm_trainer("ablate", "--vary", "norm,pos", "--steps", "2", "-o", "table")
    assert outcome.code == 0, outcome.err
    rows = json.loads((workplace / "table" / "ablation.json").read_text())
    assert {row["part"] for row in rows} == {"norm", "position"}
    assert all(row["losses"][0] > 0 for row in rows)
    assert "| norm | norm=rmsnorm |" in outcome.out


def test_output_can_be_cut_short() -> None:
    """``llm-trainer config schema | head -1`` must not end in a traceback."""
    script = Path(sys.executable).with_name("llm-trainer")
    command = f"'{script}' config schema | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout == "{\n" and done.stderr == ""
