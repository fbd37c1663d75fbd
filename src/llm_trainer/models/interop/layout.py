"""What one family of transformers' models and ours have to agree on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from llm_trainer.common.errors import CheckpointError, ConfigError
from llm_trainer.config import ModelConfig

# No family of transformers that we know has these parts. (How weights start does not matter: it is over.)
OURS_ALONE: dict[str, tuple[Any, ...]] = {
    "embedding_norm": (False,),
    "bigram_embedding": (None,),
    "value_embeddings": (False,),
    "residual_shortcuts": (False,),
    "logit_softcap": (None,),
}


class Layout(Protocol):
    """One family, both ways."""

    def export_problems(self, config: ModelConfig) -> list[str]:
        """Why a model of this shape cannot be written in the family's layout; empty if it can."""
        ...

    def config_to_hf(self, config: ModelConfig) -> dict[str, Any]:
        """The content of ``config.json``."""
        ...

    def config_from_hf(self, values: Mapping[str, Any]) -> ModelConfig:
        """Our configuration, from the content of ``config.json``."""
        ...

    def tensors_to_hf(self, config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their names and orientations, from ours."""
        ...

    def tensors_from_hf(self, config: ModelConfig, names: Iterable[str], source: TensorSource) -> dict[str, Tensor]:
        """Ours, one for each of ``names``, from theirs."""
        ...


@dataclass
class TensorSource:
    """Their tensors; remembers which were used, so that those left over can be named."""

    tensors: Mapping[str, Tensor]
    origin: str

    def __post_init__(self) -> None:
        self._unused = set(self.tensors)
        self._missing: list[str] = []

    def has(self, name: str) -> bool:
        """Whether there is a tensor of this name."""
        return name in self.tensors

    def take(self, name: str) -> Tensor:
        """The tensor of this name.

        Raises:
            CheckpointError: there is none.
        """
        if name not in self.tensors:
            raise CheckpointError(f"{self.origin} holds no tensor {name!r}: it is another model, or not whole")
        self._unused.discard(name)
        return self.tensors[name]

    def unused(self) -> list[str]:
        """The names never taken."""
        return sorted(self._unused)


def require_values(config: ModelConfig, family: str, needed: Mapping[str, tuple[Any, ...]]) -> list[str]:
    """One sentence for each field of ``config`` whose value the family cannot express."""
    problems = []
    for field, allowed in needed.items():
        value = getattr(config, field)
        if value not in allowed:
            wanted = "none" if allowed == (None,) else "only " + " or ".join(map(repr, allowed))
            problems.append(f"{field}={value!r}: {family} has {wanted}")
    return problems


def refuse(values: Mapping[str, Any], family: str, plain: Mapping[str, tuple[Any, ...]]) -> None:
    """Stop at options of ``config.json`` that would change the result and that our models do not have.

    Args:
        values: the content of ``config.json``.
        family: for the message.
        plain: option -> the values that change nothing. An absent option changes nothing.

    Raises:
        ConfigError: naming every other value.
    """
    problems = [
        f"{key}={values[key]!r} is not supported"
        for key, harmless in plain.items()
        if key in values and values[key] not in harmless
    ]
    if problems:
        raise ConfigError(problems, source=f"the configuration of this {family} model")


def needed_value(values: Mapping[str, Any], key: str, family: str) -> Any:
    """A value that ``config.json`` must have.

    Raises:
        ConfigError: it is absent.
    """
    if values.get(key) is None:
        raise ConfigError([f"{key} is missing"], source=f"the configuration of this {family} model")
    return values[key]
