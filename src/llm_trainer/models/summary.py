"""What a model is made of: every parameter's name, shape and size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from llm_trainer.common.files import human_bytes
from llm_trainer.models.base import BaseLanguageModel
from llm_trainer.models.factory import build_model
from llm_trainer.models.interop import export_statement, export_targets
from llm_trainer.models.presets import PRESETS, preset


@dataclass(frozen=True)
class ParameterInfo:
    """One parameter."""

    name: str
    shape: tuple[int, ...]
    count: int
    trainable: bool
    shared_with: str | None = None
    """The name under which the same matrix was listed before, if it was; its count is then not added again."""


def list_parameters(model: nn.Module) -> list[ParameterInfo]:
    """All parameters in order, a shared matrix under each of its names."""
    first: dict[int, str] = {}
    rows = []
    for name, parameter in model.named_parameters(remove_duplicate=False):
        earlier = first.setdefault(id(parameter), name)
        rows.append(
            ParameterInfo(
                name=name,
                shape=tuple(parameter.shape),
                count=parameter.numel(),
                trainable=parameter.requires_grad,
                shared_with=None if earlier == name else earlier,
            )
        )
    return rows


def describe(model: BaseLanguageModel) -> str:
    """A table of all parameters, then the totals, and where the model can be exported to.

    Needs no memory: the model may be on the meta device.
    """
    rows = list_parameters(model)
    shapes = [" x ".join(map(str, row.shape)) for row in rows]
    width, shape_width = max(len(row.name) for row in rows), max(map(len, shapes))
    lines = []
    for row, shape in zip(rows, shapes, strict=True):
        note = f"  = {row.shared_with}" if row.shared_with else "" if row.trainable else "  frozen"
        lines.append(f"{row.name:<{width}}  {shape:>{shape_width}}  {row.count:>13,}{note}")
    config, total = model.config, model.num_parameters()
    cache = 2 * config.n_layers * config.kv_heads * config.head_dim * 4
    lines += [
        "",
        f"Model parameters: {total:,}",
        f"  trainable {model.num_parameters(trainable_only=True):,}, "
        f"without the tables that are looked up {model.num_parameters(non_embedding=True):,}, "
        f"{human_bytes(4 * total)} in float32",
        f"Key-value cache: {human_bytes(cache)} per token in float32",
        export_statement(config),
    ]
    return "\n".join(lines)


def describe_presets() -> str:
    """A table of the presets: size, how much of it is not in tables, and the layout of transformers, if any."""
    rows: list[tuple[str, ...]] = [("preset", "parameters", "not in tables", "exports as")]
    for name in PRESETS:
        config = preset(name)
        with torch.device("meta"):
            model = build_model(config)
        targets = [target.name for target in export_targets(config) if target.possible]
        sizes = (model.num_parameters(), model.num_parameters(non_embedding=True))
        rows.append((name, *(f"{size:,}" for size in sizes), ", ".join(targets) or "nothing"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}" for row in rows)
