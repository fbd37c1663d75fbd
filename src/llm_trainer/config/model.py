"""The shape of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from llm_trainer.common.errors import ConfigError
from llm_trainer.config.base import Int, Settings
from llm_trainer.config.model_rules import contradictions_of
from llm_trainer.config.rope_names import flatten_rope

Activation = Literal["gelu", "gelu_tanh", "relu", "relu2", "silu", "swiglu", "geglu", "geglu_tanh"]
GATED = ("swiglu", "geglu", "geglu_tanh")

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


RopeScaling = Literal["linear", "ntk", "dynamic", "yarn", "llama3"]
Family = Literal["decoder", "encoder", "encoder_decoder"]
Head = Literal["lm", "sequence", "tokens"]

DEFAULT_EXPERTS = 8
"""What ``use_moe: true`` means."""

MOST_LAYERS = 10_000


class ModelConfig(Settings):
    """A transformer: a decoder unless ``family`` says otherwise.

    The defaults are a Llama layout: RMSNorm, rotary positions, SwiGLU, no biases.

    Example:
        >>> ModelConfig(vocab_size=8192, d_model=256, n_heads=4, n_layers=4, max_seq_len=512).head_dim
        64
    """

    family: Family = "decoder"
    """decoder predicts the next token (GPT, Llama), encoder reads both ways (BERT), encoder_decoder turns one text
    into another (T5, the 2017 transformer)."""
    vocab_size: Int = Field(32000, gt=0)
    """Number of token ids."""
    d_model: Int = Field(512, gt=0)
    """Width of the residual stream."""
    n_heads: Int = Field(8, gt=0)
    """Attention heads."""
    n_kv_heads: Int | None = Field(None, gt=0)
    """Key and value heads: fewer than n_heads is grouped-query attention, 1 is multi-query. Unset: n_heads."""
    d_head: Int | None = Field(None, gt=0)
    """Width of one attention head. Unset: d_model / n_heads."""
    n_layers: Int = Field(6, gt=0, le=MOST_LAYERS)
    """Transformer blocks; those of the decoder, where there is an encoder too."""
    n_encoder_layers: Int | None = Field(None, gt=0, le=MOST_LAYERS)
    """Blocks of the encoder of an encoder_decoder. Unset: n_layers, equal stacks as in the 2017 transformer."""
    d_ff: Int | None = Field(None, gt=0)
    """Width of the feed-forward network. Unset: 4 x d_model, or 8/3 x d_model rounded up to 32 when it is gated."""
    max_seq_len: Int = Field(1024, gt=0)
    """Longest sequence in tokens."""
    activation: Activation = "swiglu"
    """Feed-forward activation; swiglu, geglu and geglu_tanh are gated."""
    norm: str = "rmsnorm"
    """rmsnorm, layernorm, or a registered name."""
    norm_eps: float = Field(1e-5, gt=0)
    """Added to the variance before the square root."""
    pre_norm: bool = True
    """Normalise before each sublayer (stable) or, if false, after its residual sum (the 2017 transformer)."""
    position: Literal["rope", "learned", "sinusoidal", "alibi", "relative", "none"] = "rope"
    """How the model knows the order of tokens."""
    rope_theta: float = Field(10000.0, gt=0)
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling | None = None
    """How rotary positions were stretched beyond the length of training: linear, ntk, dynamic, yarn or llama3."""
    rope_factor: float = Field(1.0, ge=1)
    """rope_scaling: how many times longer texts are to be."""
    rope_original_length: Int | None = Field(None, gt=0)
    """rope_scaling: longest sequence of the training before it. Unset: max_seq_len / rope_factor."""
    rope_attention_factor: float | None = Field(None, gt=0)
    """rope_scaling yarn: cosines and sines are multiplied by it. Unset: 0.1 ln(rope_factor) + 1."""
    rope_beta_fast: float = Field(32.0, gt=0)
    """rope_scaling yarn: pairs that turn more often than this within rope_original_length stay as they are."""
    rope_beta_slow: float = Field(1.0, gt=0)
    """rope_scaling yarn: pairs that turn less often than this are slowed down by the whole rope_factor."""
    rope_low_freq_factor: float = Field(1.0, gt=0)
    """rope_scaling llama3: as rope_beta_slow."""
    rope_high_freq_factor: float = Field(4.0, gt=0)
    """rope_scaling llama3: as rope_beta_fast."""
    relative_buckets: Int = Field(32, gt=3)
    """position relative: how many kinds of distance have a bias of their own."""
    relative_max_distance: Int = Field(128, gt=1)
    """position relative: beyond this many tokens, all distances share a bucket."""
    attention_scale: float | None = Field(None, gt=0)
    """Scores are multiplied by this. Unset: 1 / sqrt(head width); T5: 1."""
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
    qkv_bias: bool | None = None
    """Biases in the projections to queries, keys and values (Qwen2 has no others). Unset: as bias."""
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
    memory_length: Int = Field(0, ge=0)
    """Tokens of the text before that each layer remembers when a text is read in segments (Transformer-XL). 0: none."""
    segment_length: Int | None = Field(None, gt=0)
    """Read texts in segments of so many tokens. Unset: memory_length, or whole if that is 0."""
    n_experts: Int = Field(0, ge=0)
    """Experts of a mixture-of-experts layer (use_moe: true means 8); 0: no such layers."""
    experts_per_token: Int = Field(2, gt=0)
    """Experts that each token is sent to."""
    n_shared_experts: Int = Field(0, ge=0)
    """Experts that every token meets besides."""
    d_expert: Int | None = Field(None, gt=0)
    """Width of one expert. Unset: a share of d_ff, so that a token costs what it would without experts."""
    moe_every: Int = Field(1, gt=0)
    """Every so many layers one has experts, the last of each group; the others are dense."""
    first_dense_layers: Int = Field(0, ge=0)
    """So many first layers have no experts."""
    router_scores: Literal["softmax", "sigmoid"] = "softmax"
    """How a router scores experts: in competition (softmax), or each alone (sigmoid, DeepSeek-V3)."""
    normalise_expert_weights: bool | None = None
    """Divide the scores of the chosen experts by their sum. Unset: true with two experts per token or more."""
    expert_scale: float = Field(1.0, gt=0)
    """Factor on what the chosen experts say."""
    logit_softcap: float | None = Field(None, gt=0)
    """Bound logits smoothly: cap x tanh(logits / cap)."""
    scale_logits: bool = False
    """Multiply what the output layer reads by 1 / sqrt(d_model); the token embedding then starts at size 1 (T5)."""
    token_types: Int = Field(0, ge=0)
    """Kinds of segment with an embedding of their own, added to the tokens of an encoder (BERT: 2). 0: none."""
    head_transform: bool = False
    """Before the output layer of an encoder, a dense layer, the activation and a norm; and a bias in it (BERT)."""
    head: Head = "lm"
    """What an encoder is for: lm predicts tokens, sequence gives a label to each text, tokens one to each token."""
    labels: list[str] | None = None
    """Names of the labels that a sequence or tokens head chooses from."""
    decoder_start_token_id: Int = Field(0, ge=0)
    """The token that the output of an encoder_decoder starts from."""
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
    extensions: list[str] = []
    """Python files of your own that register components. They run, so name only what you trust."""
    attention_backend: Literal["sdpa", "explicit", "flex"] = "sdpa"
    """sdpa: PyTorch's fused kernels, and ours on a CPU; explicit: the same written out, for reading and for checking;
    flex: PyTorch's FlexAttention, which skips what a pattern hides on a GPU too."""
    sliding_window: Int | None = Field(None, gt=0)
    """A token sees this many positions, its own included, and an encoder's as many ahead. Unset: all."""
    global_tokens: Int = Field(0, ge=0)
    """With sliding_window or sparse_block: so many first tokens of a text are seen by all and see all (Longformer)."""
    sparse_block: Int | None = Field(None, gt=0)
    """Attention in blocks of this many tokens: a block sees itself, its neighbours and every sparse_stride-th block."""
    sparse_stride: Int = Field(8, gt=1)
    """Distance, in blocks, between the blocks that all tokens see."""
    full_attention_every: Int | None = Field(None, gt=0)
    """Every so-many-th layer sees everything in spite of sliding_window or sparse_block."""
    full_attention_layers: list[Int] | None = None
    """The layers, counted from 0, that see everything in spite of sliding_window or sparse_block."""

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
        **dict.fromkeys(("head_dim", "d_kv"), "d_head"),
        **dict.fromkeys(("num_encoder_layers", "encoder_layers"), "n_encoder_layers"),
        "type_vocab_size": "token_types",
        "relative_attention_num_buckets": "relative_buckets",
        "relative_attention_max_distance": "relative_max_distance",
        "mem_len": "memory_length",
        **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), "n_experts"),
        **dict.fromkeys(("num_experts_per_tok", "n_activated_experts"), "experts_per_token"),
        **dict.fromkeys(("num_shared_experts",), "n_shared_experts"),
        **dict.fromkeys(("moe_intermediate_size",), "d_expert"),
        **dict.fromkeys(("decoder_sparse_step",), "moe_every"),
        **dict.fromkeys(("first_k_dense_replace",), "first_dense_layers"),
        **dict.fromkeys(("scoring_func",), "router_scores"),
        **dict.fromkeys(("norm_topk_prob",), "normalise_expert_weights"),
        **dict.fromkeys(("routed_scaling_factor",), "expert_scale"),
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
        values, implied_experts = _with_experts(values)
        renamed, notes = super().translate(flatten_rope(values))
        notes.extend(implied_experts)
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
        """Width of one attention head, resolved."""
        return self.d_head or self.d_model // self.n_heads

    @property
    def has_qkv_bias(self) -> bool:
        """Whether queries, keys and values have biases, resolved."""
        return self.bias if self.qkv_bias is None else self.qkv_bias

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
    def expert_dim(self) -> int:
        """Width of one expert, resolved: all that a token meets are together as wide as a dense network would be, each
        rounded up to 16 (whole 32 bytes in bfloat16, which fast kernels want)."""
        if self.d_expert is not None:
            return self.d_expert
        return -(-self.ffn_dim // ((self.experts_per_token + self.n_shared_experts) * 16)) * 16

    @property
    def segment(self) -> int | None:
        """Tokens of a segment, resolved; None if texts are read whole."""
        return self.segment_length or self.memory_length or None

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """The layers that have experts."""
        return tuple(filter(self.has_experts, range(self.n_layers)))

    def has_experts(self, layer_index: int) -> bool:
        """Whether a layer, counted from 0, has experts."""
        last_of_group = (layer_index + 1) % self.moe_every == 0
        return self.n_experts > 0 and layer_index >= self.first_dense_layers and last_of_group

    @property
    def normalises_expert_weights(self) -> bool:
        """Whether the weights of a token's experts sum to 1, resolved."""
        given = self.normalise_expert_weights
        return self.experts_per_token > 1 if given is None else given

    @property
    def value_embedding_layers(self) -> tuple[int, ...]:
        """The layers that ``value_embeddings`` gives a table: every second one, counted from the last."""
        return tuple(range((self.n_layers - 1) % 2, self.n_layers, 2)) if self.value_embeddings else ()

    @property
    def rope_trained_length(self) -> int:
        """Longest sequence before rotary positions were scaled, resolved."""
        return self.rope_original_length or max(1, round(self.max_seq_len / self.rope_factor))

    @property
    def has_attention_pattern(self) -> bool:
        """Whether some layers see only part of the text before (or around) a token."""
        return self.sliding_window is not None or self.sparse_block is not None

    def sees_everything(self, layer: int) -> bool:
        """Whether a layer attends to the whole text: no pattern, or exempt from it."""
        every, chosen = self.full_attention_every, self.full_attention_layers
        return (
            not self.has_attention_pattern
            or (every is not None and (layer + 1) % every == 0)
            or (chosen is not None and layer in chosen)
        )

    @property
    def encoder_layers(self) -> int:
        """Blocks of an encoder, resolved; a decoder has none."""
        return {
            "decoder": 0,
            "encoder": self.n_layers,
            "encoder_decoder": self.n_encoder_layers or self.n_layers,
        }[self.family]

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
        """Values that do not go together."""
        return contradictions_of(self)


def _with_experts(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """``use_moe: true`` and ``feed_forward: moe`` mean 8 experts where no number is given; ``use_moe: false`` none."""
    values = dict(values)
    wanted = values.pop("use_moe", None)
    if wanted is not None and not isinstance(wanted, bool):
        raise ConfigError([f"use_moe: expected true or false, got {wanted!r}"])
    names = [name for name in values if name == "n_experts" or ModelConfig.ALIASES.get(name) == "n_experts"]
    if wanted is False and any(values[name] for name in names):
        raise ConfigError([f"use_moe: false contradicts {names[0]}: {values[names[0]]}"])
    if (wanted or values.get("feed_forward") == "moe") and not names:
        values["n_experts"] = DEFAULT_EXPERTS
        return values, [f"{'use_moe' if wanted else 'feed_forward: moe'} is read as n_experts={DEFAULT_EXPERTS}"]
    return values, []
