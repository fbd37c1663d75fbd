"""What every language model of this project can do: be counted, be saved, be loaded, and generate."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from llm_trainer.common.errors import CheckpointError
from llm_trainer.common.files import read_json
from llm_trainer.config import ModelConfig
from llm_trainer.models.extensions import adopt_extensions, hold_extensions, write_model_config
from llm_trainer.models.grouped import ExpertLinear
from llm_trainer.models.kv_cache import KVCache
from llm_trainer.models.patterns import layer_pattern
from llm_trainer.models.plausible import require_weights_for
from llm_trainer.models.roles import Role, roles_by_structure
from llm_trainer.models.weights import CONFIG, load_into, load_weights, save_weights

M = TypeVar("M", bound="BaseLanguageModel")


@dataclass
class LMOutput:
    """What a forward pass gives, by attribute or by key: ``out.logits`` is ``out["logits"]``."""

    loss: Tensor | None
    """Mean cross-entropy of the targets in nats, if there were labels."""
    logits: Tensor
    """(batch, seq, vocab); (batch, labels) or (batch, seq, labels) of a model that gives labels."""
    hidden_states: Tensor | None = None
    """(batch, seq, d_model), after the final normalisation."""

    def __getitem__(self, key: str) -> Tensor | None:
        if key not in self.__dataclass_fields__:
            raise KeyError(key)
        value: Tensor | None = getattr(self, key)
        return value

    def to_tuple(self) -> tuple[Tensor, ...]:
        """Loss (if any) and logits, as ``return_dict=False`` gives them."""
        return (self.logits,) if self.loss is None else (self.loss, self.logits)


class BaseLanguageModel(nn.Module):
    """Base of all models.

    A subclass gives ``lm_head`` and :meth:`hidden_states`, apart from each other, so that training can compute output
    layer and loss in one, without ever holding all logits.

    Args:
        config: the shape; a copy is kept, because the model cannot change with it.
    """

    lm_head: nn.Linear
    """(d_model -> vocab)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        config.validate()
        self.config = config.model_copy(deep=True)
        hold_extensions(config.extensions)

    @abstractmethod
    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> LMOutput | tuple[Tensor, ...]:
        """Logits, and the loss if there are labels. Models take further arguments."""

    @abstractmethod
    def hidden_states(self, input_ids: Tensor) -> Tensor:
        """The last hidden states, (batch, seq, d_model). Models take further arguments."""

    def before_head(self, hidden: Tensor) -> Tensor:
        """What ``lm_head`` reads, of hidden states, (..., d_model) -> same shape: the same, in most models.

        With ``scale_logits``, smaller: T5 so makes up for an output layer that is an embedding of numbers of size 1.
        """
        return hidden * self.config.d_model**-0.5 if self.config.scale_logits else hidden

    def logits_from(self, hidden: Tensor) -> Tensor:
        """The output layer: logits, (..., vocab), of hidden states, (..., d_model), bounded by ``logit_softcap``.

        Whoever needs logits calls this, never ``lm_head`` alone; only a fused loss takes the two apart.
        """
        logits: Tensor = self.lm_head(self.before_head(hidden))
        cap = self.config.logit_softcap
        return logits if cap is None else softcap(logits, cap)

    def num_parameters(self, trainable_only: bool = False, non_embedding: bool = False) -> int:
        """How many numbers the model has learnt; a shared matrix counts once.

        Args:
            trainable_only: leave out frozen parameters.
            non_embedding: leave out the tables that are looked up: tokens, positions, bigrams, values (and with them
                a tied output layer).
        """
        tables = {
            id(parameter)
            for module in self.modules()
            if isinstance(module, nn.Embedding)
            for parameter in module.parameters()
        }
        return sum(
            parameter.numel()
            for parameter in self.parameters()
            if (parameter.requires_grad or not trainable_only) and not (non_embedding and id(parameter) in tables)
        )

    def num_active_parameters(self) -> int:
        """How many of :meth:`num_parameters` a token meets: all, but for the experts that it is not sent to."""
        idle = sum(module.idle_parameters for module in self.modules() if isinstance(module, ExpertLinear))
        return self.num_parameters() - idle

    def parameter_roles(self) -> dict[str, Role]:
        """What each parameter is for (see :mod:`llm_trainer.models.roles`), by which optimizers treat it.

        A model whose parameters are not what their place suggests overrides this; a component of it may have such a
        method of its own.
        """
        return roles_by_structure(self)

    def flops_per_token(self, seq_len: int) -> int:
        """Floating-point operations of training (forward and backward) per token of a sequence of ``seq_len``.

        6 N + 12 L d T (Chowdhery et al. 2022, PaLM, appendix B, https://arxiv.org/abs/2204.02311): N weights of
        linear layers, the output layer among them (tied or not), lookups and experts that a token is not sent to not;
        L layers; d = heads x head_dim; T the sequence length. A multiplication and an addition count as two, the
        backward pass as twice the forward. As in PaLM, nanoGPT and most published MFU, the half of the scores that
        causality makes needless is counted. A layer with an attention pattern counts the keys in it in place of T, and
        a model that reads in segments those of a segment and its memory.
        """
        if self.config.segment is not None:
            seq_len = min(seq_len, self.config.segment + self.config.memory_length)
        weights = sum(module.weight.numel() for module in self.modules() if isinstance(module, nn.Linear))
        weights += sum(module.active_weights for module in self.modules() if isinstance(module, ExpertLinear))
        attention_width = self.config.n_heads * self.config.head_dim
        patterns = [layer_pattern(self.config, layer) for layer in range(self.config.n_layers)]
        partial = {pattern: pattern.keys_per_query(seq_len) for pattern in set(patterns) if pattern is not None}
        keys = sum(seq_len if pattern is None else partial[pattern] for pattern in patterns)
        return 6 * weights + 12 * attention_width * keys

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``; a shared matrix once.

        Raises:
            UserError: no space or no permission.
        """
        folder = Path(folder)
        tensors: dict[str, Tensor] = {}
        seen: set[int] = set()
        for name, tensor in self.state_dict().items():
            if tensor.data_ptr() not in seen:
                tensors[name] = tensor
                seen.add(tensor.data_ptr())
        # Weights first: a folder that has its config.json is whole.
        save_weights(folder / "model.safetensors", tensors)
        write_model_config(folder, self.config)

    @classmethod
    def from_pretrained(
        cls: type[M], folder: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> M:
        """Load what :meth:`save_pretrained` wrote, or a checkpoint's folder.

        Args:
            folder: holds ``config.json`` and ``model.safetensors``.
            device: where the model goes.
            dtype: of the weights; float32 when left out.

        Raises:
            CheckpointError: this is no model's folder, or its weights do not fit its configuration.
            CorruptionError: the weights are not whole.
        """
        folder = Path(folder)
        values = read_config(folder)
        config = ModelConfig.from_dict(values)
        adopt_extensions(config, folder)
        tensors = load_weights(folder)
        require_weights_for(cls, config, [tensor.numel() for tensor in tensors.values()], str(folder))
        model = cls(config)
        load_into(model, tensors, source=str(folder))
        return model.to(device=device, dtype=dtype).eval()

    def make_cache(
        self, batch_size: int, max_length: int, *, dtype: torch.dtype, device: torch.device | str
    ) -> KVCache:
        """An empty cache for the keys and values of ``batch_size`` rows of up to ``max_length`` tokens."""
        return KVCache(self.config, batch_size, max_length, dtype=dtype, device=device)

    def generate(self, input_ids: Tensor, **kwargs: Any) -> Tensor:
        """Continue prompts, with the arguments of ``transformers``' ``generate``.

        Args:
            input_ids: (batch, seq).
            **kwargs: see :func:`llm_trainer.generation.generator.generate_ids`.

        Returns:
            (batch, seq + new), prompts included.
        """
        # The one import that points up: people expect the method here, and the sampler needs the model.
        from llm_trainer.generation.generator import generate_ids

        return generate_ids(self, input_ids, **kwargs)


def softcap(logits: Tensor, cap: float) -> Tensor:
    """``cap * tanh(logits / cap)``, in float32: nearly the identity below half of ``cap``, and never beyond it (Gemma 2
    2024, section 2, https://arxiv.org/abs/2408.00118)."""
    return cap * torch.tanh(logits.float() / cap)


def read_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a model's folder.

    Raises:
        CheckpointError: there is none, or it is not a mapping.
    """
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} is not the folder of a model: it holds no {CONFIG}")
    values = read_json(folder / CONFIG)
    if not isinstance(values, dict):
        raise CheckpointError(f"{folder / CONFIG} is not the configuration of a model")
    return values
