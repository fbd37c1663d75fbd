"""The documented Python API, from a data set's name to a generated text, in a few seconds."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch

from llm_trainer.config import DataConfig, ModelConfig, TrainingConfig
from llm_trainer.models import BaseLanguageModel, TransformerLM
from llm_trainer.models.attention import MultiHeadAttention
from llm_trainer.models.embeddings import PositionalEncoding
from llm_trainer.models.layers import LayerNorm, RMSNorm
from llm_trainer.tokenizer import BPETokenizer, HFTokenizerWrapper
from llm_trainer.training import Trainer
from llm_trainer.training.optimizer import create_optimizer
from llm_trainer.training.scheduler import create_scheduler
from llm_trainer.training.utils import GradientClipping
from llm_trainer.utils.generation import GenerationConfig, TextGenerator
from llm_trainer.workflows.load import load_model

SHAPE = {"d_model": 32, "n_heads": 2, "n_layers": 1, "max_seq_len": 64}
QUICK = {"device": "cpu", "num_threads": 1, "report_to": []}


@pytest.mark.covers("R239", "R240", "R011")
def test_from_a_name_to_a_text(workplace: Path) -> None:
    tokenizer = BPETokenizer()
    tokenizer.train_from_dataset(dataset_name="wikitext", dataset_config="wikitext-2-raw-v1", vocab_size=300)
    model_config = ModelConfig(vocab_size=tokenizer.vocab_size, **SHAPE)
    config = TrainingConfig(batch_size=2, gradient_accumulation_steps=2, num_epochs=2, use_amp=False, **QUICK)
    model = TransformerLM(model_config)
    trainer = Trainer(model, tokenizer, config)
    data = DataConfig(dataset_name="wikitext", dataset_config="wikitext-2-raw-v1", max_length=64)
    result = trainer.train_from_config(model_config, data)
    assert result.outcome == "finished" and result.metrics["validation/loss"] < 6
    generator = TextGenerator(model, tokenizer)
    for options in (
        GenerationConfig(temperature=0.8, top_p=0.9, do_sample=True, max_new_tokens=4),
        GenerationConfig(num_beams=5, temperature=1.0, max_new_tokens=4),
        GenerationConfig(top_k=50, temperature=0.7, max_new_tokens=4),
    ):
        assert generator.generate("The future of AI is", options).startswith("The future of AI is")


@pytest.mark.covers("R239")
def test_a_run_made_in_python_is_a_run_like_any_other(workplace: Path) -> None:
    """The command line finds its model, its tokenizer and its configuration."""
    tokenizer = BPETokenizer().train_from_dataset("your_dataset", vocab_size=300)
    model_config = ModelConfig(vocab_size=tokenizer.vocab_size, **SHAPE)
    trainer = Trainer(TransformerLM(model_config), tokenizer, TrainingConfig(max_steps=2, batch_size=2, **QUICK))
    trainer.train_from_config(model_config, DataConfig(dataset_name="your_dataset", max_length=64))
    loaded = load_model(None)
    assert loaded.run_dir is not None and (loaded.run_dir / "config.yaml").exists()
    assert loaded.tokenizer.fingerprint() == tokenizer.fingerprint()
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name


@pytest.mark.covers("R010")
def test_trained_tokenizer_can_be_saved_in_the_layout_of_transformers(workplace: Path) -> None:
    tokenizer = BPETokenizer()
    tokenizer.train_from_dataset("your_dataset", vocab_size=300)
    tokenizer.save_pretrained("./my_tokenizer")
    wrapped = HFTokenizerWrapper("./my_tokenizer")
    text = "a quiet river 🙂 naïve"
    assert wrapped.encode(text) == tokenizer.encode(text)


@pytest.mark.covers("R243")
def test_parts_for_a_loop_of_ones_own() -> None:
    """Optimizer, schedule and clipping, used by hand."""
    torch.manual_seed(0)
    config = TrainingConfig(optimizer="adafactor", lr_scheduler="polynomial", warmup_steps=2, learning_rate=0.03)
    model = TransformerLM(ModelConfig(vocab_size=50, activation="swiglu", pre_norm=False, **SHAPE))
    optimizer = create_optimizer(model, config)
    scheduler = create_scheduler(optimizer, config, 20)
    clip = GradientClipping(1.0)
    ids = torch.randint(0, 50, (4, 16))
    losses = []
    for _ in range(20):
        output = model(input_ids=ids, labels=ids)
        optimizer.zero_grad()
        output.loss.backward()
        clip(model.parameters())
        optimizer.step()
        scheduler.step()
        losses.append(float(output.loss.detach()))
    assert losses[-1] < losses[0] - 0.2


@pytest.mark.covers("R243")
def test_the_reference_loop() -> None:
    """``training_loop`` takes any model whose output has a loss."""
    from llm_trainer.training.utils import training_loop

    torch.manual_seed(0)
    config = TrainingConfig(learning_rate=0.01, warmup_steps=0, **QUICK)
    model = TransformerLM(ModelConfig(vocab_size=50, **SHAPE))
    optimizer = create_optimizer(model, config)
    scheduler = create_scheduler(optimizer, config, 10)
    ids = torch.randint(0, 50, (4, 16))
    batches = [{"input_ids": ids, "labels": ids}] * 10
    before = float(model(**batches[0]).loss.detach())
    training_loop(model, batches, optimizer, scheduler)
    assert float(model(**batches[0]).loss.detach()) < before - 0.3


@pytest.mark.covers("R244")
def test_output_by_attribute_and_by_key() -> None:
    model = TransformerLM(ModelConfig(vocab_size=50, **SHAPE))
    ids = torch.randint(0, 50, (2, 8))
    output = model(input_ids=ids, labels=ids)
    assert output.loss is output["loss"] and output.logits is output["logits"]
    assert output.logits.shape == (2, 8, 50)


@pytest.mark.covers("R234")
def test_texts_become_rows_of_one_length() -> None:
    """As ``datasets.map`` calls a tokenizer: 512 tokens a row, padded or cut, the padding masked."""
    tokenizer = BPETokenizer()
    rows = tokenizer(["short", "x" * 600], truncation=True, padding="max_length", max_length=512)
    assert [len(row) for row in rows["input_ids"]] == [512, 512]
    assert [sum(row) for row in rows["attention_mask"]] == [5, 512]


def test_components_can_be_studied_alone() -> None:
    config = ModelConfig(vocab_size=50, **SHAPE)
    x = torch.randn(2, 5, 32)
    for norm in (LayerNorm(32), RMSNorm(32)):
        assert norm(x).shape == x.shape
    assert PositionalEncoding(32, 64)(x).shape == x.shape
    assert "config" in inspect.signature(MultiHeadAttention).parameters and MultiHeadAttention(config) is not None
    assert issubclass(TransformerLM, BaseLanguageModel)


def test_documented_scaling_options_are_valid_without_a_gpu() -> None:
    cpu = TrainingConfig(batch_size=2, learning_rate=8e-4, gradient_accumulation_steps=8, use_amp=False, device="cpu")
    assert cpu.sequences_per_step() == 16
    assert TrainingConfig(device="cuda", batch_size=16, use_amp=True, gradient_accumulation_steps=4).use_amp
    assert TrainingConfig(use_accelerate=True, accelerate_mixed_precision="fp16").accelerate_mixed_precision == "fp16"
    assert TrainingConfig(use_peft=True, peft_type="lora", peft_r=8, peft_alpha=16).peft_r == 8
