"""Recomputed activations: the same numbers, less memory."""

from __future__ import annotations

import copy

import pytest
import torch

from llm_trainer.models import TransformerLM
from llm_trainer.models.checkpointing import apply_activation_checkpointing
from tests.models.tiny import tiny_model, token_ids


def loss_and_gradients(model: TransformerLM, ids: torch.Tensor) -> tuple[float, list[torch.Tensor]]:
    torch.manual_seed(3)
    model.zero_grad()
    loss = model(ids, labels=ids).loss
    loss.backward()
    return loss.item(), [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.covers("R275")
@pytest.mark.parametrize("every", [1, 2, 3, 4])
@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_loss_and_gradients_do_not_change(pre_norm: bool, dropout: float, every: int) -> None:
    plain, ids = tiny_model(pre_norm=pre_norm, dropout=dropout, n_layers=3).train(), token_ids()
    recomputed = copy.deepcopy(plain)
    apply_activation_checkpointing(recomputed, every=every)
    expected_loss, expected = loss_and_gradients(plain, ids)
    loss, gradients = loss_and_gradients(recomputed, ids)
    assert loss == expected_loss
    for ours, theirs in zip(gradients, expected):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.covers("R036")
@pytest.mark.parametrize("pre_norm", [True, False])
def test_training_and_evaluation_agree(pre_norm: bool) -> None:
    model, ids = tiny_model(pre_norm=pre_norm), token_ids()
    expected = model(ids).logits
    apply_activation_checkpointing(model)
    assert torch.equal(model.train()(ids).logits, expected)
    assert torch.equal(model.eval()(ids).logits, expected)


@pytest.mark.covers("R275", "R276")
def test_the_more_blocks_are_recomputed_the_less_is_kept() -> None:
    def saved_numbers(model: TransformerLM) -> int:
        count = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal count
            count += tensor.numel()
            return tensor

        ids = token_ids(batch=4, seq=32)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(ids, labels=ids)
        return count

    plain = saved_numbers(tiny_model(n_layers=6).train())
    kept = []
    for every in (1, 2, 3, 6):
        model = tiny_model(n_layers=6).train()
        apply_activation_checkpointing(model, every=every)
        kept.append(saved_numbers(model))
    assert kept == sorted(kept)
    assert kept[-1] < plain
    assert kept[0] < plain / 3


def test_twice_is_once_and_a_copy_recomputes_its_own_blocks() -> None:
    model, ids = tiny_model(), token_ids()
    apply_activation_checkpointing(model)
    apply_activation_checkpointing(model)
    duplicate = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in duplicate.parameters():
            parameter.mul_(1.5)
    assert not torch.equal(model(ids).logits, duplicate(ids).logits)


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="blocks"):
        apply_activation_checkpointing(torch.nn.Linear(2, 2))
