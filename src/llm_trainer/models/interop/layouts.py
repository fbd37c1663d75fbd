"""The layouts that we write and read, and which of them a model fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_trainer.common.errors import ConfigError
from llm_trainer.config import ModelConfig
from llm_trainer.models.interop.bert import BertLayout
from llm_trainer.models.interop.gpt2 import GPT2Layout
from llm_trainer.models.interop.layout import Layout
from llm_trainer.models.interop.llama import LLAMA, MISTRAL, QWEN2, QWEN3, LlamaLayout
from llm_trainer.models.interop.moe import MIXTRAL, QWEN3_MOE, MoELayout
from llm_trainer.models.interop.t5 import T5Layout
from llm_trainer.models.interop.values import require_kinds

# By ``model_type``. Within a family, the first that a configuration resembles is its layout; the last takes the rest.
LAYOUTS: dict[str, Layout] = {
    "gpt2": GPT2Layout(),
    "mixtral": MoELayout(MIXTRAL),
    "qwen3_moe": MoELayout(QWEN3_MOE),
    "qwen3": LlamaLayout(QWEN3),
    "qwen2": LlamaLayout(QWEN2),
    "mistral": LlamaLayout(MISTRAL),
    "llama": LlamaLayout(LLAMA),
    "bert": BertLayout(),
    "t5": T5Layout(),
}


@dataclass(frozen=True)
class ExportTarget:
    """Whether a model can be written in one layout of transformers."""

    name: str
    """The ``model_type``, such as gpt2 or llama."""
    problems: tuple[str, ...]
    """Why not, one sentence for each setting that stands in the way; none if it can."""

    @property
    def possible(self) -> bool:
        """Whether :func:`~llm_trainer.models.interop.convert.export_hf` writes this layout."""
        return not self.problems


def export_targets(config: ModelConfig) -> list[ExportTarget]:
    """Where a model of this shape can go, and what stands in the way elsewhere: every layout, the nearest first.

    At most one is possible, for each has parts that the others lack.

    Example:
        >>> nearest = export_targets(ModelConfig(qk_norm=True, logit_softcap=15.0))[0]
        >>> nearest.name, nearest.problems
        ('qwen3', ('logit_softcap=15.0: Qwen3 has none',))
    """
    targets = [
        ExportTarget(name, tuple(layout.export_problems(config)))
        for name, layout in LAYOUTS.items()
        if layout.family == config.family
    ]
    nearest = nearest_layout(config)
    return sorted(targets, key=lambda target: (target.name != nearest, len(target.problems)))


def export_statement(config: ModelConfig) -> str:
    """The same for a person: one line, and one more for each setting in the way of the nearest layout."""
    targets = export_targets(config)
    if not targets:
        return f"Does not export to transformers: family={config.family!r} has no layout there that is written here"
    if targets[0].possible:
        return f"Exports to transformers as {targets[0].name}"
    return "\n  ".join(
        (f"Does not export to transformers; as {targets[0].name} it would, were it not for", *targets[0].problems)
    )


def nearest_layout(config: ModelConfig) -> str | None:
    """The ``model_type`` of the layout that a model of this shape is compared with, if its family has any."""
    return next(
        (name for name, layout in LAYOUTS.items() if layout.family == config.family and layout.resembles(config)), None
    )


def layout_for(config: ModelConfig) -> Layout:
    """The layout of a model of this shape.

    Raises:
        ConfigError: none; the message names each field that stands in the way.
    """
    name = nearest_layout(config)
    problems = [export_statement(config)] if name is None else LAYOUTS[name].export_problems(config)
    if name is None or problems:
        raise ConfigError(problems, source="a model that cannot be exported to transformers")
    return LAYOUTS[name]


def layout_named(values: Mapping[str, Any]) -> Layout:
    """The layout that the content of a ``config.json`` names.

    Raises:
        ConfigError: we have no such layout, or a value in it is of the wrong kind.
    """
    require_kinds(values)
    kind = values.get("model_type")
    if kind not in LAYOUTS:
        raise ConfigError([f"model_type={kind!r} is not supported; known: {', '.join(LAYOUTS)}"])
    return LAYOUTS[kind]


def config_from_hf(values: Mapping[str, Any]) -> ModelConfig:
    """The shape of one of our models from the content of transformers' ``config.json``.

    Raises:
        ConfigError: a family or an option that our models do not have.
    """
    return layout_named(values).config_from_hf(values)
