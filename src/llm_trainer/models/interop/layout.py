"""What one family of transformers' models and ours have to agree on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from llm_trainer.common.errors import CheckpointError, ConfigError
from llm_trainer.config import ModelConfig

# No family of transformers that we know has these parts.
OURS_ALONE: dict[str, tuple[Any, ...]] = {
    "embedding_norm": (False,),
    "bigram_embedding": (None,),
    "value_embeddings": (False,),
    "residual_shortcuts": (False,),
    "logit_softcap": (None,),
}
# How weights start is over once they are trained, and how attention is computed changes no result.
OF_NO_CONSEQUENCE = frozenset({"init_std", "zero_init_projections", "head_init_std", "attention_backend"})
DROPOUTS = frozenset({"dropout", "resid_dropout", "embd_dropout", "attn_dropout"})


class Layout(Protocol):
    """One family, both ways."""

    family: str
    """The kind of model: decoder, encoder or encoder_decoder; a model is compared with the layouts of its own."""

    def resembles(self, config: ModelConfig) -> bool:
        """Whether this is the layout to compare a model of this shape with, if it fits or not."""
        ...

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
            CheckpointError: there is none, or its numbers are whole: those of quantised weights mean something else.
        """
        if name not in self.tensors:
            raise CheckpointError(f"{self.origin} holds no tensor {name!r}: it is another model, or not whole")
        self._unused.discard(name)
        tensor = self.tensors[name]
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(f"{self.origin}: {name} is {kind}, as quantised weights are, which are not read")
        return tensor

    def take_part(self, name: str, part: int, parts: int, *, dim: int = 0) -> Tensor:
        """One of ``parts`` equal parts, along ``dim``, of the tensor of this name.

        Raises:
            CheckpointError: as :meth:`take`, or it has no such parts.
        """
        tensor = self.take(name)
        if tensor.ndim <= dim or tensor.shape[dim] % parts or not tensor.numel():
            raise CheckpointError(f"{self.origin} holds another model: {name} is {list(tensor.shape)} there")
        return tensor.chunk(parts, dim=dim)[part]

    def take_together(self, names: list[str]) -> Tensor:
        """Tensors of one shape, stacked.

        Raises:
            CheckpointError: as :meth:`take`, or their shapes or dtypes differ.
        """
        tensors = [self.take(name) for name in names]
        for name, tensor in zip(names, tensors, strict=True):
            if (tensor.shape, tensor.dtype) != (tensors[0].shape, tensors[0].dtype):
                raise CheckpointError(
                    f"{self.origin} holds another model: {name} is {tensor.dtype} {list(tensor.shape)} there, and "
                    f"{names[0]} {tensors[0].dtype} {list(tensors[0].shape)}"
                )
        return torch.stack(tensors)

    def skip(self, name: str) -> None:
        """Say that a tensor of this name, if there is one, is known and not needed."""
        self._unused.discard(name)

    def unused(self) -> list[str]:
        """The names neither taken nor skipped."""
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


def require_shape(
    config: ModelConfig, family: str, needed: Mapping[str, tuple[Any, ...]], spoken: Iterable[str]
) -> list[str]:
    """One sentence for each field whose value the family cannot express; a field that nobody mentions is one of them.

    A setting that is new to :class:`ModelConfig` is so refused everywhere until a layout learns to write it, and is
    never lost on the way.

    Args:
        config: the shape.
        family: for the sentences.
        needed: field -> the values that the family has.
        spoken: fields that the layout writes whatever their value.
    """
    mentioned = {*needed, *spoken} | OF_NO_CONSEQUENCE | DROPOUTS
    untouched = {
        name: (field.get_default(call_default_factory=True),)
        for name, field in ModelConfig.model_fields.items()
        if name not in mentioned
    }
    return require_values(config, family, {**needed, **untouched})


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
