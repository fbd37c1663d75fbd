"""Well-known shapes have well-known sizes. Built on the meta device: no memory, no time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from llm_trainer.common.errors import ConfigError
from llm_trainer.config import ModelConfig
from llm_trainer.models import PRESETS, TransformerLM, build_model, preset
from llm_trainer.models.interop.llama2c_tree import llama2c_tree
from llm_trainer.models.summary import describe, describe_presets, list_parameters
from tests.models.tiny import tiny_model


def count(config: ModelConfig) -> int:
    with torch.device("meta"):
        model = build_model(config)
    assert all(parameter.is_meta for parameter in model.parameters())
    return model.num_parameters()


@pytest.mark.covers("R064", "R157", "R040", "R160")
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt2_124m", 124_439_808),
        ("gpt2_350m", 354_823_168),
        ("llama_1b", 1_100_048_384),
        ("llama2c_15m", 15_191_712),
        ("stories15m", 15_191_712),
        ("nano", 19_926_120),
        ("qwen3_nano", 5_311_232),
        ("moe_nano", 9_792_256),
        ("mistral_nano", 5_048_576),
        ("bert_base", 109_514_298),
        ("t5_small", 60_506_624),
        ("t5_v1_1_small", 76_961_152),
        ("transformer_2017", 63_054_848),
        ("lightlm", 213_366_528),
    ],
)
def test_presets_have_their_published_sizes(name: str, parameters: int) -> None:
    assert count(preset(name)) == parameters


@pytest.mark.covers("R037")
def test_the_gpt2_names_of_the_handbook_give_its_model() -> None:
    names = {"vocab_size": 50257, "n_positions": 2048, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": 3072}
    assert count(ModelConfig.from_dict({**names, "activation": "gelu", "dropout": 0.1})) == 125_226_240
    assert count(preset("gpt2_124m", max_seq_len=2048)) == 125_226_240


def test_every_preset_is_a_valid_configuration() -> None:
    assert all(preset(name).to_dict()["d_model"] == values["d_model"] for name, values in PRESETS.items())


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="named 'gpt2_125m'; did you mean 'gpt2_124m'"):
        preset("gpt2_125m")


@pytest.mark.covers("R157", "R158")
def test_the_description_lists_name_shape_and_count_of_every_parameter() -> None:
    with torch.device("meta"):
        model = TransformerLM(preset("gpt2_124m"))
    text = describe(model)
    lines = text.splitlines()
    assert "Model parameters: 124,439,808" in lines
    assert lines[0].split() == ["embed_tokens.weight", "50257", "x", "768", "38,597,376"]
    for name, parameter in model.named_parameters():
        line = next(line for line in lines if line.startswith(f"{name} "))
        assert " x ".join(map(str, parameter.shape)) in line
        assert f"{parameter.numel():,}" in line
    assert any(line.startswith("lm_head.weight") and line.endswith("= embed_tokens.weight") for line in lines)
    assert "73,728" not in text
    assert "Key-value cache: 72.0 KB per token" in text  # 2 x 12 layers x 768 x 4 bytes


def test_the_list_of_presets_says_how_large_each_is_and_where_it_can_go() -> None:
    rows = {line.split()[0]: line.split()[1:] for line in describe_presets().splitlines()}
    assert set(rows) == {"preset", *PRESETS}
    assert rows["gpt2_124m"] == ["124,439,808", "85,056,000", "gpt2"]
    assert rows["qwen3_nano"][-1] == "qwen3"
    assert rows["llama_1b"][-1] == "llama"
    assert rows["nano"][-1] == "nothing"
    page = Path(__file__).parents[2] / "docs" / "concepts" / "model.md"
    shown = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d,]+) \| (\w+) \|$", page.read_text("utf-8"), re.MULTILINE)
    assert {name: values for name, *values in shown} == {name: rows[name] for name in PRESETS}


def test_a_model_says_where_it_can_go() -> None:
    plain, small = tiny_model(), tiny_model(logit_softcap=15.0, qk_norm=True)
    for text in (describe(plain), str(plain)):
        assert "Exports to transformers as llama" in text
    for text in (describe(small), str(small)):
        assert "Does not export to transformers; as qwen3 it would" in text
        assert "logit_softcap=15.0: Qwen3 has none" in text
    assert f"{plain.num_parameters():,} parameters" in str(plain)


def test_the_nano_presets_train_a_step() -> None:
    ids = torch.randint(0, 300, (2, 16), generator=torch.Generator().manual_seed(0))
    for name in ("nano", "qwen3_nano"):
        torch.manual_seed(0)
        model = TransformerLM(preset(name, vocab_size=300, n_layers=2, d_model=64))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        losses = []
        for _ in range(4):
            loss = model(ids, labels=ids).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(torch.tensor(300.0).log().item(), abs=0.3)  # it starts knowing nothing
        assert losses[-1] < losses[0] - 0.5, name


def test_rows_add_up_and_show_what_is_frozen() -> None:
    model = tiny_model()
    model.blocks[0].requires_grad_(False)
    rows = list_parameters(model)
    assert sum(row.count for row in rows if row.shared_with is None) == model.num_parameters()
    assert {row.name for row in rows if not row.trainable} == {
        name for name, _ in model.named_parameters() if name.startswith("blocks.0.")
    }
    assert sum("frozen" in line for line in describe(model).splitlines()) == 9


@pytest.mark.covers("R144")
def test_only_what_llama2c_can_hold_prints_as_llama2c() -> None:
    assert llama2c_tree(preset("llama2c_15m")).startswith("Transformer(\n  (tok_embeddings): Embedding(32000, 288)\n")
    with pytest.raises(ConfigError, match="qk_norm"):
        llama2c_tree(preset("qwen3_nano"))
