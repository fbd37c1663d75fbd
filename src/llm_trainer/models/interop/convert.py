"""Write our models as transformers would, and read its models as ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from llm_trainer.common.errors import CheckpointError, ConfigError
from llm_trainer.common.files import write_json
from llm_trainer.models.base import BaseLanguageModel, read_config
from llm_trainer.models.interop.layout import TensorSource
from llm_trainer.models.interop.layouts import layout_for, layout_named
from llm_trainer.models.interop.shards import save_sharded
from llm_trainer.models.lora import lora_layers
from llm_trainer.models.plausible import require_weights_for
from llm_trainer.models.transformer import TransformerLM
from llm_trainer.models.weights import CONFIG, load_into, load_weights

M = TypeVar("M", bound=BaseLanguageModel)

GENERATION_CONFIG = "generation_config.json"
# Constants that older versions of transformers saved with the weights.
COMPUTED = ("attn.bias", "attn.masked_bias", "rotary_emb.inv_freq")


def to_hf(model: BaseLanguageModel) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A model as transformers holds it: the content of ``config.json``, and the tensors by its names.

    The tensors of Llama and its relatives are the model's own, those of GPT-2 are copies.

    Raises:
        ConfigError: transformers has no such model; the message names each field that stands in the way.
    """
    layout = layout_for(model.config)
    if any(True for _ in lora_layers(model)):
        raise ConfigError(["the model has LoRA adapters; merge them first (llm_trainer.models.lora.merge_lora)"])
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return layout.config_to_hf(model.config), layout.tensors_to_hf(model.config, tensors)


def from_hf(
    values: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    model_class: type[M] = TransformerLM,  # type: ignore[assignment]  # the default of a bounded variable
    origin: str = "the state dictionary",
) -> M:
    """One of our models from transformers' configuration and tensors.

    Args:
        values: the content of ``config.json`` (``model.config.to_dict()``).
        tensors: by transformers' names (``model.state_dict()``).
        model_class: :class:`TransformerLM` or a class made from it.
        origin: where the tensors are from, for messages.

    Raises:
        ConfigError: a family or an option that our models do not have.
        CheckpointError: a tensor is missing, left over or of another shape.
    """
    layout = layout_named(values)
    config = layout.config_from_hf(values)
    require_weights_for(model_class, config, [tensor.numel() for tensor in tensors.values()], origin)
    model = model_class(config)
    source = TensorSource(tensors, origin)
    ours = layout.tensors_from_hf(model.config, model.state_dict(), source)
    foreign = [
        name
        for name in source.unused()
        if not name.endswith(COMPUTED) and not (model.config.tie_embeddings and name == "lm_head.weight")
    ]
    if foreign:
        kind = values["model_type"]
        raise CheckpointError(f"{origin} holds tensors that a {kind} model does not have, {foreign[0]!r} among them")
    load_into(model, ours, source=origin)
    return model


def export_hf(
    model: BaseLanguageModel,
    folder: str | Path,
    *,
    bos_token_id: int | None = None,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
    dtype: torch.dtype | None = None,
    shard_size: int | None = None,
) -> list[Path]:
    """Write a folder that ``AutoModelForCausalLM.from_pretrained`` loads.

    Args:
        model: of a shape that transformers has (:func:`~llm_trainer.models.interop.layouts.export_targets`).
        folder: gets ``config.json``, ``generation_config.json`` and ``model.safetensors``; a tokenizer is saved to it
            separately.
        bos_token_id: the tokenizer's, written into both configurations, like the other two.
        eos_token_id: where generation stops.
        pad_token_id: fills up batches.
        dtype: of the weights in the file; left out: the model's.
        shard_size: bytes of a file of weights; left out: one file.

    Returns:
        The files with weights.

    Raises:
        ConfigError: transformers has no such model; the message names each field that stands in the way.
        UserError: no space or no permission.
    """
    folder = Path(folder)
    values, tensors = to_hf(model)
    dtype = dtype or next(model.parameters()).dtype
    tensors = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    # Said even when there is none, because transformers' defaults are the ids of other tokenizers.
    special = {"bos_token_id": bos_token_id, "eos_token_id": eos_token_id, "pad_token_id": pad_token_id}
    written = save_sharded(folder, tensors, shard_size=shard_size)
    write_json(folder / GENERATION_CONFIG, {name: token for name, token in special.items() if token is not None})
    # transformers 5 reads "dtype", earlier ones "torch_dtype". Last of all: a folder that has its config.json is whole.
    kind = str(dtype).removeprefix("torch.")
    write_json(folder / CONFIG, {**values, **special, "dtype": kind, "torch_dtype": kind})
    return written


def is_hf_folder(folder: str | Path) -> bool:
    """Whether a folder holds a model in the layout of transformers (ours have no ``model_type``)."""
    return (Path(folder) / CONFIG).is_file() and "model_type" in read_config(Path(folder))


def load_hf(
    folder: str | Path,
    *,
    model_class: type[M] = TransformerLM,  # type: ignore[assignment]  # the default of a bounded variable
) -> M:
    """Load a folder that transformers (or :func:`export_hf`) wrote, sharded or not.

    Raises:
        ConfigError: a family or an option that our models do not have.
        CheckpointError: there are no weights, a shard or tensor is missing, or a shape is wrong.
        CorruptionError: a file is not whole.
    """
    folder = Path(folder)
    values = read_config(folder)
    return from_hf(values, load_weights(folder), model_class=model_class, origin=str(folder)).eval()
