"""Examples in memory (texts or tokens with labels, pairs of source and target), and how they become batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch

from llm_trainer.common.errors import DataError
from llm_trainer.common.hashing import fingerprint, hash_bytes
from llm_trainer.data.collate import IGNORED, Batch
from llm_trainer.data.packing import IntArray

Pair = tuple[IntArray, IntArray]
"""Token ids of a source, and those of its target; or token ids, and their labels."""
Labelled = tuple[IntArray, int]
"""Token ids of a text, and its label."""
E = TypeVar("E")

BLOCK = 16
"""Neighbours that are shuffled together; see :mod:`llm_trainer.data.order`."""


class Examples(Generic[E]):
    """Examples in the place of a packed cache: a :class:`~llm_trainer.data.loader.PackedLoader` serves either.

    Args:
        examples: in order.
        identity: anything JSON-like that changes when the examples do, such as the fingerprints of data and tokenizer.
        seq_len: tokens of the longest one.

    Raises:
        DataError: there are none.
    """

    def __init__(self, examples: Sequence[E], *, identity: object, seq_len: int) -> None:
        if not examples:
            raise DataError("there are no examples to train on")
        self.examples = examples
        self.seq_len = seq_len
        self.fingerprint = fingerprint([identity, len(examples), seq_len])
        self.block_starts: IntArray = np.arange(0, len(examples), BLOCK, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.examples)

    def read(self, indices: Sequence[int] | IntArray) -> list[E]:
        """The examples at ``indices``, in that order."""
        return [self.examples[int(index)] for index in indices]


def hash_of(rows: Sequence[IntArray]) -> str:
    """Identity of token ids, for :class:`Examples` that come from nowhere with a fingerprint of its own."""
    return hash_bytes(b"".join(hash_bytes(row.astype("<i8").tobytes()).encode() for row in rows))


def collate_pairs(pairs: Sequence[Pair], places: IntArray | None = None) -> Batch:
    """Sources and targets, padded on the right to the longest of each.

    Args:
        pairs: token ids; none at all gives one row of padding without targets.
        places: not needed; loaders give it.

    Returns:
        ``input_ids`` and ``attention_mask``, (batch, source); ``labels``, (batch, target), -100 on padding, and
        ``decoder_attention_mask`` of the same shape. All int64.
    """
    sources, mask = _pad([source for source, _ in pairs], 0)
    labels, target_mask = _pad([target for _, target in pairs], IGNORED)
    return {"input_ids": sources, "attention_mask": mask, "labels": labels, "decoder_attention_mask": target_mask}


@dataclass(frozen=True)
class LabelCollator:
    """Texts with one label each, or with one label a token; padded on the right to the longest."""

    per_token: bool

    def __call__(self, examples: Sequence[Labelled] | Sequence[Pair], places: IntArray | None = None) -> Batch:
        """``input_ids`` and ``attention_mask``, (batch, seq); ``labels``, (batch,) or (batch, seq). All int64."""
        ids, mask = _pad([tokens for tokens, _ in examples], 0)
        if self.per_token:
            labels, _ = _pad([np.asarray(label) for _, label in examples], IGNORED)
        else:
            labels = torch.tensor([int(label) for _, label in examples] or [IGNORED], dtype=torch.int64)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _pad(rows: Sequence[IntArray], filler: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and their mask, (rows, longest); at least one row of one position."""
    width = max(1, max((len(row) for row in rows), default=1))
    ids = np.full((max(1, len(rows)), width), filler, dtype=np.int64)
    mask = np.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)
