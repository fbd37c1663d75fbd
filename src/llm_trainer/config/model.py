"""The shape of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from llm_trainer.config.base import Int, Settings

Activation = Literal["gelu", "gelu_tanh", "relu", "relu2", "silu", "swiglu", "geglu"]
GATED = ("swiglu", "geglu")

# GPT-2's own names imply GPT-2's layout, or its published parameter counts could not come out.
GPT2_NAMES = frozenset({"n_embd", "n_positions", "n_inner", "n_ctx"})
GPT2_LAYOUT: dict[str, Any] = {"position": "learned", "norm": "layernorm", "bias": True, "tie_embeddings": True}
GPT2_ACTIVATION = "gelu_tanh"

ACTIVATION_SPELLINGS = {
    "swish": "silu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu_squared": "relu2",
}


class ModelConfig(Settings):
    """A decoder-only transformer. The defaults are a Llama layout: RMSNorm, rotary positions, SwiGLU, no biases.

    Example:
        >>> ModelConfig(vocab_size=8192, d_model=256, n_heads=4, n_layers=4, max_seq_len=512).head_dim
        64
    """

    vocab_size: Int = Field(32000, gt=0)
    """Number of token ids."""
    d_model: Int = Field(512, gt=0)
    """Width of the residual stream."""
    n_heads: Int = Field(8, gt=0)
    """Attention heads."""
    n_kv_heads: Int | None = Field(None, gt=0)
    """Key and value heads: fewer than n_heads is grouped-query attention, 1 is multi-query. Unset: n_heads."""
    n_layers: Int = Field(6, gt=0)
    """Transformer blocks."""
    d_ff: Int | None = Field(None, gt=0)
    """Width of the feed-forward network. Unset: 4 x d_model, or 8/3 x d_model rounded up to 32 when it is gated."""
    max_seq_len: Int = Field(1024, gt=0)
    """Longest sequence in tokens."""
    activation: Activation = "swiglu"
    """Feed-forward activation; swiglu and geglu are gated."""
    norm: str = "rmsnorm"
    """rmsnorm, layernorm, or a registered name."""
    norm_eps: float = Field(1e-5, gt=0)
    """Added to the variance before the square root."""
    pre_norm: bool = True
    """Normalise before each sublayer (stable) or, if false, after its residual sum (the 2017 transformer)."""
    position: Literal["rope", "learned", "sinusoidal", "alibi", "none"] = "rope"
    """How the model knows the order of tokens."""
    rope_theta: float = Field(10000.0, gt=0)
    """Base of the rotary frequencies."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout wherever a more special value is not set."""
    resid_dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout on the output of each sublayer."""
    embd_dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout on the embeddings."""
    attn_dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout on the attention weights."""
    bias: bool = False
    """Biases in linear layers and LayerNorm."""
    tie_embeddings: bool = True
    """Use the token embedding as the output layer."""
    qk_norm: bool = False
    """Normalise queries and keys per head (Qwen3)."""
    embedding_norm: bool = False
    """Normalise what enters the first block: token embedding, learned positions and bigrams together."""
    bigram_embedding: Int | None = Field(None, gt=0)
    """Rows of a second embedding, of (previous token, token); pairs share rows by a hash. Added to the embedding."""
    value_embeddings: bool = False
    """Every second layer, the last among them, adds a value looked up by token to the values of its attention."""
    residual_shortcuts: bool = False
    """Each block reads a learned sum of the residual stream and of what entered the first block."""
    logit_softcap: float | None = Field(None, gt=0)
    """Bound logits smoothly: cap x tanh(logits / cap)."""
    init_std: float = Field(0.02, gt=0)
    """Standard deviation of the initial weights."""
    zero_init_projections: bool = False
    """Start the last matrix of every sublayer at 0, so that each block begins as the identity."""
    head_init_std: float | None = Field(None, ge=0)
    """Standard deviation of the initial output layer, if it is not tied. Unset: init_std."""
    attention: str = "mha"
    """Attention component: mha, or a registered name."""
    feed_forward: str = "mlp"
    """Feed-forward component: mlp, or a registered name."""
    block: str = "transformer"
    """Block component: transformer, or a registered name."""
    attention_backend: Literal["sdpa", "explicit"] = "sdpa"
    """sdpa: PyTorch's fused kernels; explicit: the same written out, for reading and for checking."""

    ALIASES: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("n_embd", "hidden_size", "num_dims", "dim", "embed_dim"), "d_model"),
        **dict.fromkeys(("n_head", "num_heads", "num_attention_heads"), "n_heads"),
        **dict.fromkeys(("n_kv_head", "num_kv_heads", "num_key_value_heads"), "n_kv_heads"),
        **dict.fromkeys(("n_layer", "num_layers", "num_hidden_layers"), "n_layers"),
        **dict.fromkeys(("n_inner", "intermediate_size", "hidden_dim", "ffn_hidden_dims"), "d_ff"),
        **dict.fromkeys(
            (
                "n_positions",
                "n_ctx",
                "max_position_embeddings",
                "block_size",
                "context_length",
                "max_seq_length",
                "sequence_length",
            ),
            "max_seq_len",
        ),
        **dict.fromkeys(("activation_function", "hidden_act"), "activation"),
        **dict.fromkeys(("layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps"), "norm_eps"),
        **dict.fromkeys(("positional_encoding", "pos_encoding"), "position"),
        **dict.fromkeys(("tie_word_embeddings", "tie_weights", "weight_tying"), "tie_embeddings"),
        "resid_pdrop": "resid_dropout",
        "embd_pdrop": "embd_dropout",
        "attn_pdrop": "attn_dropout",
        "norm_type": "norm",
        "rope_base": "rope_theta",
        "initializer_range": "init_std",
        "padded_vocab_size": "vocab_size",
    }

    @classmethod
    def translate(cls, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Rename aliases, accept other spellings of activations, and give GPT-2's names GPT-2's layout."""
        renamed, notes = super().translate(values)
        activation = renamed.get("activation")
        if isinstance(activation, str):
            renamed["activation"] = ACTIVATION_SPELLINGS.get(activation, activation)
        if GPT2_NAMES & set(values):
            implied = {key: value for key, value in GPT2_LAYOUT.items() if key not in renamed}
            if renamed.get("activation", "gelu") == "gelu":
                implied["activation"] = GPT2_ACTIVATION
            renamed.update(implied)
            notes.extend(f"GPT-2 names imply {key}={value}" for key, value in implied.items())
        return renamed, notes

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads, resolved."""
        return self.n_kv_heads or self.n_heads

    @property
    def ffn_dim(self) -> int:
        """Width of the feed-forward network, resolved. A gated one has three matrices instead of two, so 8/3 x
        d_model keeps its size equal (Shazeer 2020, https://arxiv.org/abs/2002.05202)."""
        if self.d_ff is not None:
            return self.d_ff
        return -(-8 * self.d_model // (3 * 32)) * 32 if self.activation in GATED else 4 * self.d_model

    @property
    def value_embedding_layers(self) -> tuple[int, ...]:
        """The layers that ``value_embeddings`` gives a table: every second one, counted from the last."""
        return tuple(range((self.n_layers - 1) % 2, self.n_layers, 2)) if self.value_embeddings else ()

    @property
    def residual_dropout(self) -> float:
        """Dropout on sublayer outputs, resolved."""
        return self.dropout if self.resid_dropout is None else self.resid_dropout

    @property
    def embedding_dropout(self) -> float:
        """Dropout on embeddings, resolved."""
        return self.dropout if self.embd_dropout is None else self.embd_dropout

    @property
    def attention_dropout(self) -> float:
        """Dropout on attention weights, resolved."""
        return self.dropout if self.attn_dropout is None else self.attn_dropout

    def contradictions(self) -> Iterable[str]:
        """Widths and head counts that do not fit together."""
        if self.d_model % self.n_heads:
            yield f"d_model ({self.d_model}) must be a multiple of n_heads ({self.n_heads})"
        elif self.position == "rope" and self.head_dim % 2:
            yield f"rotary positions need an even head width, but d_model / n_heads = {self.head_dim}"
        if self.n_heads % self.kv_heads:
            yield f"n_heads ({self.n_heads}) must be a multiple of n_kv_heads ({self.kv_heads})"
        if self.head_init_std is not None and self.tie_embeddings:
            yield (
                f"head_init_std ({self.head_init_std}) is for an output layer of its own, and this one is the token "
                "embedding; set tie_embeddings to false, or use init_std"
            )
