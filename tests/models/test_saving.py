"""Models on disk: the same model comes back, and nothing else is accepted."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from llm_trainer.common.errors import CheckpointError, ConfigError, CorruptionError, UserError
from llm_trainer.models import TransformerLM
from tests.models.tiny import POSITIONS, tiny_model, token_ids


@pytest.mark.covers("R303", "R304")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("position", POSITIONS)
def test_a_saved_model_comes_back(tmp_path: Path, position: str, tied: bool) -> None:
    model = tiny_model(position=position, tie_embeddings=tied, n_kv_heads=2)
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) is not tied
    torch.manual_seed(99)
    loaded = TransformerLM.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert not loaded.training
    assert torch.equal(loaded(token_ids()).logits, model(token_ids()).logits)
    assert (loaded.lm_head.weight is loaded.embed_tokens.weight) is tied


def test_narrow_weights_load_as_asked(tmp_path: Path) -> None:
    model = tiny_model().to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    assert TransformerLM.from_pretrained(tmp_path).embed_tokens.weight.dtype == torch.float32
    narrow = TransformerLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert torch.equal(narrow(token_ids()).logits, model(token_ids()).logits)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        TransformerLM.from_pretrained(tmp_path)
    tiny_model().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds no weights"):
        TransformerLM.from_pretrained(tmp_path)


def test_truncated_weights_are_named(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CorruptionError, match=r"model\.safetensors is not a whole safetensors file"):
        TransformerLM.from_pretrained(tmp_path)


def test_weights_of_another_model_are_named(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 70}))
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight is \[61, 32\] there, \[70, 32\] here"):
        TransformerLM.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_layers": 3}))
    with pytest.raises(CheckpointError, match=r"lacks blocks\.2\.attention\.k_proj\.weight.* and 4 more"):
        TransformerLM.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_layers": 1}))
    with pytest.raises(CheckpointError, match=r"has, in addition, blocks\.1\."):
        TransformerLM.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_layerz": 1}))
    with pytest.raises(ConfigError, match="n_layerz: unknown key"):
        TransformerLM.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="not the configuration of a model"):
        TransformerLM.from_pretrained(tmp_path)


class _Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


@pytest.mark.covers("R304")
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_pickle_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(UserError) as caught:
        TransformerLM.from_pretrained(tmp_path)
    assert not (tmp_path / "exploded").exists()
    assert "pickle" in str(caught.value) if name.endswith(".bin") else "not a whole" in str(caught.value)


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[:8], "model-2.safetensors": names[8:]}
    for shard, inside in shards.items():
        save_file({name: tensors[name] for name in inside}, tmp_path / shard)
    (tmp_path / "model.safetensors").unlink()
    weight_map = {name: shard for shard, inside in shards.items() for name in inside}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert torch.equal(TransformerLM.from_pretrained(tmp_path)(token_ids()).logits, model(token_ids()).logits)
    index.write_text(json.dumps({"weight_map": {**weight_map, "more.weight": "model-2.safetensors"}}))
    with pytest.raises(CorruptionError, match=r"names tensors that no file holds: more\.weight"):
        TransformerLM.from_pretrained(tmp_path)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1 of 2 weight files are missing: model-2\.safetensors"):
        TransformerLM.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device (os error 28)")],
)
def test_a_failed_save_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    old = tiny_model()
    old.save_pretrained(tmp_path)

    def full_disk(tensors, path, metadata) -> None:
        Path(path).write_bytes(b"half")
        raise error

    monkeypatch.setattr("llm_trainer.models.weights.save_file", full_disk)
    with pytest.raises(UserError, match="the disk is full"):
        tiny_model(n_layers=3).save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert torch.equal(TransformerLM.from_pretrained(tmp_path)(token_ids()).logits, old(token_ids()).logits)


def test_saved_weights_are_as_readable_as_any_file(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    (tmp_path / "ordinary").write_text("")
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "ordinary").stat().st_mode
