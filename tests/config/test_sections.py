"""Sections: the documented constructors, the dialects of other tools, and what a wrong value says."""

from __future__ import annotations

import pytest

from llm_trainer.common.errors import ConfigError
from llm_trainer.config import DataConfig, GenerationConfig, ModelConfig, RunConfig, SFTConfig, TrainingConfig
from llm_trainer.config.base import Settings


@pytest.mark.covers("R031", "R032", "R042", "R049", "R050")
def test_documented_constructors() -> None:
    model = ModelConfig(vocab_size=32000, d_model=256, n_heads=4, n_layers=4, max_seq_len=512)
    assert (model.head_dim, model.kv_heads, model.ffn_dim) == (64, 4, 704)
    training = TrainingConfig(
        batch_size=2,
        learning_rate=8e-4,
        num_epochs=5,
        gradient_accumulation_steps=8,
        use_amp=False,
        device="cpu",
    )
    assert training.sequences_per_step() == 16
    assert DataConfig(dataset_name="wikitext", dataset_config="wikitext-2-raw-v1", max_length=512).split == "train"
    assert DataConfig(dataset_name="HuggingFaceTB/cosmopedia-20k", text_column="text", max_length=1024)


@pytest.mark.covers("R043", "R044", "R045", "R046", "R047", "R048")
def test_scaling_constructors_need_no_gpu() -> None:
    assert TrainingConfig(device="cuda", batch_size=16, use_amp=True, gradient_accumulation_steps=4).device == "cuda"
    assert TrainingConfig(use_accelerate=True, accelerate_mixed_precision="fp16").use_accelerate
    assert TrainingConfig(use_peft=True, peft_type="lora", peft_r=8, peft_alpha=16).peft_alpha == 16
    assert TrainingConfig(gradient_checkpointing=True).gradient_checkpointing
    assert TrainingConfig(use_ema=True, ema_decay=0.999).ema_decay == 0.999
    custom = TrainingConfig(optimizer="adafactor", lr_scheduler="polynomial", warmup_steps=2000)
    assert (custom.optimizer, custom.lr_scheduler, custom.warmup_steps) == ("adafactor", "polynomial", 2000)


@pytest.mark.covers("R053", "R055")
def test_plain_dictionaries_of_other_dialects() -> None:
    training = TrainingConfig.from_dict(
        {
            "learning_rate": 6e-4,
            "weight_decay": 0.1,
            "beta1": 0.9,
            "beta2": 0.95,
            "epsilon": 1e-8,
            "batch_size": 4,
            "gradient_accumulation_steps": 32,
            "max_steps": 100000,
            "warmup_steps": 2000,
            "save_steps": 1000,
            "eval_steps": 500,
            "fp16": True,
            "gradient_checkpointing": True,
            "dataloader_num_workers": 4,
        }
    )
    assert (training.precision, training.max_steps, training.dataloader_num_workers) == ("fp16", 100000, 4)
    notebook = TrainingConfig.from_dict(
        {
            "learning_rate": 5e-4,
            "per_device_train_batch_size": 4,
            "num_train_epochs": 1,
            "warmup_steps": 500,
            "logging_steps": 100,
            "save_steps": 1000,
        }
    )
    assert (notebook.batch_size, notebook.num_epochs, notebook.logging_steps) == (4, 1, 100)


@pytest.mark.covers("R054", "R059")
def test_instruction_config_is_the_default_of_sft() -> None:
    given = {"learning_rate": 5e-5, "batch_size": 8, "max_length": 2048, "num_epochs": 3, "warmup_ratio": 0.1}
    assert SFTConfig.from_dict(given).to_dict() == SFTConfig().to_dict()


@pytest.mark.covers("R037", "R038", "R039", "R040")
@pytest.mark.parametrize(
    "names",
    [
        {"n_positions": 512, "n_embd": 256, "n_layer": 4, "n_head": 4, "n_inner": 1024},
        {"sequence_length": 512, "hidden_size": 256, "num_layers": 4, "num_heads": 4, "intermediate_size": 1024},
        {"max_seq_length": 512, "num_dims": 256, "num_layers": 4, "num_heads": 4, "ffn_hidden_dims": 1024},
        {"block_size": 512, "dim": 256, "n_layers": 4, "n_heads": 4, "hidden_dim": 1024},
    ],
)
def test_model_dialects_mean_the_same(names: dict[str, int]) -> None:
    model = ModelConfig.from_dict(names)
    assert (model.max_seq_len, model.d_model, model.n_layers, model.n_heads, model.d_ff) == (512, 256, 4, 4, 1024)


@pytest.mark.covers("R037")
def test_gpt2_names_imply_the_gpt2_layout() -> None:
    names = {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 2048, "activation": "gelu"}
    model = ModelConfig.from_dict(names)
    assert (model.position, model.norm, model.bias, model.tie_embeddings) == ("learned", "layernorm", True, True)
    assert ModelConfig(d_model=768, n_heads=12).position == "rope"


@pytest.mark.covers("R056", "R057")
def test_attribute_assignment_by_any_name() -> None:
    model, training, data = ModelConfig(), TrainingConfig(), DataConfig()
    model.hidden_size = 1536
    model.num_layers = 24
    model.num_heads = 24
    training.batch_size = 12
    training.gradient_accumulation_steps = 4
    training.learning_rate = 3e-4
    training.target_epochs = 5
    training.use_packed_cache = True
    training.epoch_dataset_fraction = 0.8
    training.sequence_length = 512
    training.use_mixed_precision = True
    training.use_torch_compile = True
    training.use_flash_attention = True
    model.validate()
    training.validate()
    data.validate()
    assert (model.d_model, model.hidden_size, training.num_epochs, training.use_amp) == (1536, 1536, 5, True)
    assert training.sequences_per_step() == 48
    with pytest.raises(ConfigError, match="hidden_siz: unknown key; did you mean 'hidden_size'"):
        model.hidden_siz = 3


@pytest.mark.covers("R058")
@pytest.mark.parametrize(
    ("batch", "accumulation", "world", "expected"), [(2, 8, 1, 16), (12, 4, 1, 48), (12, 6, 2, 144)]
)
def test_effective_batch(batch: int, accumulation: int, world: int, expected: int) -> None:
    config = TrainingConfig(batch_size=batch, gradient_accumulation_steps=accumulation)
    assert config.sequences_per_step(world) == expected


@pytest.mark.covers("R066")
def test_all_problems_at_once_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError) as caught:
        TrainingConfig.from_dict({"learning_rte": 1e-3, "batch_size": "4", "max_steps": 0, "dropout": 0.1})
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    assert "learning_rte: unknown key; did you mean 'learning_rate'?" in text
    assert "batch_size: expected a valid integer, got '4'" in text
    assert "max_steps: expected greater than 0, got 0" in text


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (ModelConfig, {"d_model": 100, "n_heads": 7}, "d_model (100) must be a multiple of n_heads (7)"),
        (ModelConfig, {"d_model": 64, "n_heads": 8, "n_kv_heads": 3}, "multiple of n_kv_heads (3)"),
        (ModelConfig, {"n_embd": 64, "hidden_size": 64}, "'n_embd' and 'hidden_size' are two names of 'd_model'"),
        (ModelConfig, {"n_layers": 10**12, "n_experts": 4}, "n_layers: expected less than or equal to 10000"),
        (
            ModelConfig,
            {"position": "relative", "relative_max_distance": 16},
            "must be more than half of relative_buckets",
        ),
        (DataConfig, {"cache": "c", "paths": ["b"]}, "either a packed cache or the text itself"),
        (DataConfig, {"mixture": {"a": -1.0}}, "the share of a must be above 0"),
        (DataConfig, {"mixture_max_epochs": 2.0}, "are for a mixture"),
        (TrainingConfig, {"use_amp": False, "precision": "bf16"}, "use_amp: false contradicts precision: bf16"),
        (TrainingConfig, {"fp16": True, "precision": "bf16"}, "fp16: true contradicts precision: bf16"),
        (TrainingConfig, {"max_steps": 10, "warmup_steps": 20}, "warmup_steps (20) is more than max_steps (10)"),
        (DataConfig, {"dataset_name": "a", "paths": ["b"]}, "give either dataset_name or paths"),
        (GenerationConfig, {"temperature": 2.5}, "temperature: expected less than or equal to 2"),
        (GenerationConfig, {"num_beams": 2, "num_return_sequences": 3}, "must not exceed num_beams"),
    ],
)
def test_contradictions_are_named(section: type[Settings], values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        section.from_dict(values)
    assert message in str(caught.value)


def test_numbers_that_yaml_writes_as_floats() -> None:
    assert TrainingConfig.from_dict({"max_steps": 1e5}).max_steps == 100000
    with pytest.raises(ConfigError):
        TrainingConfig.from_dict({"max_steps": 1.5})
    with pytest.raises(ConfigError):
        TrainingConfig.from_dict({"max_steps": True})


def test_sections_of_a_run_must_fit() -> None:
    with pytest.raises(ConfigError, match=r"longer than model\.max_seq_len"):
        RunConfig(model=ModelConfig(max_seq_len=128), data=DataConfig(max_length=256))
