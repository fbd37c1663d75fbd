"""Parameter groups: what decays, and how fast each role learns."""

from __future__ import annotations

from typing import Any

from torch import nn

from llm_trainer.config import TrainingConfig
from llm_trainer.models.roles import ROLES, Role, roles_of

DECAYING: tuple[Role, ...] = ("matrix", "head")
"""A norm or a bias that decays loses its meaning, and a table decays where a token is not seen."""


def trainable_by_role(model: nn.Module) -> dict[Role, list[nn.Parameter]]:
    """The parameters that require a gradient, in the model's order."""
    found: dict[Role, list[nn.Parameter]] = {role: [] for role in ROLES}
    roles = roles_of(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found[roles[name]].append(parameter)
    return found


def parameter_groups(parameters: dict[Role, list[nn.Parameter]], config: TrainingConfig) -> list[dict[str, Any]]:
    """Groups for an optimizer, decaying ones first.

    Roles with the same learning rate and weight decay share a group, because every group costs a call of the kernel.

    Args:
        parameters: by role.
        config: its learning rates and ``weight_decay``.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for role in sorted(parameters, key=lambda role: role not in DECAYING):
        weight_decay = config.weight_decay if role in DECAYING else 0.0
        if parameters[role]:
            groups.setdefault((learning_rate(role, config), weight_decay), []).extend(parameters[role])
    return [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]


def learning_rate(role: Role, config: TrainingConfig) -> float:
    """The peak learning rate of a role."""
    own = {
        "embedding": config.embedding_learning_rate,
        "head": config.head_learning_rate,
        "vector": config.vector_learning_rate,
    }.get(role)
    return config.learning_rate if own is None else own
