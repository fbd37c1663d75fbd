"""What a drawing of a model shows: its components, in the order of the numbers' way, in words and sizes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from llm_trainer.config import ModelConfig
from llm_trainer.models.base import BaseLanguageModel
from llm_trainer.models.parts import ATTENTION, EMBEDDING, FEED_FORWARD, HEAD, NORM, OTHER

DATA = "data"
"""What is no part of the model: tokens in, numbers out."""


@dataclass(frozen=True)
class Box:
    """One component."""

    part: str
    title: str
    detail: str
    parameters: int = 0


@dataclass(frozen=True)
class Sublayer:
    """Boxes between two places of the residual stream; what they give is added to it."""

    boxes: tuple[Box, ...]
    after: tuple[Box, ...] = ()
    """Boxes behind the sum (post-norm)."""


@dataclass(frozen=True)
class Blocks:
    """A block that is repeated."""

    count: int
    sublayers: tuple[Sublayer, ...]
    notes: tuple[str, ...] = ()
    """What else they do, a few words each; there is room for two."""


def components(model: BaseLanguageModel) -> tuple[list[Box | Blocks], list[Box | Blocks]]:
    """The components of the encoder and of the decoder, in order; an empty list where there is none."""
    config = model.config
    start, end = _embedding_boxes(model), _output_boxes(model)
    if config.family == "encoder_decoder":
        encoder, decoder = model.get_submodule("encoder"), model.get_submodule("decoder")
        source = [Box(DATA, "source tokens", "(batch, source length)"), *start]
        target = [Box(DATA, "target tokens", "(batch, target length)"), *_shared(start)]
        return (
            [*source, _blocks(config, encoder), *_final_norm(config, encoder)],
            [*target, _blocks(config, decoder), *_final_norm(config, decoder), *end],
        )
    stack = _stack(model)
    column = [Box(DATA, "tokens", "(batch, length)"), *start, _blocks(config, stack), *_final_norm(config, stack), *end]
    return (column, []) if config.family == "encoder" else ([], column)


def _stack(model: nn.Module) -> nn.Module:
    """The module that holds ``blocks``."""
    return next(module for module in model.modules() if isinstance(getattr(module, "blocks", None), nn.ModuleList))


def _count(module: nn.Module | None) -> int:
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())


def _embedding_boxes(model: BaseLanguageModel) -> list[Box | Blocks]:
    config = model.config
    found = dict(model.named_modules())
    by_end = {name.rpartition(".")[2]: module for name, module in found.items()}
    boxes = [
        Box(EMBEDDING, "token embedding", f"{config.vocab_size:,} x {config.d_model:,}", _count(by_end["embed_tokens"]))
    ]
    if config.position in ("learned", "sinusoidal"):
        size = _count(by_end.get("position_embedding"))
        boxes.append(
            Box(EMBEDDING, f"+ {config.position} positions", f"{config.max_seq_len:,} x {config.d_model:,}", size)
        )
    if config.token_types:
        size = _count(by_end.get("token_type_embedding"))
        boxes.append(Box(EMBEDDING, "+ segment embedding", f"{config.token_types} x {config.d_model:,}", size))
    if config.bigram_embedding is not None:
        size = _count(by_end.get("bigram_embedding"))
        boxes.append(Box(EMBEDDING, "+ pairs of tokens", f"{config.bigram_embedding:,} x {config.d_model:,}", size))
    if config.embedding_norm:
        boxes.append(Box(NORM, _norm_name(config), f"{config.d_model:,}", _count(by_end.get("embedding_norm"))))
    return list(boxes)


def _shared(boxes: list[Box | Blocks]) -> list[Box | Blocks]:
    """The same boxes where the decoder reads the encoder's tables."""
    return [Box(box.part, box.title, f"{box.detail}, shared") for box in boxes if isinstance(box, Box)]


def _final_norm(config: ModelConfig, stack: nn.Module) -> list[Box | Blocks]:
    norm = getattr(stack, "final_norm", None)
    if not config.pre_norm or norm is None:
        return []
    return [Box(NORM, f"final {_norm_name(config)}", f"{config.d_model:,}", _count(norm))]


def _output_boxes(model: BaseLanguageModel) -> list[Box | Blocks]:
    config = model.config
    boxes: list[Box | Blocks] = []
    if config.head != "lm":
        labels = len(config.labels or ())
        kind = "one label a text" if config.head == "sequence" else "one label a token"
        head = [module for name, module in model.named_children() if name in ("pooler", "classifier", "transform")]
        boxes.append(Box(HEAD, "classifier", f"{config.d_model:,} -> {labels} labels", sum(map(_count, head))))
        return [*boxes, Box(DATA, "scores", f"{kind}, {labels} to choose from")]
    transform = getattr(model, "transform", None)
    if transform is not None:
        detail = f"{config.d_model:,} -> {config.d_model:,}, {config.activation}, {_norm_name(config)}"
        boxes.append(Box(HEAD, "transform", detail, _count(transform)))
    tied = ", the token embedding" if config.tie_embeddings else ""
    own = 0 if config.tie_embeddings else _count(model.lm_head)
    cap = "" if config.logit_softcap is None else f", capped at {config.logit_softcap:g}"
    detail = f"{config.d_model:,} -> {config.vocab_size:,}{tied}{cap}"
    return [
        *boxes,
        Box(HEAD, "output layer", detail, own),
        Box(DATA, "logits", f"(batch, length, {config.vocab_size:,})"),
    ]


def _norm_name(config: ModelConfig) -> str:
    return {"rmsnorm": "RMSNorm", "layernorm": "LayerNorm"}.get(config.norm, config.norm)


def _blocks(config: ModelConfig, stack: nn.Module) -> Blocks:
    blocks = stack.get_submodule("blocks")
    assert isinstance(blocks, nn.ModuleList)
    # Blocks may differ (experts or value tables in some): the fullest is drawn.
    block = max(blocks, key=_count)
    crossing = hasattr(block, "cross_attention")
    pieces = [("attention", Box(ATTENTION, _attention_title(config, crossing), _attention_detail(config), 0))]
    if crossing:
        heads = f"{config.n_heads} heads of {config.head_dim}, over the whole source"
        pieces.append(("cross_attention", Box(ATTENTION, "cross-attention", heads, 0)))
    pieces.append(("feed_forward", Box(FEED_FORWARD, _ffn_title(config), _ffn_detail(config), 0)))
    norms = {"attention": "attention_norm", "cross_attention": "cross_attention_norm", "feed_forward": "ffn_norm"}
    sublayers = []
    for name, box in pieces:
        module = getattr(block, name, None)
        if module is None:
            continue
        whole = Box(box.part, box.title, box.detail, _count(module))
        norm = getattr(block, norms[name], None)
        normal = () if norm is None else (Box(NORM, _norm_name(config), f"{config.d_model:,}", _count(norm)),)
        sublayers.append(Sublayer((*normal, whole)) if config.pre_norm else Sublayer((whole,), normal))
    if not sublayers:
        sublayers = [Sublayer((Box(OTHER, config.block, "a block of its own", _count(block)),))]
    notes = ["learned shortcuts"] if config.residual_shortcuts else []
    if config.value_embeddings:
        notes.append(f"value tables in {len(config.value_embedding_layers)}")
    return Blocks(len(blocks), tuple(sublayers), tuple(notes))


def _attention_title(config: ModelConfig, crossing: bool) -> str:
    if config.attention != "mha":
        return f"attention: {config.attention}"
    kind = "self-attention" if crossing or config.family != "decoder" else "attention"
    kinds = {config.n_heads: kind, 1: f"multi-query {kind}"}
    name = kinds.get(config.kv_heads, f"grouped-query {kind}")
    return f"{name}, causal" if config.family == "decoder" or crossing else name


def _attention_detail(config: ModelConfig) -> str:
    parts = [f"{config.n_heads} heads of {config.head_dim}"]
    if config.kv_heads != config.n_heads:
        parts.append(f"{config.kv_heads} for keys and values")
    if config.position in ("rope", "alibi", "relative"):
        parts.append({"rope": "rotary", "alibi": "ALiBi", "relative": "relative bias"}[config.position])
    if config.qk_norm:
        parts.append("normalised")
    if config.sliding_window is not None:
        parts.append(f"window {config.sliding_window:,}")
    if config.sparse_block is not None:
        parts.append(f"blocks of {config.sparse_block}")
    return ", ".join(parts)


def _ffn_title(config: ModelConfig) -> str:
    return "mixture of experts" if config.n_experts else "feed-forward"


def _ffn_detail(config: ModelConfig) -> str:
    if config.n_experts:
        shared = f", {config.n_shared_experts} shared" if config.n_shared_experts else ""
        return f"{config.n_experts} experts, {config.experts_per_token} a token{shared}, {config.activation}"
    return f"{config.d_model:,} -> {config.ffn_dim:,} -> {config.d_model:,}, {config.activation}"
