"""LoRA: train a low-rank change of some matrices and leave the rest as it is (Hu et al. 2021,
https://arxiv.org/abs/2106.09685).

Applied from outside, by module name, to any model made of ``nn.Linear``: ours or one of transformers. Parameters keep
their names, so that a checkpoint of the base model still fits. Adapters are saved in the layout of the ``peft``
package.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_trainer.common.errors import CheckpointError, ConfigError
from llm_trainer.common.files import read_json, write_json
from llm_trainer.models.weights import load_tensors, save_weights

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
PEFT_PREFIX = "base_model.model."


class LoRALinear(nn.Linear):
    """``W x + (alpha / r) B A x``: a linear layer that takes over another's weight and adds a change of rank r.

    B starts at zero, so the model is unchanged until the first update.

    Args:
        base: its weight and bias are shared, not copied.
        r: rank of the change.
        alpha: its scale; the change is multiplied by alpha / r, so that r can vary without a new learning rate.
        dropout: on the input of the change.
    """

    def __init__(self, base: nn.Linear, r: int, alpha: float, dropout: float = 0.0) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would draw a weight only to throw it away
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.r, self.alpha, self.scaling = r, alpha, alpha / r
        self.dropout = nn.Dropout(dropout)
        self.lora_A = nn.Parameter(base.weight.new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        change = F.linear(F.linear(self.dropout(input), self.lora_A), self.lora_B)
        return F.linear(input, self.weight, self.bias) + self.scaling * change

    def merged(self) -> nn.Linear:
        """An ordinary linear layer with the change added to the weight, in place."""
        plain = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        with torch.no_grad():
            self.weight += (self.scaling * (self.lora_B.float() @ self.lora_A.float())).to(self.weight.dtype)
        plain.weight, plain.bias = self.weight, self.bias
        return plain

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{super().extra_repr()}, r={self.r}, alpha={self.alpha}"


def apply_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    targets: Sequence[str] = ("q_proj", "v_proj"),
) -> None:
    """Freeze ``model`` and give the linear layers of these names a trainable change.

    Args:
        model: changed in place.
        r: rank.
        alpha: scale.
        dropout: on the input of the change, in training.
        targets: last parts of module names (``"q_proj"``), or whole names (``"blocks.0.attention.q_proj"``).

    Raises:
        ConfigError: a target names no linear layer (the message lists those that there are) or one whose weight is
            shared with another module, the model has adapters already, or r is not positive.
    """
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    chosen = [name for name in linear if any(_matches(name, target) for target in targets)]
    problems = _problems(model, r, targets, linear, chosen)
    if problems:
        raise ConfigError(problems)
    model.requires_grad_(False)
    for name in chosen:
        _replace(model, name, LoRALinear(linear[name], r, alpha, dropout))


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """The layers that have adapters, with their names."""
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module


def lora_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of all adapters."""
    return [parameter for _, layer in lora_layers(model) for parameter in (layer.lora_A, layer.lora_B)]


def merge_lora(model: nn.Module) -> None:
    """Add every change to its weight, and make ``model`` an ordinary, wholly trainable model again, in place.

    Raises:
        ConfigError: it has no adapters.
    """
    layers = list(lora_layers(model))
    if not layers:
        raise ConfigError(["the model has no LoRA adapters to merge"])
    for name, layer in layers:
        _replace(model, name, layer.merged())
    model.requires_grad_(True)


def save_lora(model: nn.Module, folder: str | Path) -> None:
    """Write the adapters alone, as ``peft`` does: ``adapter_model.safetensors`` and ``adapter_config.json``.

    Raises:
        ConfigError: the model has no adapters.
    """
    layers = dict(lora_layers(model))
    if not layers:
        raise ConfigError(["the model has no LoRA adapters to save"])
    tensors = {}
    for name, layer in layers.items():
        tensors[f"{PEFT_PREFIX}{name}.lora_A.weight"] = layer.lora_A
        tensors[f"{PEFT_PREFIX}{name}.lora_B.weight"] = layer.lora_B
    any_layer = next(iter(layers.values()))
    folder = Path(folder)
    save_weights(folder / ADAPTER_WEIGHTS, tensors)
    write_json(
        folder / ADAPTER_CONFIG,
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": any_layer.r,
            "lora_alpha": any_layer.alpha,
            "lora_dropout": any_layer.dropout.p,
            "target_modules": sorted(layers),
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "base_model_name_or_path": None,
        },
    )


def load_lora(model: nn.Module, folder: str | Path) -> None:
    """Give ``model`` the adapters that :func:`save_lora` (or ``peft``) wrote, in place.

    Raises:
        CheckpointError: they are not LoRA, use what is not supported here, or do not fit the model.
        CorruptionError: the file is not whole.
    """
    folder = Path(folder)
    if not (folder / ADAPTER_CONFIG).is_file() or not (folder / ADAPTER_WEIGHTS).is_file():
        raise CheckpointError(f"{folder} holds no adapters ({ADAPTER_CONFIG} and {ADAPTER_WEIGHTS})")
    config = read_json(folder / ADAPTER_CONFIG)
    _check_adapter_config(folder, config)
    saved = load_tensors(folder / ADAPTER_WEIGHTS)
    tensors = {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in saved.items()}
    names = sorted({name.rpartition(".lora_")[0] for name in tensors})
    try:
        apply_lora(model, r=config["r"], alpha=config["lora_alpha"], dropout=config["lora_dropout"], targets=names)
    except ConfigError as error:
        raise CheckpointError(f"the adapters in {folder} do not fit this model: {error}") from None
    for name, layer in lora_layers(model):
        for part in ("lora_A", "lora_B"):
            parameter: nn.Parameter = getattr(layer, part)
            tensor = tensors.get(f"{name}.{part}.weight")
            if tensor is None or tensor.shape != parameter.shape:
                found = "missing" if tensor is None else f"of shape {list(tensor.shape)}"
                raise CheckpointError(
                    f"the adapters in {folder} do not fit this model: {name}.{part} is {found}, "
                    f"and should be of shape {list(parameter.shape)}"
                )
            with torch.no_grad():
                parameter.copy_(tensor)


def _check_adapter_config(folder: Path, config: dict[str, Any]) -> None:
    unsupported = {
        "peft_type": config.get("peft_type") != "LORA",
        "bias": config.get("bias", "none") != "none",
        "use_dora": bool(config.get("use_dora")),
        "use_rslora": bool(config.get("use_rslora")),
        "rank_pattern": bool(config.get("rank_pattern")),
        "alpha_pattern": bool(config.get("alpha_pattern")),
        "modules_to_save": bool(config.get("modules_to_save")),
        "fan_in_fan_out": bool(config.get("fan_in_fan_out")),
    }
    wrong = [f"{key}={config.get(key)!r}" for key, bad in unsupported.items() if bad]
    if wrong:
        raise CheckpointError(f"the adapters in {folder} use what is not supported here: {', '.join(wrong)}")


def _problems(
    model: nn.Module, r: int, targets: Sequence[str], linear: dict[str, nn.Linear], chosen: list[str]
) -> list[str]:
    """Why these adapters cannot be applied, as sentences."""
    problems = []
    if r < 1:
        problems.append(f"the rank of LoRA adapters must be at least 1, not {r}")
    if any(True for _ in lora_layers(model)):
        problems.append("the model has LoRA adapters already; merge them first")
    known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
    for target in targets:
        if not any(_matches(name, target) for name in linear):
            problems.append(f"no linear layer is named {target!r}; the model has {known}")
    if not targets:
        problems.append(f"LoRA needs at least one target; the model has {known}")
    users: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        users.setdefault(id(parameter), []).append(name)
    for name in chosen:
        shared = [user for user in users[id(linear[name].weight)] if user != f"{name}.weight"]
        if shared:
            problems.append(f"{name} shares its weight with {shared[0]}; merging an adapter would change both")
    return problems


def _matches(name: str, target: str) -> bool:
    return name == target or name.rpartition(".")[2] == target


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    module.train(model.training)
    setattr(model.get_submodule(parent), child, module)
