"""What cannot go to transformers, or come from it, is named. (What can is in tests/parity.)"""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import psutil
import pytest
import torch

from llm_trainer.common.errors import CheckpointError, ConfigError, CorruptionError, UserError
from llm_trainer.models import TransformerLM
from llm_trainer.models.factory import load_pretrained
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
    {"d_head": 12, "n_kv_heads": 2, "activation": "geglu_tanh"},
    {"qk_norm": True, "d_head": 24},
    {"qkv_bias": True, "tie_embeddings": False},
    {"sliding_window": 5},
    {"qk_norm": True, "sliding_window": 5, "full_attention_layers": [0]},
    {"n_experts": 4, "d_expert": 24},
    {"n_experts": 3, "d_expert": 24, "qk_norm": True, "moe_every": 2, "sliding_window": 9},
    {"rope_scaling": "linear", "rope_factor": 2.0},
    {"rope_scaling": "dynamic", "rope_factor": 2.0, "rope_original_length": 16},
    {"rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_length": 8, "rope_beta_fast": 16.0},
    {"rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_length": 16, "qk_norm": True},
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
        resolved_on_the_way = dict.fromkeys(("dropout", "n_kv_heads", "d_ff", "normalise_expert_weights"), 0)
        theirs = {**loaded.config.to_dict(), **resolved_on_the_way}
        ours = {**model.config.to_dict(), **resolved_on_the_way}
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
        ({"activation": "relu"}, "activation='relu': Llama has only 'swiglu' or 'geglu' or 'geglu_tanh'"),
        ({"qk_norm": True, "bias": True}, "bias=True: Qwen3 has only False"),
        ({**GPT2, "n_kv_heads": 2}, "n_kv_heads=2: GPT-2 has as many as n_heads=4"),
        ({**GPT2, "bias": False}, "bias=False: GPT-2 has only True"),
        ({**GPT2, "qk_norm": True}, "qk_norm=True: GPT-2 has only False"),
        ({**GPT2, "activation": "swiglu"}, "activation='swiglu': GPT-2 has only 'gelu_tanh'"),
        ({**GPT2, "d_head": 16}, "d_head=16: GPT-2 has only d_model / n_heads"),
        ({**GPT2, "qkv_bias": False}, "qkv_bias=False: GPT-2 has it only as bias=True"),
        ({"bias": True, "qkv_bias": False}, "qkv_bias=False: Llama has it only as bias=True"),
        ({"qk_norm": True, "qkv_bias": True}, "qkv_bias=True: Qwen3 has it only as bias=False"),
        *((({name: value}, f"{name}=.*: Llama has")) for name, value in SMALL_MODEL_OPTIONS.items()),
        *((({**GPT2, name: value}, f"{name}=.*: GPT-2 has")) for name, value in SMALL_MODEL_OPTIONS.items()),
    ],
)
def test_a_shape_that_transformers_lacks_names_the_field(tmp_path: Path, values: dict, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        export_hf(tiny_model(**values), tmp_path)
    assert not list(tmp_path.iterdir())


GRID = {
    "position": ("rope", "learned"),
    "norm": ("rmsnorm", "layernorm"),
    "activation": ("swiglu", "gelu_tanh"),
    "bias": (False, True),
    "qk_norm": (False, True),
    "n_kv_heads": (2, 4),
    "qkv_bias": (None, True),
}
DECODERS = {"gpt2", "llama", "mistral", "qwen2", "qwen3"}


def test_the_statement_is_what_an_export_does() -> None:
    """Every layout that is called possible is written and read back, and every other is refused with these words."""
    shapes = [dict(zip(GRID, values)) for values in itertools.product(*GRID.values())]
    plain = [{}, {"qk_norm": True}, {"qkv_bias": True}, {"sliding_window": 7}, GPT2]
    shapes += [{**shape, "activation": activation} for shape in plain for activation in ("geglu", "relu2", "silu")]
    shapes += [{**shape, **other} for shape in plain for other in ({"position": "alibi"}, {"pre_norm": False})]
    shapes += [{**shape, name: value} for shape in plain for name, value in SMALL_MODEL_OPTIONS.items()]
    shapes += [
        {**shape, "zero_init_projections": True, "tie_embeddings": False, "head_init_std": 0.01} for shape in plain
    ]
    exported = set()
    for shape in shapes:
        config = tiny_config(**shape, n_layers=1)
        targets = export_targets(config)
        assert {target.name for target in targets} >= DECODERS
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
    assert exported == DECODERS


def test_each_layout_says_why_it_is_not_the_one() -> None:
    by_name = {target.name: target.problems for target in export_targets(tiny_config(qk_norm=True))}
    assert by_name["qwen3"] == ()
    assert by_name["llama"] == ("qk_norm=True: Llama has only False",)
    assert "position='rope': GPT-2 has only 'learned'" in by_name["gpt2"]


def test_experts_that_were_balanced_by_a_bias_stay_at_home(tmp_path: Path) -> None:
    model = tiny_model(n_experts=4)
    model.blocks[1].feed_forward.router.expert_bias[2] = 0.01
    with pytest.raises(ConfigError, match=r"(?s)blocks\.1\..*expert_bias is not 0: .*Mixtral has none"):
        export_hf(model, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"n_shared_experts": 1}, "n_shared_experts=1: Mixtral has only 0"),
        ({"router_scores": "sigmoid"}, "router_scores='sigmoid': Mixtral has only 'softmax'"),
        ({"moe_every": 2}, "moe_every=2, first_dense_layers=0: Mixtral has experts in every layer"),
        ({"experts_per_token": 1}, "normalise_expert_weights=None: Mixtral has only True"),
    ],
)
def test_experts_that_transformers_lacks_name_the_field(tmp_path: Path, values: dict, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        export_hf(tiny_model(n_experts=4, **values), tmp_path)


def test_adapters_must_be_merged_before_an_export(tmp_path: Path) -> None:
    model = tiny_model()
    apply_lora(model)
    with pytest.raises(ConfigError, match="merge them first"):
        export_hf(model, tmp_path)


@pytest.mark.parametrize(
    ("values", "changes", "why"),
    [
        ({}, {"model_type": "mamba"}, "model_type='mamba' is not supported; known: gpt2, "),
        ({}, {"rope_scaling": {"rope_type": "longrope", "factor": 4.0}}, "rope_type='longrope' is not supported"),
        ({}, {"rope_scaling": {"type": "yarn"}}, "rope_type='yarn' needs a factor"),
        ({}, {"rope_scaling": {"type": "linear", "factor": 2.0, "odd": 3}}, "rope_scaling: odd=3 is not supported"),
        ({}, {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
        ({}, {"max_position_embeddings": None}, "max_position_embeddings is missing"),
        ({}, {"num_attention_heads": 5}, r"d_head|head_dim|multiple of"),
        ({}, {"mlp_bias": True}, "mlp_bias=True is not supported"),
        ({}, {"hidden_act": "relu"}, "hidden_act='relu' is not supported"),
        ({}, {"hidden_size": None}, "hidden_size is missing"),
        (
            {"qk_norm": True},
            {"use_sliding_window": True, "sliding_window": 4, "layer_types": ["full_attention", "chunked"]},
            "layer_types=.*chunked.* is not supported",
        ),
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


def test_a_setting_that_no_layout_mentions_is_refused_and_never_lost() -> None:
    """Whatever is added to the configuration stays at home until a layout learns to write it."""
    harmless = ("init_std", "zero_init_projections", "attention_backend", "dropout")
    for name, value in (("global_tokens", 3), ("sparse_block", 4), ("full_attention_every", 2)):
        pattern = {"sliding_window": 4} if name in ("global_tokens", "full_attention_every") else {}
        for target in export_targets(tiny_config(**pattern, **{name: value})):
            said = any(problem.startswith(f"{name}=") for problem in target.problems)
            written = name == "full_attention_every" and target.name in ("qwen2", "qwen3")
            assert said or written or not target.problems, (target.name, target.problems)
            assert not (target.possible and not written), target.name
    assert export_targets(tiny_config(**dict.fromkeys(harmless[:1], 0.5), dropout=0.1))[0].possible


def test_a_fixed_ntk_scaling_goes_as_the_base_that_it_is() -> None:
    model = tiny_model(rope_scaling="ntk", rope_factor=4.0)
    values, tensors = to_hf(model)
    assert "rope_scaling" not in values
    assert values["rope_theta"] == pytest.approx(10000.0 * 4 ** (8 / 6))
    torch.testing.assert_close(from_hf(values, tensors).eval()(token_ids()).logits, model(token_ids()).logits)


@pytest.mark.parametrize("size", [1, 9000, 10**9])
def test_shards_load_whatever_was_there_before(tmp_path: Path, size: int) -> None:
    model, ids = tiny_model(), token_ids()
    export_hf(tiny_model(vocab_size=99), tmp_path, shard_size=9000)
    export_hf(tiny_model(vocab_size=98), tmp_path)
    written = export_hf(model, tmp_path, shard_size=size)
    assert sorted(tmp_path.glob("*.safetensors")) == sorted(written)
    assert (tmp_path / "model.safetensors.index.json").exists() == (len(written) > 1)
    assert len(written) == {1: 20, 9000: 12, 10**9: 1}[size]
    assert torch.equal(load_hf(tmp_path)(ids).logits, model(ids).logits)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    export_hf(tiny_model(), tmp_path, shard_size=9000)
    (tmp_path / "model-00002-of-00012.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1 of 12 weight files are missing: model-00002-of-00012\.safetensors"):
        load_hf(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_export_can_be_narrower_than_the_model(tmp_path: Path, dtype: torch.dtype) -> None:
    model = tiny_model()
    export_hf(model, tmp_path, dtype=dtype)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["dtype"] == values["torch_dtype"] == str(dtype).removeprefix("torch.")
    loaded = load_hf(tmp_path)
    assert next(loaded.parameters()).dtype == torch.float32
    torch.testing.assert_close(loaded.embed_tokens.weight, model.embed_tokens.weight.to(dtype).float(), atol=0, rtol=0)


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


@pytest.mark.parametrize(
    ("values", "changes", "why"),
    [
        ({}, {"hidden_size": "wide"}, "hidden_size='wide': expected a number"),
        ({}, {"num_attention_heads": 0}, "num_attention_heads=0: expected more than 0"),
        ({}, {"rms_norm_eps": float("nan")}, "norm_eps"),
        ({}, {"model_type": ["llama"]}, r"model_type=\['llama'\]: expected a word"),
        ({}, {"rope_parameters": "linear"}, "rope_parameters='linear': expected a mapping"),
        ({}, {"rope_parameters": {"rope_theta": "much"}}, "rope_parameters: rope_theta='much': expected a number"),
        ({}, {"quantization_config": {"bits": 4}}, "quantised weights are not read"),
        ({}, {"num_hidden_layers": 10**12}, "expected at most 10,000"),
        ({"qk_norm": True}, {"num_hidden_layers": 10**12}, "expected at most 10,000"),
        ({}, {"num_hidden_layers": 9999}, "9,999 layers are more than the"),
        ({}, {"intermediate_size": 10**12}, "no model has d_ff"),
        ({}, {"intermediate_size": 10**9}, "asks for .* parameters, and its weights hold"),
        ({}, {"vocab_size": 2**31 - 1, "hidden_size": 2**31 - 2, "head_dim": 8}, "make no model|weights hold"),
        ({}, {"max_position_embeddings": 2**31 - 1}, "the tables of a context of 2,147,483,647 tokens"),
        (GPT2, {"n_positions": 10**9}, "asks for"),
        ({"n_experts": 4}, {"intermediate_size": None}, "intermediate_size is missing"),
        ({"n_experts": 4, "qk_norm": True}, {"mlp_only_layers": 3}, "mlp_only_layers=3: expected a list"),
    ],
    ids=str,
)
def test_a_configuration_that_makes_no_sense_is_one_message_and_no_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict, changes: dict, why: str
) -> None:
    memory = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(total=2**33))
    export_hf(tiny_model(**values), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    began = time.monotonic()
    with pytest.raises(UserError, match=why):
        load_pretrained(tmp_path)
    assert time.monotonic() - began < 5


def test_our_own_configuration_is_not_believed_either(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "d_ff": 10**9}))
    with pytest.raises(CheckpointError, match=r"asks for .* parameters, and its weights hold"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("index", ["../model.safetensors", "/model.safetensors", "..", "", 3], ids=str)
def test_an_index_cannot_name_files_outside_its_folder(tmp_path: Path, index: object) -> None:
    folder = tmp_path / "model"
    export_hf(tiny_model(), folder, shard_size=9000)
    export_hf(tiny_model(), tmp_path)
    path = folder / "model.safetensors.index.json"
    places = json.loads(path.read_text())["weight_map"]
    path.write_text(json.dumps({"weight_map": {**places, next(iter(places)): index}}))
    with pytest.raises(CorruptionError, match=r"not in its folder|is no index of weights"):
        load_hf(folder)
    for nonsense in ("[]", "{}", '{"weight_map": []}'):
        path.write_text(nonsense)
        with pytest.raises(CorruptionError, match="is no index of weights"):
            load_hf(folder)


@pytest.mark.parametrize("values", [{}, GPT2, {"n_experts": 4}, {"n_experts": 4, "qk_norm": True}], ids=str)
def test_whatever_is_done_to_a_tensor_is_one_message(values: dict) -> None:
    config, tensors = to_hf(tiny_model(**values))
    for name in [name for name in tensors if ".1." not in name and ".experts.2" not in name]:
        tensor = tensors[name]
        for changed in (tensor[:-1], tensor.unsqueeze(0), tensor.new_zeros(()), tensor.new_zeros(0)):
            with pytest.raises(CheckpointError):
                from_hf(config, {**tensors, name: changed})


def test_weights_in_whole_numbers_are_taken_for_what_they_are() -> None:
    config, tensors = to_hf(tiny_model())
    name = "model.layers.0.mlp.up_proj.weight"
    with pytest.raises(CheckpointError, match=f"{name} is int8, as quantised weights are"):
        from_hf(config, {**tensors, name: tensors[name].char()})


def test_a_dynamic_scaling_keeps_its_length(tmp_path: Path) -> None:
    model = tiny_model(rope_scaling="dynamic", rope_factor=4.0, rope_original_length=8, max_seq_len=64)
    export_hf(model, tmp_path)
    assert load_hf(tmp_path).config.max_seq_len == 64
