"""Packed sequences -> the tensors that a model trains on.

Everything follows from the lengths of the pieces: where padding begins, where positions restart, which tokens may
attend to each other, which targets do not count. No token value is ever looked at, so a text may contain any token and
the padding token may equal the end token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch

from llm_trainer.data.chunk import PackedSequence

Batch: TypeAlias = dict[str, torch.Tensor]

IGNORED = -100
"""Label of a position whose prediction does not count, as in ``torch.nn.functional.cross_entropy``."""


def collate(sequences: Sequence[PackedSequence], seq_len: int, *, pad_token_id: int = 0) -> Batch:
    """Make a batch.

    Args:
        sequences: the rows. None at all gives one row of padding without targets, so that a rank that ran out of data
            still makes the same steps as the others.
        seq_len: positions of a row; shorter sequences are padded on the right.
        pad_token_id: what stands in padding; any id of the vocabulary will do.

    Returns:
        ``input_ids`` and ``labels``, (batch, seq) int64. Labels equal the inputs (the model shifts them), but -100 on
        padding and on the first token of every piece: it would be predicted from another document.
        ``position_ids`` and ``document_ids``, (batch, seq) int64: positions restart at every piece; documents are
        numbered from 1 in each row, 0 is padding. Both are left out if every row is one piece of full length: a model
        then takes its faster, purely causal path.
    """
    rows = max(1, len(sequences))
    input_ids = np.full((rows, seq_len), pad_token_id, dtype=np.int64)
    labels = np.full((rows, seq_len), IGNORED, dtype=np.int64)
    position_ids = np.zeros((rows, seq_len), dtype=np.int64)
    document_ids = np.zeros((rows, seq_len), dtype=np.int64)
    plain = len(sequences) > 0
    for row, (tokens, piece_lengths) in enumerate(sequences):
        used, pieces = len(tokens), len(piece_lengths)
        input_ids[row, :used] = tokens
        labels[row, :used] = tokens
        lengths = piece_lengths.astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        position_ids[row, :used] = np.arange(used) - np.repeat(starts, lengths)
        document_ids[row, :used] = np.repeat(np.arange(1, pieces + 1), lengths)
        labels[row, starts] = IGNORED
        plain = plain and pieces == 1 and used == seq_len
    batch = {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels)}
    if not plain:
        batch["position_ids"] = torch.from_numpy(position_ids)
        batch["document_ids"] = torch.from_numpy(document_ids)
    return batch
