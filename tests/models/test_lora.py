"""LoRA: only the adapters learn, and merging changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llm_trainer.common.errors import CheckpointError, ConfigError
from llm_trainer.models import TransformerLM
from llm_trainer.models.lora import apply_lora, load_lora, lora_layers, lora_parameters, merge_lora, save_lora
from tests.models.tiny import tiny_model, token_ids


def trained(**values) -> TransformerLM:
    """A model whose adapters have seen three updates."""
    model, ids = tiny_model(bias=True, **values), token_ids()
    apply_lora(model, r=4, alpha=8, targets=("q_proj", "v_proj", "down_proj"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    return model


@pytest.mark.covers("R045")
def test_only_adapters_learn_and_the_base_stays_bit_identical() -> None:
    before = tiny_model(bias=True).state_dict()
    model = trained()
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    adapters = {name for name in after if "lora_" in name}
    assert adapters == set(after) - set(before)
    assert len(adapters) == 2 * 3 * 2  # two layers, three targets, A and B
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in lora_parameters(model)}
    fresh = tiny_model(bias=True)
    torch.manual_seed(0)
    apply_lora(fresh, r=4, alpha=8, targets=("q_proj", "v_proj", "down_proj"))
    for (name, layer), (_, untrained) in zip(lora_layers(model), lora_layers(fresh)):
        assert layer.lora_B.abs().min(dim=1).values.max() > 0, name
        assert not torch.equal(layer.lora_A, untrained.lora_A), name


def test_fresh_adapters_change_nothing() -> None:
    model, ids = tiny_model(), token_ids()
    before = model(ids).logits
    apply_lora(model)
    assert torch.equal(model(ids).logits, before)


@pytest.mark.parametrize("tied", [True, False])
def test_merging_keeps_the_logits_and_gives_back_a_plain_model(tmp_path: Path, tied: bool) -> None:
    model, ids = trained(tie_embeddings=tied), token_ids()
    adapted = model(ids).logits
    assert (adapted - tiny_model(bias=True, tie_embeddings=tied)(ids).logits).abs().max() > 1e-2
    merge_lora(model)
    torch.testing.assert_close(model(ids).logits, adapted, atol=1e-5, rtol=0)
    assert not list(lora_layers(model))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert set(model.state_dict()) == set(tiny_model(bias=True, tie_embeddings=tied).state_dict())
    model.save_pretrained(tmp_path)
    assert torch.equal(TransformerLM.from_pretrained(tmp_path)(ids).logits, model(ids).logits)


def test_the_change_is_alpha_over_r_times_b_a() -> None:
    model, ids = trained(), token_ids()
    base = tiny_model(bias=True)
    with torch.no_grad():
        for name, layer in lora_layers(model):
            base.get_parameter(f"{name}.weight").add_(layer.lora_B @ layer.lora_A * (8 / 4))
    torch.testing.assert_close(base(ids).logits, model(ids).logits, atol=1e-5, rtol=0)


def test_saved_adapters_come_back_without_the_base(tmp_path: Path) -> None:
    model, ids = trained(), token_ids()
    save_lora(model, tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert size < 4 * sum(p.numel() for p in lora_parameters(model)) + 4096
    other = tiny_model(bias=True)
    load_lora(other, tmp_path)
    assert torch.equal(other(ids).logits, model(ids).logits)
    assert all(layer.r == 4 and layer.scaling == 2 for _, layer in lora_layers(other))


def test_dropout_on_the_adapter_acts_in_training_only() -> None:
    model, ids = tiny_model(), token_ids()
    apply_lora(model, dropout=0.5, targets=("q_proj",))
    for _, layer in lora_layers(model):
        torch.nn.init.normal_(layer.lora_B)
    assert torch.equal(model(ids).logits, model(ids).logits)
    model.train()
    assert not torch.equal(model(ids).logits, model(ids).logits)


def test_an_unknown_target_lists_the_layers_that_there_are() -> None:
    with pytest.raises(ConfigError, match="'c_attn'; the model has down_proj, gate_proj, k_proj, lm_head, o_proj"):
        apply_lora(tiny_model(), targets=("q_proj", "c_attn"))


def test_what_cannot_be_adapted_is_refused_and_nothing_is_frozen() -> None:
    model = tiny_model()
    for wrong, why in [
        ({"targets": ("lm_head",)}, "lm_head shares its weight with embed_tokens.weight"),
        ({"targets": ()}, "at least one target"),
        ({"r": 0}, "at least 1, not 0"),
    ]:
        with pytest.raises(ConfigError, match=why):
            apply_lora(model, **wrong)
        assert all(parameter.requires_grad for parameter in model.parameters())
    apply_lora(model)
    with pytest.raises(ConfigError, match="adapters already"):
        apply_lora(model)
    with pytest.raises(ConfigError, match="no LoRA adapters to merge"):
        merge_lora(tiny_model())


def test_adapters_of_another_model_are_refused(tmp_path: Path) -> None:
    save_lora(trained(), tmp_path)
    with pytest.raises(CheckpointError, match=r"no linear layer is named 'blocks\.1\.attention\.q_proj'"):
        load_lora(tiny_model(n_layers=1), tmp_path)
    with pytest.raises(
        CheckpointError, match=r"q_proj\.lora_A is of shape \[4, 32\], and should be of shape \[4, 64\]"
    ):
        load_lora(tiny_model(d_model=64), tmp_path)
    with pytest.raises(CheckpointError, match="holds no adapters"):
        load_lora(tiny_model(), tmp_path / "elsewhere")
    config = tmp_path / "adapter_config.json"
    config.write_text(config.read_text().replace('"bias": "none"', '"bias": "all", "use_dora": true'))
    with pytest.raises(CheckpointError, match="not supported here: bias='all', use_dora=True"):
        load_lora(tiny_model(), tmp_path)
