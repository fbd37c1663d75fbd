"""The models that people use otherwise, with *our* weights in them, so that everyone starts from the same function.

nanoGPT (github.com/karpathy/nanoGPT) and llama2.c (github.com/karpathy/llama2.c) are loaded from the person's own
checkouts, transformers from where it is installed. Nothing of them is part of this project.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llm_trainer.config import ModelConfig
from llm_trainer.models import TransformerLM
from llm_trainer.models.interop import to_hf

NANOGPT, LLAMA2C = "nanogpt", "llama2c"
CHECKOUTS = {NANOGPT: "github.com/karpathy/nanoGPT", LLAMA2C: "github.com/karpathy/llama2.c"}


class Peer(nn.Module):
    """A model of another project behind one call: ids (batch, seq) -> mean loss of its own forward pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.call: Any = model

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile as their training scripts do: the whole model in one."""
        self.call = torch.compile(self.model)

    def optimizer(self, learning_rate: float, betas: tuple[float, float], device_type: str) -> torch.optim.Optimizer:
        """Their own set-up, without weight decay: each of us decays other parameters."""
        make: Any = getattr(self.model, "configure_optimizers", None)
        if make is None:
            return torch.optim.AdamW(self.model.parameters(), learning_rate, betas, weight_decay=0.0)
        optimizer: torch.optim.Optimizer = make(0.0, learning_rate, betas, device_type)
        return optimizer


class NanoGPT(Peer):
    """Its loss is returned beside the logits."""

    def forward(self, ids: Tensor) -> Tensor:
        loss: Tensor = self.call(ids, next_tokens(ids))[1]
        return loss


class Llama2c(Peer):
    """Its loss is left on the model."""

    def forward(self, ids: Tensor) -> Tensor:
        self.call(ids, next_tokens(ids))
        loss: Tensor = self.model.last_loss  # type: ignore[assignment]
        return loss


class Transformers(Peer):
    """Shifts the labels itself, as ours does."""

    def forward(self, ids: Tensor) -> Tensor:
        loss: Tensor = self.call(input_ids=ids, labels=ids).loss
        return loss


def next_tokens(ids: Tensor) -> Tensor:
    """The target of each position, and -1, which both projects ignore, at the last. (batch, seq) -> same."""
    targets = torch.full_like(ids, -1)
    targets[:, :-1] = ids[:, 1:]
    return targets


def build_peer(engine: str, ours: TransformerLM, checkout: Path | None = None) -> Peer:
    """A peer's model that computes the same function as ``ours``.

    Args:
        engine: ``nanogpt``, ``llama2c``, ``hf`` or ``hf-trainer``.
        ours: gives shape and weights.
        checkout: folder with ``model.py``, for the first two.
    """
    if engine == NANOGPT:
        assert checkout is not None
        return NanoGPT(_nanogpt(ours, checkout))
    if engine == LLAMA2C:
        assert checkout is not None
        return Llama2c(_llama2c(ours, checkout))
    return Transformers(_transformers(ours))


_NANOGPT_NAMES = {
    "n_layer": "n_layers", "n_head": "n_heads", "n_embd": "d_model", "block_size": "max_seq_len",
    "vocab_size": "vocab_size", "bias": "bias",
}  # fmt: skip
_LLAMA2C_NAMES = {
    "dim": "d_model", "n_layers": "n_layers", "n_heads": "n_heads", "n_kv_heads": "kv_heads",
    "vocab_size": "vocab_size", "hidden_dim": "ffn_dim", "norm_eps": "norm_eps", "max_seq_len": "max_seq_len",
}  # fmt: skip


def _renamed(config: ModelConfig, names: Mapping[str, str]) -> dict[str, Any]:
    """Settings of a model under the names of another project; ``names`` maps its names to ours."""
    return {theirs: getattr(config, ours) for theirs, ours in names.items()}


def load_module(name: str, file: Path) -> Any:
    """A Python file outside any package, as a module."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # a dataclass looks its own module up
    spec.loader.exec_module(module)
    return module


# ---------------------------------------------------------------------- nanoGPT


def _nanogpt(ours: TransformerLM, checkout: Path) -> nn.Module:
    module = load_module("nanogpt_model", checkout / "model.py")
    sizes = _renamed(ours.config, _NANOGPT_NAMES)
    theirs: nn.Module = module.GPT(module.GPTConfig(dropout=0.0, **sizes))
    theirs.load_state_dict(nanogpt_weights(ours.state_dict(), ours.config))
    return theirs


def nanogpt_weights(ours: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our weights under nanoGPT's names, whose queries, keys and values are one matrix."""
    kinds = ("weight", "bias") if config.bias else ("weight",)
    theirs = {
        "transformer.wte.weight": ours["embed_tokens.weight"],
        "transformer.wpe.weight": ours["position_embedding.embedding.weight"],
        "lm_head.weight": ours["lm_head.weight"],
    }
    names = {
        "attention.o_proj": "attn.c_proj",
        "feed_forward.up_proj": "mlp.c_fc",
        "feed_forward.down_proj": "mlp.c_proj",
        "attention_norm": "ln_1",
        "ffn_norm": "ln_2",
    }
    for kind in kinds:
        theirs[f"transformer.ln_f.{kind}"] = ours[f"final_norm.{kind}"]
        for index in range(config.n_layers):
            block, h = f"blocks.{index}", f"transformer.h.{index}"
            joined = [ours[f"{block}.attention.{name}_proj.{kind}"] for name in "qkv"]
            theirs[f"{h}.attn.c_attn.{kind}"] = torch.cat(joined)  # (3 * d_model, d_model) or (3 * d_model,)
            theirs |= {f"{h}.{other}.{kind}": ours[f"{block}.{name}.{kind}"] for name, other in names.items()}
    return theirs


# ---------------------------------------------------------------------- llama2.c


def _llama2c(ours: TransformerLM, checkout: Path) -> nn.Module:
    module = load_module("llama2c_model", checkout / "model.py")
    theirs: nn.Module = module.Transformer(module.ModelArgs(**_renamed(ours.config, _LLAMA2C_NAMES)))
    theirs.load_state_dict(llama2c_weights(ours.state_dict(), ours.config))
    return theirs


def llama2c_weights(ours: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our weights under llama2.c's names, with the rows of queries and keys in its order.

    It rotates neighbouring pairs (2 i, 2 i + 1) of a head, and we rotate (i, i + head_dim / 2), as transformers does.
    """
    theirs = {
        "tok_embeddings.weight": ours["embed_tokens.weight"],
        "output.weight": ours["lm_head.weight"],
        "norm.weight": ours["final_norm.weight"],
    }
    names = {
        "attention.v_proj": "attention.wv",
        "attention.o_proj": "attention.wo",
        "feed_forward.gate_proj": "feed_forward.w1",
        "feed_forward.down_proj": "feed_forward.w2",
        "feed_forward.up_proj": "feed_forward.w3",
        "attention_norm": "attention_norm",
        "ffn_norm": "ffn_norm",
    }
    for index in range(config.n_layers):
        block, layer = f"blocks.{index}", f"layers.{index}"
        theirs |= {f"{layer}.{other}.weight": ours[f"{block}.{name}.weight"] for name, other in names.items()}
        for name in "qk":
            matrix = ours[f"{block}.attention.{name}_proj.weight"]  # (heads * head_dim, d_model)
            halves = matrix.view(-1, 2, config.head_dim // 2, config.d_model)
            theirs[f"{layer}.attention.w{name}.weight"] = halves.transpose(1, 2).reshape(matrix.shape)
    return theirs


# ---------------------------------------------------------------------- transformers


def _transformers(ours: TransformerLM) -> nn.Module:
    import transformers

    values, tensors = to_hf(_with_biases(ours) if ours.config.position == "learned" else ours)
    config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    make: Any = transformers.AutoModelForCausalLM.from_config
    theirs: nn.Module = make(config)
    missing, unexpected = theirs.load_state_dict(tensors, strict=False)
    # A tied output layer is the embedding under another name.
    assert not unexpected and set(missing) <= {"lm_head.weight"}, f"{missing} {unexpected}"
    return theirs


def _with_biases(ours: TransformerLM) -> TransformerLM:
    """transformers' GPT-2 cannot leave its biases out: they begin at zero, where they change nothing."""
    if ours.config.bias:
        return ours
    grown = TransformerLM(ours.config.model_copy(update={"bias": True}))
    missing, unexpected = grown.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected and all(name.endswith(".bias") for name in missing)
    return grown
