"""Optimizers by name, with the parameter groups that a transformer needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from llm_trainer.config import TrainingConfig
from llm_trainer.training.adafactor import Adafactor
from llm_trainer.training.muon import Muon


def create_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Build the optimizer that ``config`` names, over the parameters that require a gradient.

    Every group carries ``initial_lr``, its peak learning rate; the schedule multiplies it.

    Raises:
        ValueError: the model has no parameter to train.
    """
    decay, no_decay = split_by_decay(model)
    if not decay and not no_decay:
        raise ValueError("the model has no parameter that requires a gradient")
    groups = [
        {"params": decay, "weight_decay": config.weight_decay},
        {"params": no_decay, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    optimizer: torch.optim.Optimizer
    if config.optimizer == "adafactor":
        optimizer = Adafactor(groups, lr=config.learning_rate)
    elif config.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.beta1)
    elif config.optimizer == "muon":
        optimizer = _muon_with_adamw(model, config)
    else:
        optimizer = _adamw(groups, config)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return optimizer


def split_by_decay(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Trainable parameters that decay (matrices) and that do not (embeddings, norms, biases: R263)."""
    embeddings = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    decay: list[Tensor] = []
    no_decay: list[Tensor] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            plain = parameter.ndim < 2 or id(parameter) in embeddings
            (no_decay if plain else decay).append(parameter)
    return decay, no_decay


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Put every group at ``factor`` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def optimizers_of(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    """The optimizers inside a combined one, or the one itself."""
    return optimizer.parts if isinstance(optimizer, CombinedOptimizer) else [optimizer]


class CombinedOptimizer(torch.optim.Optimizer):
    """Several optimizers, each over its own parameters, that step as one."""

    def __init__(self, parts: Iterable[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        # The same dictionaries, not copies: a learning rate set here reaches the part.
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every part."""
        for part in self.parts:
            part.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none)


def _adamw(groups: list[dict[str, Any]], config: TrainingConfig) -> torch.optim.AdamW:
    # The fused kernel is 5 to 6 times cheaper than the loop on a CPU, and equal to it.
    parameters = [parameter for group in groups for parameter in group["params"]]
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=config.epsilon, fused=fused)


def _muon_with_adamw(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Muon for the matrices between hidden states; AdamW for embeddings, output layer, norms and biases."""
    hidden = set(map(id, _hidden_matrices(model)))
    decay, no_decay = split_by_decay(model)
    matrices = [parameter for parameter in decay if id(parameter) in hidden]
    others = [parameter for parameter in decay if id(parameter) not in hidden]
    groups = [{"params": others, "weight_decay": config.weight_decay}, {"params": no_decay, "weight_decay": 0.0}]
    adamw = _adamw([group for group in groups if group["params"]], config)
    if not matrices:
        return adamw
    muon = Muon(matrices, lr=config.muon_learning_rate, weight_decay=config.weight_decay)
    return CombinedOptimizer([muon, adamw])


def _hidden_matrices(model: nn.Module) -> Iterator[Tensor]:
    head = getattr(model, "lm_head", None)
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head:
            yield module.weight
