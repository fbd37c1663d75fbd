"""Mixtral and Qwen3-MoE: Llama and Qwen3 with a mixture of experts. Their files hold each expert's matrices alone,
transformers 5 in memory all of a layer together, gate above up; either is read, the files' way is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from llm_trainer.common.errors import ConfigError
from llm_trainer.config import ModelConfig
from llm_trainer.models.interop.layout import TensorSource, needed_value, refuse
from llm_trainer.models.interop.llama import LlamaLayout, Variant

MIXTRAL = Variant("mixtral", "Mixtral", window="optional")
QWEN3_MOE = Variant("qwen3_moe", "Qwen3Moe", qk_norm=True, window="optional")
ROUTER, BIAS, EXPERTS = "router.linear.weight", "router.expert_bias", "experts"


@dataclass(frozen=True)
class ExpertNames:
    """What a family calls its parts."""

    count: str
    """The key of ``config.json`` with the number of experts."""
    module: str
    """Where the files keep them, in a layer."""
    gate: str
    up: str
    down: str


NAMES = {
    "mixtral": ExpertNames("num_local_experts", "block_sparse_moe", "w1", "w3", "w2"),
    "qwen3_moe": ExpertNames("num_experts", "mlp", "gate_proj", "up_proj", "down_proj"),
}


class MoELayout(LlamaLayout):
    """``MixtralForCausalLM`` and ``Qwen3MoeForCausalLM``.

    Args:
        variant: which of them.
    """

    needed: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "n_shared_experts": (0,),
        "router_scores": ("softmax",),
        "expert_scale": (1.0,),
    }
    spoken: ClassVar[tuple[str, ...]] = (
        *("n_experts", "experts_per_token", "d_expert", "moe_every", "first_dense_layers", "normalise_expert_weights"),
    )

    def __init__(self, variant: Variant) -> None:
        super().__init__(variant)
        self.names = NAMES[variant.model_type]
        self.everywhere = variant.model_type == "mixtral"

    def resembles(self, config: ModelConfig) -> bool:
        """Whether there are experts, and queries and keys are as the variant has them."""
        return config.n_experts > 0 and config.qk_norm == self.variant.qk_norm

    def export_problems(self, config: ModelConfig) -> list[str]:
        """Why a model of this shape is no Mixtral or Qwen3-MoE."""
        title = self.variant.title
        problems = super().export_problems(config)
        if config.n_experts == 0:
            problems.append(f"n_experts=0: {title} has some")
        if self.everywhere and (config.moe_every != 1 or config.first_dense_layers):
            places = f"moe_every={config.moe_every}, first_dense_layers={config.first_dense_layers}"
            problems.append(f"{places}: {title} has experts in every layer")
        if self.everywhere and config.n_experts and not config.normalises_expert_weights:
            problems.append(f"normalise_expert_weights={config.normalise_expert_weights!r}: {title} has only True")
        return problems

    def config_to_hf(self, config: ModelConfig) -> dict[str, Any]:
        """The content of ``config.json``."""
        values = super().config_to_hf(config)
        values |= {self.names.count: config.n_experts, "num_experts_per_tok": config.experts_per_token}
        if self.everywhere:
            return {**values, "intermediate_size": config.expert_dim}
        return {
            **values,
            "moe_intermediate_size": config.expert_dim,
            "norm_topk_prob": config.normalises_expert_weights,
            "decoder_sparse_step": config.moe_every,
            "mlp_only_layers": list(range(min(config.first_dense_layers, config.n_layers))),
        }

    def own_fields(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of the experts.

        Raises:
            ConfigError: other layers are dense than ours can be.
        """
        title = self.variant.title
        fields = {
            # transformers 5 calls it num_local_experts in every family.
            "n_experts": needed_value(
                {"num_experts": values.get("num_local_experts"), **values}, self.names.count, title
            ),
            "experts_per_token": needed_value(values, "num_experts_per_tok", title),
        }
        if self.everywhere:
            refuse(values, title, {"router_jitter_noise": (0.0, None)})
            return {
                **fields,
                "d_expert": needed_value(values, "intermediate_size", title),
                "normalise_expert_weights": True,
            }
        dense = values.get("mlp_only_layers") or []
        if dense != list(range(len(dense))):
            raise ConfigError(
                [f"mlp_only_layers={dense!r} is not supported: only the first layers can be without experts"],
                source=f"the configuration of this {title} model",
            )
        return {
            **fields,
            "d_expert": needed_value(values, "moe_intermediate_size", title),
            "normalise_expert_weights": bool(values.get("norm_topk_prob", False)),
            "moe_every": values.get("decoder_sparse_step", 1),
            "first_dense_layers": len(dense),
        }

    def tensors_to_hf(self, config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Renamed, and the experts apart.

        Raises:
            ConfigError: a router was balanced by a bias, for which these families have no place.
        """
        plain = {name: tensor for name, tensor in tensors.items() if not _is_expert(name)}
        result = super().tensors_to_hf(config, plain)
        for name, tensor in tensors.items():
            if not _is_expert(name):
                continue
            layer, part = _parts(name)
            place = f"model.layers.{layer}.{self.names.module}"
            if part == ROUTER:
                result[f"{place}.gate.weight"] = tensor
            elif part == BIAS:
                if not tensor.is_meta and bool(tensor.any()):
                    raise ConfigError(
                        [
                            f"{name} is not 0: experts were balanced by a bias (training.router_bias_rate), and "
                            f"{self.variant.title} has none; train with router_bias_rate=0 and router_aux_loss instead"
                        ],
                        source="a model that cannot be exported to transformers",
                    )
            else:
                theirs = self._expert_matrix(part)
                for number, expert in enumerate(tensor):
                    result[f"{place}.experts.{number}.{theirs}.weight"] = expert
        return result

    def tensors_from_hf(self, config: ModelConfig, names: Iterable[str], source: TensorSource) -> dict[str, Tensor]:
        """Renamed, and the experts of a layer together."""
        names = list(names)
        result = super().tensors_from_hf(config, [name for name in names if not _is_expert(name)], source)
        for name in names:
            if not _is_expert(name):
                continue
            layer, part = _parts(name)
            place = f"model.layers.{layer}.{self.names.module}"
            if not source.has(f"{place}.gate.weight"):
                place = f"model.layers.{layer}.mlp"
            if part == BIAS:
                result[name] = torch.zeros(config.n_experts)
            elif part == ROUTER:
                result[name] = source.take(f"{place}.gate.weight")
            elif source.has(f"{place}.experts.gate_up_proj"):
                result[name] = _from_fused(source, place, part)
            else:
                theirs = self._expert_matrix(part)
                experts = [f"{place}.experts.{number}.{theirs}.weight" for number in range(config.n_experts)]
                result[name] = source.take_together(experts)
        return result

    def _expert_matrix(self, part: str) -> str:
        """``experts.gate_proj.weight`` -> what the family calls it."""
        return {
            "gate_proj": self.names.gate,
            "up_proj": self.names.up,
            "down_proj": self.names.down,
        }[part.split(".")[1]]


def _is_expert(name: str) -> bool:
    return ".feed_forward.router." in name or ".feed_forward.experts." in name


def _parts(name: str) -> tuple[str, str]:
    """``blocks.3.feed_forward.router.linear.weight`` -> ("3", "router.linear.weight")."""
    _, layer, _, part = name.split(".", 3)
    return layer, part


def _from_fused(source: TensorSource, place: str, part: str) -> Tensor:
    """(experts, out, in) from transformers' tensors of a whole layer."""
    if part.startswith("experts.down_proj"):
        return source.take(f"{place}.experts.down_proj")
    number = 0 if part.startswith("experts.gate_proj") else 1
    return source.take_part(f"{place}.experts.gate_up_proj", number, 2, dim=1)
