"""A trained run goes out to other programs and comes back, by the commands that a person types."""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from llm_trainer.models import TransformerLM
from llm_trainer.tokenizer import load_tokenizer
from llm_trainer.workflows.load import load_model
from tests.e2e.conftest import TINY, TrainedRun, files_below, llm_trainer

PROMPT = "the quiet river"


def continuation(folder: Path) -> str:
    outcome = llm_trainer("generate", folder, "--prompt", PROMPT, "--max_new_tokens", 8, "--temperature", 0)
    assert outcome.code == 0, outcome.err
    return outcome.out


@pytest.mark.covers("R303", "R305")
def test_to_transformers_and_back(trained: TrainedRun, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    outcome = llm_trainer("export", trained.folder, "--to", "hf", "--output", tmp_path / "hf")
    assert outcome.code == 0, outcome.err
    assert f"wrote {tmp_path / 'hf' / 'model.safetensors'} (" in outcome.out
    assert "differs: in nothing" in outcome.out
    # What is printed is what works.
    names: dict[str, object] = {}
    snippet = outcome.out.partition("Use it:\n")[2]
    exec("\n".join(line.strip() for line in snippet.strip().splitlines()), names)
    theirs, tokenizer = names["model"].eval(), names["tokenizer"]
    assert isinstance(theirs, transformers.LlamaForCausalLM)
    ours = load_model(str(trained.folder), device="cpu")
    assert tokenizer.encode(PROMPT, add_special_tokens=False) == ours.tokenizer.encode(PROMPT)
    ids = torch.tensor([ours.tokenizer.encode(PROMPT)])
    torch.testing.assert_close(theirs(ids).logits, ours.model(ids).logits, atol=1e-5, rtol=1e-5)
    assert llm_trainer("import", tmp_path / "hf", "--output", tmp_path / "back").code == 0
    assert continuation(tmp_path / "back") == continuation(trained.folder)
    outcome = llm_trainer("import", tmp_path / "hf", "--output", tmp_path / "back")
    outcome.assert_one_message("is not empty", "--output")


def test_to_gguf_and_back(trained: TrainedRun, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"
    outcome = llm_trainer("export", trained.folder, "--to", "gguf", "--dtype", "f32", "--output", path)
    assert outcome.code == 0, outcome.err
    assert f"llama-cli -m {path}" in outcome.out
    assert re.search(r"differs: numbers of three digits or more are cut into threes by llama\.cpp", outcome.out)
    assert llm_trainer("import", path, "--output", tmp_path / "back").code == 0
    assert continuation(tmp_path / "back") == continuation(trained.folder)


@pytest.mark.covers("R306")
def test_to_llama2c_and_back(trained: TrainedRun, tmp_path: Path) -> None:
    outcome = llm_trainer("export", trained.folder, "--to", "llama2c", "--output", tmp_path / "c")
    assert outcome.code == 0, outcome.err
    assert "differs: there is no tokenizer.bin: llama2.c cannot encode" in outcome.out
    binary = tmp_path / "c" / "model.bin"
    llm_trainer("import", binary).assert_one_message("holds no tokenizer", "--tokenizer tokenizer.model")
    outcome = llm_trainer("import", binary, "--tokenizer", trained.folder / "tokenizer", "--output", tmp_path / "back")
    assert outcome.code == 0, outcome.err
    assert continuation(tmp_path / "back") == continuation(trained.folder)


def test_where_exports_go_by_themselves(trained: TrainedRun, tmp_path: Path) -> None:
    run = tmp_path / "my_run"
    shutil.copytree(trained.folder, run)
    outcome = llm_trainer("export", run, "--dtype", "bf16", "--shard-size", "0.00003GB")
    assert outcome.code == 0, outcome.err
    assert len(list((run / "exports" / "hf").glob("model-*-of-*.safetensors"))) > 1
    assert "differs: weights are rounded to bf16: 8 significant bits" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("--to", "onnx"), ("there is no export to 'onnx'", "hf, gguf, llama2c")),
        (("--to", "hf", "--dtype", "q8_0"), ("--to hf has no dtype 'q8_0'", "f32, f16, bf16")),
        (("--to", "gguf", "--shard-size", "1GB"), ("--shard-size is for --to hf",)),
        (("--checkpoint", "77"), ("no checkpoint '77'",)),
    ],
)
def test_a_wish_that_cannot_be_met_says_what_can(
    trained: TrainedRun, tmp_path: Path, arguments: tuple[str, ...], wanted: tuple[str, ...]
) -> None:
    place = tmp_path / "out"
    llm_trainer("export", trained.folder, "--output", place, *arguments).assert_one_message(*wanted)
    assert not place.exists()


def test_a_model_that_others_lack_is_refused_by_its_settings(tmp_path: Path) -> None:
    from tests.models.tiny import tiny_model

    folder = tmp_path / "odd"
    tiny_model(logit_softcap=5.0, vocab_size=300).save_pretrained(folder)
    from llm_trainer.tokenizer import BPETokenizer

    BPETokenizer().train_from_iterator(["some text, and some more text"] * 9, 265, allow_smaller=True).save_pretrained(
        folder
    )
    for target in ("hf", "gguf", "llama2c"):
        outcome = llm_trainer("export", folder, "--to", target)
        outcome.assert_one_message("logit_softcap=5.0")
    assert not (tmp_path / "odd-exports").exists()


@pytest.mark.covers("R304")
def test_what_cannot_be_imported_is_said(tmp_path: Path) -> None:
    llm_trainer("import", tmp_path / "nothing").assert_one_message("there is no file or folder", "download it first")
    (tmp_path / "empty").mkdir()
    llm_trainer("import", tmp_path / "empty").assert_one_message("holds no config.json")
    torch.save({"a": 1}, tmp_path / "weights.bin")
    llm_trainer("import", tmp_path / "weights.bin").assert_one_message("is a pickle", "safetensors")
    (tmp_path / "notes.txt").write_text("words")
    llm_trainer("import", tmp_path / "notes.txt").assert_one_message("no model that can be recognised")


@pytest.fixture(scope="module")
def imported(trained: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "model"
    assert llm_trainer("export", trained.folder, "--output", folder.with_name("hf")).code == 0
    assert llm_trainer("import", folder.with_name("hf"), "--output", folder).code == 0
    return folder


class TestTrainingFromWeightsThatExist:
    def settings(self, trained: TrainedRun, start: Path) -> list[str]:
        data = yaml.safe_load((trained.folder / "config.yaml").read_text())["data"]["dataset_name"]
        own = [line for line in TINY if not line.startswith(("model.", "tokenizer."))]
        return [*own, f"data.dataset_name={data}", f"training.init_from={start}", "training.learning_rate=1e-9"]

    def test_it_begins_with_these_weights_and_this_tokenizer(
        self, trained: TrainedRun, imported: Path, tmp_path: Path
    ) -> None:
        run = tmp_path / "run"
        outcome = llm_trainer("train", *self.settings(trained, imported), "--output_dir", run)
        assert outcome.code == 0, outcome.err
        assert f"starting from the weights in {imported}" in outcome.out
        # A learning rate of next to nothing: the weights stay what they were.
        start = TransformerLM.from_pretrained(imported)
        end = load_model(str(run), checkpoint="last", device="cpu")
        assert end.model.config.d_model == start.config.d_model == 32
        for name, tensor in start.state_dict().items():
            torch.testing.assert_close(end.model.state_dict()[name], tensor, atol=1e-6, rtol=0)
        assert end.tokenizer.fingerprint() == load_tokenizer(imported).fingerprint()
        # The start is needed once: a run that goes on does not look for it.
        gone = run.with_name("elsewhere")
        shutil.copytree(run, gone)
        config = (gone / "config.yaml").read_text().replace(str(imported), str(tmp_path / "gone"))
        (gone / "config.yaml").write_text(config)
        outcome = llm_trainer("train", gone / "config.yaml", "training.max_steps=8", "--resume", "--output_dir", gone)
        assert outcome.code == 0, outcome.err

    def test_a_run_is_a_start_too(self, trained: TrainedRun, tmp_path: Path) -> None:
        outcome = llm_trainer("train", *self.settings(trained, trained.folder), "--output_dir", tmp_path / "run")
        assert outcome.code == 0, outcome.err
        assert "starting from the weights in" in outcome.out

    @pytest.mark.parametrize(
        ("extra", "wanted"),
        [
            (["model.d_model=64"], ("model.d_model=64", "has 32")),
            (["tokenizer.vocab_size=400"], ("tokenizer.vocab_size", "comes with the model")),
            (["training.init_from=nowhere"], ("there is no run or folder 'nowhere'",)),
        ],
    )
    def test_what_contradicts_the_start_is_named(
        self, trained: TrainedRun, imported: Path, tmp_path: Path, extra: list[str], wanted: tuple[str, ...]
    ) -> None:
        settings = [
            line
            for line in self.settings(trained, imported)
            if line.partition("=")[0] not in {item.partition("=")[0] for item in extra}
        ]
        outcome = llm_trainer("train", *settings, *extra, "--output_dir", tmp_path / "run")
        outcome.assert_one_message(*wanted)
        assert files_below(tmp_path) == []


def test_an_export_never_takes_the_place_of_a_model(trained: TrainedRun, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(next((trained.folder / "checkpoints").glob("step-*")), model)
    before = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    outcome = llm_trainer("export", trained.folder, "--to", "hf", "--output", model)
    outcome.assert_one_message("is not empty", "--output")
    assert {path: path.read_bytes() for path in model.rglob("*") if path.is_file()} == before
    (tmp_path / "file").write_text("mine")
    llm_trainer("export", trained.folder, "--to", "hf", "--output", tmp_path / "file").assert_one_message("is a file")
    llm_trainer("import", model, "--output", tmp_path / "file").assert_one_message("is a file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")], ids=repr)
def test_what_stops_an_export_or_an_import_leaves_nothing(
    trained: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    good, place = tmp_path / "good", tmp_path / "new" / "place"
    assert llm_trainer("export", trained.folder, "--to", "hf", "--output", good).code == 0

    def stopped(*arguments: object, **options: object) -> None:
        raise stop

    monkeypatch.setattr("llm_trainer.models.weights.save_file", stopped)
    for words in (["export", trained.folder, "--to", "hf"], ["import", good]):
        assert llm_trainer(*words, "--output", place).code != 0
        assert not place.parent.exists()
    # One that is written over is none until it is whole again.
    assert llm_trainer("export", trained.folder, "--to", "hf", "--output", good).code != 0
    assert not (good / "config.json").exists()
    monkeypatch.undo()
    assert not [path for path in files_below(tmp_path) if ".tmp" in str(path)]
