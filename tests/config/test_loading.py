"""Files and command-line overrides: every problem with its line, and a saved file that repeats the run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from llm_trainer.common.errors import ConfigError, UserError
from llm_trainer.config import load_config, save_config

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def write(tmp_path: Path, text: str, name: str = "run.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.covers("R066")
def test_every_problem_is_named_with_its_line(tmp_path: Path) -> None:
    text = "device: cpu\nmodel:\n  d_model: 256\n  n_heds: 4\n  n_layers: '4'\nfoo: 3\nlearning_rate: 3\n"
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["training.max_steps=ten"])
    assert set(caught.value.problems) == {
        "line 4: model.n_heds: unknown key; did you mean 'n_heads'?",
        "line 5: model.n_layers: expected a valid integer, got '4'",
        "line 6: foo: unknown key",
        "line 7: learning_rate: belongs under a section; write training.learning_rate",
        "command line: training.max_steps: expected a valid integer, got 'ten'",
    }
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [1, 2]\n", "model: expected settings below it"),
        ("model:\n  d_model: 1\n  d_model: 2\n", "written twice (line 2 and line 3)"),
        ("model: {d_model: 1\n", "not valid YAML"),
        ("- a\n- b\n", "expected `key: value` lines"),
        ("seed: 1\ntraining: {seed: 2}\n", "seed: also given as training.seed"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    assert message in str(caught.value)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="is a folder"):
        load_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(UserError, match="not UTF-8"):
        load_config(tmp_path / "latin.yaml")


@pytest.mark.covers("R066")
def test_json_and_yaml_mean_the_same(tmp_path: Path) -> None:
    tree = {"model": {"d_model": 128, "n_heads": 4}, "training": {"learning_rate": 0.001}}
    from_json = load_config(write(tmp_path, json.dumps(tree), "a.json")).run
    from_yaml = load_config(write(tmp_path, "model: {d_model: 128, n_heads: 4}\ntraining: {learning_rate: 1e-3}\n")).run
    assert from_json.to_dict() == from_yaml.to_dict()
    assert from_yaml.training.learning_rate == 0.001


def test_overrides_replace_values_under_any_name(tmp_path: Path) -> None:
    path = write(tmp_path, "training:\n  lr: 0.5\n  epochs: 3\n")
    loaded = load_config(path, ["training.learning_rate=1e-3", "training.num_epochs=2", "data.paths=[a.txt, b.txt]"])
    assert (loaded.run.training.learning_rate, loaded.run.training.num_epochs) == (1e-3, 2)
    assert loaded.run.data.paths == ["a.txt", "b.txt"]
    assert loaded.notes == []
    with pytest.raises(ConfigError, match="is not an override"):
        load_config(path, ["training.learning_rate"])


def test_overrides_replace_shortcuts_and_the_other_way_round(tmp_path: Path) -> None:
    path = write(tmp_path, "device: cuda\ntraining:\n  seed: 1\n")
    loaded = load_config(path, ["training.device=cpu", "seed=7"]).run
    assert (loaded.training.device, loaded.training.seed) == ("cpu", 7)


def test_translated_names_are_reported(tmp_path: Path) -> None:
    notes = load_config(write(tmp_path, "training:\n  lr: 0.5\n")).notes
    assert notes == ["training: lr is read as learning_rate"]


@pytest.mark.covers("R067")
def test_saved_configuration_repeats_the_run(tmp_path: Path) -> None:
    run = load_config(None, ["model.n_embd=128", "model.n_head=4", "data.paths=[x.txt]", "training.fp16=true"]).run
    save_config(run, tmp_path / "config.yaml")
    again = load_config(tmp_path / "config.yaml").run
    assert again.to_dict() == run.to_dict()
    assert again.fingerprint() == run.fingerprint()
    assert load_config(None, ["training.seed=2"]).run.fingerprint() != load_config(None).run.fingerprint()


@pytest.mark.covers("R062")
def test_cpu_small_model_is_the_documented_file() -> None:
    documented = {
        "device": "cpu",
        "model": {"d_model": 256, "n_heads": 4, "n_layers": 4},
        "training": {
            "batch_size": 2,
            "gradient_accumulation_steps": 8,
            "use_amp": False,
            "dataloader_num_workers": 2,
        },
    }
    assert yaml.safe_load((ROOT / "configs" / "cpu_small_model.yaml").read_text(encoding="utf-8")) == documented


@pytest.mark.covers("R061", "R065")
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_configuration_loads(path: Path) -> None:
    loaded = load_config(path)
    assert loaded.notes == []
    names = {config.name for config in CONFIGS}
    assert {"cpu_small_model.yaml", "cpu_medium_model.yaml", "small_model.yaml", "medium_model.yaml"} <= names


def test_configuration_needs_no_torch() -> None:
    code = "import sys, llm_trainer.config; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
