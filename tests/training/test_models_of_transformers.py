"""``Trainer(model of transformers, tokenizer, config)``: unchanged models, their own loss, packed documents apart."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from llm_trainer.config import TrainingConfig
from llm_trainer.models.interop import load_hf
from llm_trainer.tokenizer import BPETokenizer, HFTokenizerWrapper
from llm_trainer.training import Trainer
from llm_trainer.training.callbacks import Callback
from llm_trainer.training.objectives import CausalLM

transformers = pytest.importorskip("transformers")

TEXTS = [
    f"The {colour} fox jumps over {number} lazy dogs." for colour in ("red", "blue", "grey") for number in range(40)
]
ROW = 24


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer().train_from_iterator(TEXTS, vocab_size=290)


def folder_with(kind: str, folder: Path) -> Path:
    """A model of transformers with random weights, as a local folder."""
    small = {"vocab_size": 290, "bos_token_id": None, "eos_token_id": None, "initializer_range": 0.1}
    if kind == "gpt2":
        config = transformers.GPT2Config(**small, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    elif kind == "opt":
        names = {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = transformers.OPTConfig(vocab_size=290, **names, word_embed_proj_dim=32, init_std=0.3, dropout=0.0)
    else:
        names = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = transformers.AutoConfig.for_model(kind, **small, **names, num_key_value_heads=2)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def model_from(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder)


def settings(**values: Any) -> TrainingConfig:
    return TrainingConfig.from_dict(
        {
            "device": "cpu",
            "batch_size": 4,
            "sequence_length": ROW,
            "warmup_steps": 0,
            "num_threads": 1,
            "tune": False,
            "precision": "fp32",
            "learning_rate": 3e-3,
            "weight_decay": 0.0,
            **values,
        }
    )


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.mark.covers("R241")
@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3"])
def test_it_trains_resumes_and_saves(kind: str, tokenizer: BPETokenizer, tmp_path: Path) -> None:
    start = folder_with(kind, tmp_path / "start")
    whole = Trainer(
        model_from(start), tokenizer, settings(max_steps=8), run_dir=tmp_path / "whole", callbacks=[Losses()]
    )
    result = whole.fit(TEXTS)
    assert result.step == 8
    assert math.isclose(Losses.of(whole)[0], math.log(290), abs_tol=1.0)
    assert result.loss < 0.9 * Losses.of(whole)[0]
    # stopped after four steps, and on from there: the same weights as without the stop
    halves = tmp_path / "halves"
    first = Trainer(model_from(start), tokenizer, settings(max_steps=8), run_dir=halves, callbacks=[Stop()])
    assert first.fit(TEXTS).outcome == "interrupted"
    assert 4 <= first.state.step < 8
    again = Trainer(model_from(start), tokenizer, settings(max_steps=8), run_dir=halves)
    again.fit(TEXTS, resume=True)
    for name, tensor in weights_of(whole.model).items():
        assert torch.equal(weights_of(again.model)[name], tensor), name
    whole.save_model(tmp_path / "saved")
    ids = torch.tensor([tokenizer.encode(TEXTS[0])])
    with torch.no_grad():
        expected = whole.model.eval()(ids).logits
        torch.testing.assert_close(model_from(tmp_path / "saved").eval()(ids).logits, expected)
        torch.testing.assert_close(load_hf(tmp_path / "saved")(ids).logits, expected, atol=2e-5, rtol=1e-5)


class Losses(Callback):
    """The training loss of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_step(self, trainer: Trainer) -> None:
        self.losses.append(trainer.loss)

    @staticmethod
    def of(trainer: Trainer) -> list[float]:
        return next(callback.losses for callback in trainer.callbacks if isinstance(callback, Losses))


class Stop(Callback):
    """Asks the run to stop after four steps, as a signal would."""

    def on_step(self, trainer: Trainer) -> None:
        if trainer.state.step == 4:
            trainer._guard.requested = "SIGTERM"


@pytest.mark.covers("R241")
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_loss_is_the_one_of_transformers(kind: str, tmp_path: Path) -> None:
    model = model_from(folder_with(kind, tmp_path)).eval()
    ids = torch.randint(0, 290, (3, 20), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[1, :7] = -100
    terms = CausalLM().loss(model, {"input_ids": ids, "labels": labels})
    theirs = model(ids, labels=labels).loss
    assert (terms.total / terms.count).item() == pytest.approx(theirs.item(), rel=1e-6)


def packed(documents: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """One row that holds all documents, as packing makes it."""
    ids = torch.cat(documents)[None]
    numbers = torch.cat([torch.full_like(document, index + 1) for index, document in enumerate(documents)])[None]
    positions = torch.cat([torch.arange(len(document)) for document in documents])[None]
    return {"input_ids": ids, "labels": ids.clone(), "position_ids": positions, "document_ids": numbers}


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral", "qwen3"])
def test_packed_documents_stay_apart(kind: str, tmp_path: Path) -> None:
    model = model_from(folder_with(kind, tmp_path)).eval()
    generator = torch.Generator().manual_seed(1)
    documents = [torch.randint(0, 290, (length,), generator=generator) for length in (5, 9, 4)]
    batch = packed(documents)
    # The first token of a document is not predicted from the last of the one before.
    batch["labels"][0, [0, 5, 14]] = -100
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        terms = CausalLM().loss(model, batch)
    alone = [CausalLM().loss(model, {"input_ids": ids[None], "labels": ids[None]}) for ids in documents]
    assert int(terms.count) == sum(int(part.count) for part in alone)
    assert terms.total.item() == pytest.approx(sum(part.total.item() for part in alone), rel=1e-5)


def test_a_model_that_sees_across_documents_is_told_of_once(tmp_path: Path) -> None:
    model = model_from(folder_with("opt", tmp_path)).train()
    generator = torch.Generator().manual_seed(1)
    batch = packed([torch.randint(0, 290, (length,), generator=generator) for length in (5, 9)])
    with pytest.warns(UserWarning, match="OPTForCausalLM sees across documents"):
        CausalLM().loss(model, batch)
    assert model.training
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CausalLM().loss(model, batch)


@pytest.mark.covers("R241")
def test_adapters_and_a_wrapped_tokenizer(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    wrapped = HFTokenizerWrapper(tmp_path / "tokenizer")
    model = model_from(folder_with("llama", tmp_path / "start"))
    before = weights_of(model)
    trainer = Trainer(model, wrapped, settings(max_steps=6, use_peft=True, learning_rate=2e-2))
    trainer.fit(TEXTS)
    assert trainer.loss < 5.6
    changed = {
        name for name, tensor in weights_of(model).items() if name not in before or not tensor.equal(before[name])
    }
    assert changed
    assert all("lora_" in name for name in changed)
