"""The promise that everything rests on: what is trained and logged is the next-token loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llm_trainer.training import Trainer
from llm_trainer.training.fused_loss import linear_cross_entropy, reference_linear_cross_entropy
from llm_trainer.training.objectives import CausalLM, shifted_targets
from tests.training.helpers import ListLoader, Recorder, config, tiny_model


def independent_loss(model: torch.nn.Module, loader: ListLoader, start: int, stop: int) -> float:
    """Cross-entropy of position t's prediction against token t + 1, with none of the code under test."""
    total, count = 0.0, 0
    for row in range(start, stop):
        row %= len(loader)
        logits = model(input_ids=loader.rows[row : row + 1]).logits[0]
        labels = loader.labels(row)
        for position in range(len(labels) - 1):
            if labels[position + 1] != -100:
                total -= float(F.log_softmax(logits[position].double(), dim=0)[labels[position + 1]])
                count += 1
    return total / count


@pytest.mark.covers("R242", "R245")
@pytest.mark.parametrize(("batch", "accumulation"), [(16, 1), (8, 2), (4, 4), (1, 16), (5, 3)])
def test_trained_loss_is_the_shifted_cross_entropy(batch: int, accumulation: int) -> None:
    loader = ListLoader(batch_size=batch)
    model, recorder = tiny_model(), Recorder()
    with torch.no_grad():
        expected = independent_loss(model, loader, 0, batch * accumulation)
    settings = config(max_steps=1, batch_size=batch, gradient_accumulation_steps=accumulation, logging_steps=1)
    result = Trainer(model, config=settings, callbacks=[recorder]).fit(loader)
    assert result.loss == pytest.approx(expected, abs=1e-6)
    assert recorder.logs[0]["train/loss"] == pytest.approx(expected, abs=1e-6)
    assert recorder.logs[0]["train/perplexity"] == pytest.approx(math.exp(expected), rel=1e-5)


@pytest.mark.covers("R245")
def test_accumulation_does_not_change_the_gradient() -> None:
    weights = []
    for batch, accumulation in ((16, 1), (4, 4), (2, 8)):
        model = tiny_model()
        settings = config(max_steps=3, batch_size=batch, gradient_accumulation_steps=accumulation, optimizer="sgd")
        Trainer(model, config=settings).fit(ListLoader(batch_size=batch))
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    for other in weights[1:]:
        assert torch.allclose(weights[0], other, atol=1e-6)


def loss_and_gradients(function: Callable[..., Tensor], *arguments: Tensor, bf16: bool, **options: Any) -> list[Tensor]:
    """Of half the loss, so that the factor from above counts."""
    leaves = [argument.detach().requires_grad_() for argument in arguments[:2]]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        loss = function(*leaves, *arguments[2:], **options)
    return [loss.detach(), *torch.autograd.grad(loss * 0.5, leaves)]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("ignored", [0, 4, 9])
@pytest.mark.parametrize("options", [{}, {"softcap": 5.0}, {"z_loss": 0.01}, {"softcap": 5.0, "z_loss": 0.01}], ids=str)
@pytest.mark.parametrize("chunk", [3, 7, None])
def test_fused_head_and_loss_equal_the_definition(
    chunk: int | None, options: dict[str, float], ignored: int, bf16: bool
) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(2, 9, 16), torch.randn(31, 16)
    targets = torch.randint(0, 31, (2, 9))
    targets[0, :ignored] = -100
    expected = loss_and_gradients(reference_linear_cross_entropy, hidden, weight, targets, bf16=bf16, **options)
    got = loss_and_gradients(linear_cross_entropy, hidden, weight, targets, bf16=bf16, chunk=chunk, **options)
    tolerance = 3e-2 if bf16 else 1e-5
    for reference, fused in zip(expected, got):
        assert torch.allclose(reference, fused, rtol=tolerance, atol=tolerance)


def test_tokens_that_the_model_knows_keep_a_true_gradient_in_bfloat16() -> None:
    """1 - p of p = 0.9998 is nothing but rounding in bfloat16; the loss and its gradient must come from the misses."""
    torch.manual_seed(0)
    weight = torch.nn.functional.normalize(torch.randn(50, 64), dim=1)
    targets = torch.randint(0, 50, (1, 400))
    hidden = weight[targets] * 16  # the right logit is 16, the others lie around 0
    exact = loss_and_gradients(reference_linear_cross_entropy, hidden, weight, targets, bf16=False)
    assert 1e-6 < exact[0] / 400 < 1e-2
    for got, true in zip(loss_and_gradients(linear_cross_entropy, hidden, weight, targets, bf16=True), exact):
        assert (got - true).norm() < 0.03 * true.norm()


def test_the_loss_of_a_large_batch_is_not_rounded_in_one_direction() -> None:
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(1, 4000, 16), torch.randn(200, 16), torch.randint(0, 200, (1, 4000))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        exact = linear_cross_entropy(hidden, weight, targets)  # without gradients: float32 after the product
        trained = linear_cross_entropy(hidden.requires_grad_(), weight, targets)
    assert trained.item() == pytest.approx(exact.item(), rel=3e-5)


def test_z_loss_is_trained_and_not_validated() -> None:
    model = tiny_model()
    batch = {"input_ids": torch.arange(8).view(1, 8), "labels": torch.arange(8).view(1, 8)}
    plain, priced = CausalLM(), CausalLM(z_loss=0.1)
    normalisers = model(batch["input_ids"]).logits[:, :-1].logsumexp(-1)
    difference = priced.loss(model, batch).total - plain.loss(model, batch).total
    assert difference.item() == pytest.approx(0.1 * normalisers.square().sum().item(), rel=1e-4)
    with torch.no_grad():
        assert priced.loss(model, batch).total == plain.loss(model, batch).total


def test_fused_loss_needs_no_gradient_to_evaluate() -> None:
    hidden, weight = torch.randn(1, 5, 8), torch.randn(11, 8, requires_grad=True)
    targets = torch.randint(0, 11, (1, 5))
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, targets)
    assert not loss.requires_grad
    assert torch.allclose(loss, reference_linear_cross_entropy(hidden, weight, targets).detach(), atol=1e-5)


def test_a_batch_without_targets_is_worth_nothing() -> None:
    model = tiny_model()
    batch = {"input_ids": torch.zeros(2, 8, dtype=torch.long), "labels": torch.full((2, 8), -100)}
    terms = CausalLM().loss(model, batch)
    assert (float(terms.total.detach()), terms.count) == (0.0, 0)
    assert torch.equal(shifted_targets(torch.tensor([[1, 2, 3]])), torch.tensor([[2, 3, -100]]))


@pytest.mark.covers("R242", "R252")
def test_overfits_one_sentence_and_says_it() -> None:
    from llm_trainer.generation.generator import generate_ids

    sentence = torch.arange(3, 19).unsqueeze(0)  # 16 different tokens
    loader = ListLoader(sequences=1, batch_size=1)
    loader.rows = sentence
    loader.labels = lambda row: sentence[0]  # type: ignore[method-assign]
    model = tiny_model()
    result = Trainer(model, config=config(max_steps=200, batch_size=1, learning_rate=3e-3)).fit(loader)
    assert result.loss < 0.1
    generated = generate_ids(model, sentence[:, :1], max_new_tokens=15, do_sample=False)
    assert generated.tolist() == sentence.tolist()


@pytest.mark.covers("R241")
def test_trains_a_transformers_model() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    hf_config = transformers.GPT2Config(vocab_size=61, n_positions=16, n_embd=32, n_layer=2, n_head=4)
    model = transformers.GPT2LMHeadModel(hf_config)
    loader, recorder = ListLoader(sequences=8), Recorder()
    model.eval()
    with torch.no_grad():
        expected = independent_loss(model, loader, 0, 4)
    model.config.resid_pdrop = 0.0
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    settings = config(max_steps=10, learning_rate=3e-3)
    Trainer(model, config=settings, callbacks=[recorder]).fit(loader)
    assert recorder.losses[0] == pytest.approx(expected, abs=1e-5)
    assert recorder.losses[-1] < recorder.losses[0] - 0.3


@pytest.mark.covers("R072")
def test_custom_training_step() -> None:
    class Halved(Trainer):
        def custom_training_step(self, batch):  # type: ignore[no-untyped-def]
            terms = super().custom_training_step(batch)
            terms.total = terms.total / 2
            return terms

    plain = Trainer(tiny_model(), config=config(max_steps=1)).fit(ListLoader())
    halved = Halved(tiny_model(), config=config(max_steps=1)).fit(ListLoader())
    assert halved.loss == pytest.approx(plain.loss / 2, rel=1e-6)
