"""What calling a tokenizer returns, and how rows of different length become one rectangle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from llm_trainer.common.errors import UserError

TensorKind = Literal["pt", "np"]
Padding = bool | Literal["longest", "max_length"]


class BatchEncoding(dict[str, Any]):
    """``input_ids`` and ``attention_mask``, by key or by attribute; ``model(**batch)`` works."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no {name!r}; it holds {', '.join(self)}") from None

    def to(self, device: Any) -> BatchEncoding:
        """Move every tensor to ``device``."""
        return BatchEncoding({key: value.to(device) for key, value in self.items()})


def as_tensor(rows: Sequence[Sequence[int]], kind: TensorKind) -> Any:
    """Rows of equal length -> int64 tensor or array (batch, seq).

    Raises:
        UserError: an unknown kind, or rows of different lengths.
    """
    if kind not in ("pt", "np"):
        raise UserError(f"return_tensors is {kind!r}", hint='use "pt" for PyTorch, "np" for NumPy, or leave it out')
    if len({len(row) for row in rows}) > 1:
        raise UserError(
            "texts of different lengths do not make one tensor",
            hint='pass padding=True; with padding="max_length", truncation=True as well',
        )
    if kind == "pt":
        import torch

        return torch.tensor([list(row) for row in rows] or [[]], dtype=torch.long)[: len(rows)]  # (batch, seq)
    import numpy as np

    return np.array([list(row) for row in rows] or [[]], dtype=np.int64)[: len(rows)]  # (batch, seq)


def pad_rows(
    rows: Sequence[list[int]],
    *,
    padding: Padding,
    max_length: int | None,
    pad_token_id: int | None,
    side: str = "right",
    multiple_of: int | None = None,
) -> tuple[list[list[int]], list[list[int]]]:
    """Pad rows of ids; return them with their attention mask (1 = token, 0 = padding).

    Args:
        rows: ids of each text.
        padding: ``True`` or ``"longest"`` pads to the longest row, ``"max_length"`` to ``max_length``.
        max_length: in tokens.
        pad_token_id: what fills the gap. The mask, not this id, says what is padding.
        side: ``"right"`` or ``"left"``.
        multiple_of: round the padded length up to a multiple of this many tokens.

    Raises:
        UserError: contradictory arguments, or padding is needed and there is no padding token.
    """
    if padding not in (True, False, "longest", "max_length"):
        raise UserError(f"padding is {padding!r}", hint='use True, False, "longest" or "max_length"')
    if padding == "max_length" and max_length is None:
        raise UserError('padding="max_length" needs max_length', hint="pass max_length=..., or padding=True")
    if side not in ("left", "right"):
        raise UserError(f"padding_side is {side!r}", hint='use "right" or "left"')
    if multiple_of is not None and multiple_of < 1:
        raise UserError(f"pad_to_multiple_of is {multiple_of}", hint="use 8 or 64, or leave it out")
    masks = [[1] * len(row) for row in rows]
    if padding is False:
        return list(rows), masks
    longest = max((len(row) for row in rows), default=0)
    target = max_length if padding == "max_length" and max_length is not None else longest
    if multiple_of is not None:
        target = -(-target // multiple_of) * multiple_of
    padded: list[list[int]] = []
    padded_masks: list[list[int]] = []
    for row, mask in zip(rows, masks):
        gap = max(0, target - len(row))
        if gap and pad_token_id is None:
            raise UserError("this tokenizer has no padding token", hint="set tokenizer.pad_token to a special token")
        filler = [] if pad_token_id is None else [pad_token_id] * gap
        zeros = [0] * gap
        padded.append(row + filler if side == "right" else filler + row)
        padded_masks.append(mask + zeros if side == "right" else zeros + mask)
    return padded, padded_masks
