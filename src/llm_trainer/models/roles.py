"""What each parameter of a model is for, so that an optimizer can treat it accordingly.

| role | what | so |
|---|---|---|
| ``matrix`` | weights between hidden states | decays; Muon takes it |
| ``embedding`` | what turns the input into vectors: tables, convolutions over patches | does not decay |
| ``head`` | output layers that are not a table of tokens at the same time | decays |
| ``vector`` | norms, biases, scalars | does not decay |

The structure of a module says nearly always which is which. A component for which it does not has a method
``parameter_roles()`` that gives the role of some or all of its parameters, by their names within it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from llm_trainer.common.errors import UserError

Role = Literal["matrix", "embedding", "head", "vector"]
ROLES: tuple[Role, ...] = get_args(Role)
OUTPUT_LAYERS = ("lm_head", "score", "classifier")
"""Names that output layers have, here and in transformers."""
INPUT_MODULES = (nn.Embedding, nn.EmbeddingBag, _ConvNd)


def roles_of(model: nn.Module) -> dict[str, Role]:
    """The role of every parameter, in the order and by the names of ``model.named_parameters()``.

    Args:
        model: ours, one of transformers, or any module.

    Raises:
        UserError: a ``parameter_roles()`` names a parameter or a role that does not exist.
    """
    return {**roles_by_structure(model), **_declared(model, "")}


def roles_by_structure(model: nn.Module) -> dict[str, Role]:
    """What the structure of ``model`` says, and what its components (but not ``model`` itself) declare.

    Of nested components the outer one has the last word, because it could have asked the inner one.
    """
    roles: dict[int, Role] = {}
    output = _output_layer(model)
    modules = list(model.named_modules())
    for path, module in modules:
        is_output = module is output or path.rpartition(".")[2] in OUTPUT_LAYERS
        for name, parameter in module.named_parameters(recurse=False):
            role = _structural_role(module, is_output, name, parameter)
            # An output layer that shares its matrix with the table of tokens is that table.
            if id(parameter) not in roles or role == "embedding":
                roles[id(parameter)] = role
    by_name = dict(model.named_parameters(remove_duplicate=False))
    for path, module in reversed(modules):
        if path:
            roles.update({id(by_name[name]): role for name, role in _declared(module, f"{path}.").items()})
    return {name: roles[id(parameter)] for name, parameter in model.named_parameters()}


def _structural_role(module: nn.Module, is_output: bool, name: str, parameter: Tensor) -> Role:
    if isinstance(module, INPUT_MODULES) and name != "bias":
        return "embedding"
    if sum(size > 1 for size in parameter.shape) < 2:
        return "vector"
    if is_output:
        return "head"
    return "embedding" if "embed" in name else "matrix"


def _output_layer(model: nn.Module) -> nn.Module | None:
    """What a model of transformers calls its output layer, whatever its name."""
    ask = getattr(model, "get_output_embeddings", None)
    layer = ask() if callable(ask) else None
    return layer if isinstance(layer, nn.Module) else None


def _declared(module: nn.Module, prefix: str) -> dict[str, Role]:
    """What the module's own ``parameter_roles()`` says, checked."""
    declare = getattr(module, "parameter_roles", None)
    if not callable(declare):
        return {}
    declared: Mapping[str, Role] = declare()
    names = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    where = f"{type(module).__name__}.parameter_roles()"
    for name, role in declared.items():
        if name not in names:
            raise UserError(f"{where} names {name!r}, which is no parameter of it", hint=f"it has {sorted(names)}")
        if role not in ROLES:
            raise UserError(f"{where} gives {name!r} the role {role!r}", hint=f"roles are {', '.join(ROLES)}")
    return {f"{prefix}{name}": role for name, role in declared.items()}
