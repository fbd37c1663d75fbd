"""What cannot go to transformers, or come from it, is named. (What can is in tests/parity.)"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

from llm_trainer.common.errors import CheckpointError, ConfigError
from llm_trainer.models import TransformerLM
from llm_trainer.models.interop import (
    export_hf,
    export_statement,
    export_targets,
    from_hf,
    is_hf_folder,
    load_hf,
    to_hf,
)
from llm_trainer.models.lora import apply_lora
from tests.models.tiny import SMALL_MODEL_OPTIONS, tiny_config, tiny_model, token_ids

GPT2 = {"position": "learned", "norm": "layernorm", "bias": True, "activation": "gelu_tanh"}
LAYOUTS = [
    {},
    {"n_kv_heads": 2, "tie_embeddings": False},
    {"activation": "geglu", "bias": True, "rope_theta": 5e5, "resid_dropout": 0.1, "attn_dropout": 0.2},
    {"qk_norm": True, "n_kv_heads": 1},
    GPT2,
    {**GPT2, "tie_embeddings": False, "activation": "relu2", "d_ff": 48, "dropout": 0.1},
]


@pytest.mark.parametrize("values", LAYOUTS, ids=str)
def test_there_and_back_is_the_same_model(tmp_path: Path, values: dict) -> None:
    model, ids = tiny_model(**values), token_ids()
    export_hf(model, tmp_path, eos_token_id=0)
    assert is_hf_folder(tmp_path)
    for loaded in (load_hf(tmp_path), TransformerLM.from_pretrained(tmp_path), from_hf(*to_hf(model)).eval()):
        assert torch.equal(loaded(ids).logits, model(ids).logits)
        theirs = {**loaded.config.to_dict(), "dropout": 0, "n_kv_heads": 0, "d_ff": 0}
        ours = {**model.config.to_dict(), "dropout": 0, "n_kv_heads": 0, "d_ff": 0}
        resolved = ("residual_dropout", "embedding_dropout", "attention_dropout")
        places = ("resid_dropout", "embd_dropout", "attn_dropout")
        for place, name in zip(places, resolved):
            theirs[place], ours[place] = getattr(loaded.config, name), getattr(model.config, name)
        assert theirs == ours


def test_our_own_folder_is_not_taken_for_one_of_transformers(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    assert not is_hf_folder(tmp_path)
    assert not is_hf_folder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"position": "alibi"}, "position='alibi': Llama has only 'rope'"),
        ({"position": "sinusoidal"}, "position='sinusoidal'"),
        ({"pre_norm": False}, "pre_norm=False: Llama has only True"),
        ({"norm": "layernorm"}, "norm='layernorm': Llama has only 'rmsnorm'"),
        ({"activation": "relu"}, "activation='relu': Llama has only 'swiglu' or 'geglu'"),
        ({"qk_norm": True, "bias": True}, "bias=True: Qwen3 has only False"),
        ({**GPT2, "n_kv_heads": 2}, "n_kv_heads=2: GPT-2 has as many as n_heads=4"),
        ({**GPT2, "bias": False}, "bias=False: GPT-2 has only True"),
        ({**GPT2, "qk_norm": True}, "qk_norm=True: GPT-2 has only False"),
        ({**GPT2, "activation": "swiglu"}, "activation='swiglu': GPT-2 has only 'gelu_tanh'"),
        *((({name: value}, f"{name}=.*: Llama has")) for name, value in SMALL_MODEL_OPTIONS.items()),
        *((({**GPT2, name: value}, f"{name}=.*: GPT-2 has")) for name, value in SMALL_MODEL_OPTIONS.items()),
    ],
)
def test_a_shape_that_transformers_lacks_names_the_field(tmp_path: Path, values: dict, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        export_hf(tiny_model(**values), tmp_path)
    assert not list(tmp_path.iterdir())


GRID = {
    "position": ("rope", "learned", "alibi"),
    "norm": ("rmsnorm", "layernorm"),
    "activation": ("swiglu", "gelu_tanh"),
    "bias": (False, True),
    "qk_norm": (False, True),
    "n_kv_heads": (2, 4),
    "pre_norm": (True, False),
}


def test_the_statement_is_what_an_export_does() -> None:
    """Every layout that is called possible is written and read back, and every other is refused with these words."""
    shapes = [dict(zip(GRID, values)) for values in itertools.product(*GRID.values())]
    plain = [{}, {"qk_norm": True}, GPT2]
    shapes += [{**shape, "activation": activation} for shape in plain for activation in ("geglu", "relu2", "silu")]
    shapes += [{**shape, name: value} for shape in plain for name, value in SMALL_MODEL_OPTIONS.items()]
    shapes += [
        {**shape, "zero_init_projections": True, "tie_embeddings": False, "head_init_std": 0.01} for shape in plain
    ]
    exported = set()
    for shape in shapes:
        config = tiny_config(**shape, n_layers=1)
        targets = export_targets(config)
        assert {target.name for target in targets} == {"gpt2", "llama", "qwen3"}
        possible = [target.name for target in targets if target.possible]
        with torch.device("meta"):
            model = TransformerLM(config)
        if possible:
            values, tensors = to_hf(model)
            assert possible == [targets[0].name] == [values["model_type"]], shape
            with torch.device("meta"):
                assert from_hf(values, tensors).state_dict().keys() == model.state_dict().keys()
            assert export_statement(config) == f"Exports to transformers as {possible[0]}"
            exported.add(possible[0])
            continue
        with pytest.raises(ConfigError) as caught:
            to_hf(model)
        assert caught.value.problems == list(targets[0].problems), shape
        assert all(problem in export_statement(config) for problem in targets[0].problems)
    assert exported == {"gpt2", "llama", "qwen3"}


def test_each_layout_says_why_it_is_not_the_one() -> None:
    by_name = {target.name: target.problems for target in export_targets(tiny_config(qk_norm=True))}
    assert by_name["qwen3"] == ()
    assert by_name["llama"] == ("qk_norm=True: Llama has only False",)
    assert "position='rope': GPT-2 has only 'learned'" in by_name["gpt2"]


def test_adapters_must_be_merged_before_an_export(tmp_path: Path) -> None:
    model = tiny_model()
    apply_lora(model)
    with pytest.raises(ConfigError, match="merge them first"):
        export_hf(model, tmp_path)


@pytest.mark.parametrize(
    ("values", "changes", "why"),
    [
        ({}, {"model_type": "mamba"}, "model_type='mamba' is not supported; known: gpt2, llama, qwen3"),
        ({}, {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling=.*yarn.* is not supported"),
        ({}, {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_parameters=.*linear"),
        ({}, {"head_dim": 16}, "head_dim=16 is not supported"),
        ({}, {"mlp_bias": True}, "mlp_bias=True is not supported"),
        ({}, {"hidden_act": "relu"}, "hidden_act='relu' is not supported"),
        ({}, {"hidden_size": None}, "hidden_size is missing"),
        ({"qk_norm": True}, {"use_sliding_window": True}, "use_sliding_window=True is not supported"),
        ({"qk_norm": True}, {"attention_bias": True}, "attention_bias=True is not supported"),
        (GPT2, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True is not supported"),
        (GPT2, {"n_embd": None}, "n_embd is missing"),
    ],
)
def test_an_option_that_we_lack_is_named(tmp_path: Path, values: dict, changes: dict, why: str) -> None:
    export_hf(tiny_model(**values), tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    with pytest.raises(ConfigError, match=why):
        load_hf(tmp_path)


@pytest.mark.parametrize("values", [{}, GPT2], ids=["llama", "gpt2"])
def test_tensors_that_do_not_fit_are_named(values: dict) -> None:
    config, tensors = to_hf(tiny_model(**values))
    first = next(iter(tensors))
    with pytest.raises(CheckpointError, match=f"holds no tensor '{first}'"):
        from_hf(config, {name: tensor for name, tensor in tensors.items() if name != first})
    with pytest.raises(CheckpointError, match=r"'other\.weight' among them"):
        from_hf(config, {**tensors, "other.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight is \[60, 32\] there, \[61, 32\] here"):
        from_hf(config, {**tensors, first: tensors[first][:60]})
    # Constants of older versions are no parameters.
    from_hf(config, {**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)})
