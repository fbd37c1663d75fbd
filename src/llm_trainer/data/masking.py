"""Masked language modelling: which tokens an encoder has to guess (BERT: Devlin et al. 2018, section 3.1,
https://arxiv.org/abs/1810.04805).

Of the tokens chosen, 80 % become the mask token, 10 % any token, and 10 % stay what they are: so the model must have an
opinion about every token, not only about masks, which no text has outside training. The choice is another one each time
a sequence comes, and depends on nothing but the seed and the place of the sequence in the endless stream: a resumed run
makes the same one, with any batch size and number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from llm_trainer.common.errors import DataError
from llm_trainer.data.chunk import PackedSequence
from llm_trainer.data.collate import IGNORED, Batch, collate
from llm_trainer.data.packing import IntArray
from llm_trainer.data.randomness import uniforms

MASKED, REPLACED = 0.8, 0.1


@dataclass(frozen=True)
class MaskedCollator:
    """Packed sequences -> batches with gaps, for :class:`~llm_trainer.data.loader.PackedLoader`.

    Args:
        seq_len: positions of a row.
        vocab_size: of the tokenizer.
        mask_id: the mask token.
        special_ids: tokens that are never chosen and never put in place of another, the mask token among them.
        probability: share of the other tokens that are chosen.
        seed: another seed gives other gaps.
        word_starts: (vocab,), whether a token begins a word; then whole words are chosen (whole word masking). None:
            single tokens.

    Raises:
        DataError: a number is out of its range.
    """

    seq_len: int
    vocab_size: int
    mask_id: int
    special_ids: Sequence[int]
    probability: float = 0.15
    seed: int = 0
    word_starts: npt.NDArray[np.bool_] | None = None
    _ordinary: IntArray = field(init=False, repr=False)
    """Tokens that may be chosen, and put in the place of others."""

    def __post_init__(self) -> None:
        if not 0 < self.probability < 1:
            raise DataError(f"the share of masked tokens must be between 0 and 1, not {self.probability}")
        ordinary = np.setdiff1d(np.arange(self.vocab_size), [*self.special_ids, self.mask_id])
        if not len(ordinary):
            raise DataError("there are only special tokens in the vocabulary, and nothing to mask")
        object.__setattr__(self, "_ordinary", ordinary)

    def __call__(self, sequences: Sequence[PackedSequence], places: IntArray) -> Batch:
        """Make a batch.

        Args:
            sequences: the rows; none gives one row of padding.
            places: of the sequences in the stream. (rows,)

        Returns:
            What :func:`~llm_trainer.data.collate.collate` gives, with gaps in ``input_ids``, and with ``labels`` that
            are the tokens which were there, and -100 elsewhere.
        """
        batch = collate(sequences, self.seq_len)
        ids = batch["input_ids"].numpy()
        labels = np.full_like(ids, IGNORED)
        for row, (sequence, place) in enumerate(zip(sequences, places.tolist())):
            used = len(sequence.tokens)
            self._mask(ids[row, :used], labels[row, :used], place)
        return {**batch, "labels": torch.from_numpy(labels)}

    def _mask(self, ids: IntArray, labels: IntArray, place: int) -> None:
        """Make gaps in one row, in place."""
        draws = uniforms(3 * len(ids), "mask", self.seed, place).reshape(3, len(ids))
        chosen = self._choose(ids, draws[0])
        labels[chosen] = ids[chosen]
        how, other = draws[1, chosen], draws[2, chosen]
        fresh = np.where(how < MASKED, self.mask_id, ids[chosen])
        swap = (how >= MASKED) & (how < MASKED + REPLACED)
        fresh[swap] = self._ordinary[(other[swap] * len(self._ordinary)).astype(np.int64)]
        ids[chosen] = fresh

    def _choose(self, ids: IntArray, draws: npt.NDArray[np.float64]) -> IntArray:
        """The places to guess: the exact share of what may be chosen, at least one. (chosen,)"""
        eligible = np.flatnonzero(np.isin(ids, self._ordinary))
        if not len(eligible):
            return eligible
        wanted = max(1, round(self.probability * len(eligible)))
        if self.word_starts is None:
            return np.sort(eligible[np.argsort(draws[eligible], kind="stable")[:wanted]])
        # A word begins where a token says so, and after anything that may not be chosen.
        begins = self.word_starts[ids[eligible]] | (np.diff(eligible, prepend=-2) > 1)
        word = np.cumsum(begins) - 1
        order = np.argsort(draws[eligible[begins]], kind="stable")
        sizes = np.bincount(word)[order]
        # Words as they come, until the share is reached; the last one may go beyond it by less than its length.
        count = int(np.searchsorted(np.cumsum(sizes), wanted)) + 1
        return eligible[np.isin(word, order[:count])]


def word_starts(pieces: Sequence[bytes]) -> npt.NDArray[np.bool_]:
    """Which tokens begin a word: those that begin with white space. ``pieces`` are the bytes of each token. (vocab,)"""
    return np.array([piece[:1].isspace() for piece in pieces], dtype=np.bool_)
