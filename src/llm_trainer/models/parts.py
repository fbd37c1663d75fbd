"""Which part of a model each parameter belongs to, by its name, and how large the parts are."""

from __future__ import annotations

import re

from torch import nn

EMBEDDING, ATTENTION, FEED_FORWARD, NORM, HEAD, OTHER = (
    "embedding",
    "attention",
    "feed-forward",
    "norm",
    "output layer",
    "other",
)
PARTS = (EMBEDDING, ATTENTION, FEED_FORWARD, NORM, HEAD, OTHER)
# Searched in this order; the first that is found in a name decides.
_RULES = (
    (r"(^|\.)(transform|lm_head|classifier|pooler)\b", HEAD),
    (r"norm\.(weight|bias)$", NORM),
    (r"embed|(^|\.)relative\.|table", EMBEDDING),
    (r"(^|\.)(cross_)?attention\.", ATTENTION),
    (r"(^|\.)feed_forward\.", FEED_FORWARD),
)


def part_of(name: str) -> str:
    """The part that a parameter of this name belongs to; one of :data:`PARTS`.

    Example:
        >>> part_of("blocks.3.attention.q_proj.weight"), part_of("blocks.3.ffn_norm.weight")
        ('attention', 'norm')
    """
    for pattern, part in _RULES:
        if re.search(pattern, name):
            return part
    return OTHER


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """Number of parameters of each part that there is; a shared matrix counts where it is first."""
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        counts[part_of(name)] += parameter.numel()
    return {part: count for part, count in counts.items() if count}
