"""Write our models as transformers would, and read its models as ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from llm_trainer.common.errors import CheckpointError, ConfigError
from llm_trainer.common.files import write_json
from llm_trainer.config import ModelConfig
from llm_trainer.models.base import read_config
from llm_trainer.models.interop.gpt2 import GPT2Layout
from llm_trainer.models.interop.layout import Layout, TensorSource
from llm_trainer.models.interop.llama import LlamaLayout
from llm_trainer.models.lora import lora_layers
from llm_trainer.models.transformer import TransformerLM
from llm_trainer.models.weights import CONFIG, WEIGHTS, load_into, load_weights, save_weights

M = TypeVar("M", bound=TransformerLM)

LAYOUTS: dict[str, Layout] = {"gpt2": GPT2Layout(), "llama": LlamaLayout(qwen=False), "qwen3": LlamaLayout(qwen=True)}
# Constants that older versions of transformers saved with the weights.
COMPUTED = ("attn.bias", "attn.masked_bias", "rotary_emb.inv_freq")


@dataclass(frozen=True)
class ExportTarget:
    """Whether a model can be written in one layout of transformers."""

    name: str
    """The ``model_type``: gpt2, llama or qwen3."""
    problems: tuple[str, ...]
    """Why not, one sentence for each setting that stands in the way; none if it can."""

    @property
    def possible(self) -> bool:
        """Whether :func:`export_hf` writes this layout."""
        return not self.problems


def export_targets(config: ModelConfig) -> list[ExportTarget]:
    """Where a model of this shape can go, and what stands in the way elsewhere: every layout, the nearest first.

    At most one is possible, for each has parts that the others lack.

    Example:
        >>> nearest = export_targets(ModelConfig(qk_norm=True, logit_softcap=15.0))[0]
        >>> nearest.name, nearest.problems
        ('qwen3', ('logit_softcap=15.0: Qwen3 has none',))
    """
    targets = [ExportTarget(name, tuple(layout.export_problems(config))) for name, layout in LAYOUTS.items()]
    nearest = _nearest(config)
    return sorted(targets, key=lambda target: (target.name != nearest, len(target.problems)))


def export_statement(config: ModelConfig) -> str:
    """The same for a person: one line, and one more for each setting in the way of the nearest layout."""
    nearest = export_targets(config)[0]
    if nearest.possible:
        return f"Exports to transformers as {nearest.name}"
    return "\n  ".join(
        (f"Does not export to transformers; as {nearest.name} it would, were it not for", *nearest.problems)
    )


def _nearest(config: ModelConfig) -> str:
    if config.position == "learned":
        return "gpt2"
    return "qwen3" if config.qk_norm else "llama"


def layout_for(config: ModelConfig) -> Layout:
    """The family that a model of this shape belongs to.

    Raises:
        ConfigError: none; the message names each field that stands in the way.
    """
    name = _nearest(config)
    problems = LAYOUTS[name].export_problems(config)
    if problems:
        raise ConfigError(problems, source="a model that cannot be exported to transformers")
    return LAYOUTS[name]


def to_hf(model: TransformerLM) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A model as transformers holds it: the content of ``config.json``, and the tensors by its names.

    The tensors of Llama and Qwen3 are the model's own, those of GPT-2 are copies.

    Raises:
        ConfigError: transformers has no such model; the message names each field that stands in the way.
    """
    layout = layout_for(model.config)
    if any(True for _ in lora_layers(model)):
        raise ConfigError(["the model has LoRA adapters; merge them first (llm_trainer.models.lora.merge_lora)"])
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return layout.config_to_hf(model.config), layout.tensors_to_hf(model.config, tensors)


def config_from_hf(values: Mapping[str, Any]) -> ModelConfig:
    """The shape of one of our models from the content of transformers' ``config.json``.

    Raises:
        ConfigError: a family or an option that our models do not have.
    """
    kind = values.get("model_type")
    if kind not in LAYOUTS:
        raise ConfigError([f"model_type={kind!r} is not supported; known: {', '.join(LAYOUTS)}"])
    return LAYOUTS[kind].config_from_hf(values)


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
    kind = values.get("model_type")
    model = model_class(config_from_hf(values))
    layout = LAYOUTS[str(kind)]
    source = TensorSource(tensors, origin)
    ours = layout.tensors_from_hf(model.config, model.state_dict(), source)
    foreign = [
        name
        for name in source.unused()
        if not name.endswith(COMPUTED) and not (model.config.tie_embeddings and name == "lm_head.weight")
    ]
    if foreign:
        raise CheckpointError(f"{origin} holds tensors that a {kind} model does not have, {foreign[0]!r} among them")
    load_into(model, ours, source=origin)
    return model


def export_hf(
    model: TransformerLM,
    folder: str | Path,
    *,
    bos_token_id: int | None = None,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
) -> None:
    """Write a folder that ``AutoModelForCausalLM.from_pretrained`` loads.

    Args:
        model: of a shape that transformers has: GPT-2, Llama or Qwen3.
        folder: gets ``config.json`` and ``model.safetensors``; a tokenizer is saved to it separately.
        bos_token_id: the tokenizer's, written into ``config.json``, like the other two.
        eos_token_id: where generation stops.
        pad_token_id: fills up batches.

    Raises:
        ConfigError: transformers has no such model; the message names each field that stands in the way.
        UserError: no space or no permission.
    """
    folder = Path(folder)
    values, tensors = to_hf(model)
    # Said even when there is none, because transformers' defaults are the ids of other tokenizers.
    special = {"bos_token_id": bos_token_id, "eos_token_id": eos_token_id, "pad_token_id": pad_token_id}
    dtype = str(model.embed_tokens.weight.dtype).removeprefix("torch.")
    save_weights(folder / WEIGHTS, tensors)
    write_json(folder / CONFIG, {**values, **special, "torch_dtype": dtype})


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
