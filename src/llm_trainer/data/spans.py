"""Span corruption: stretches of text become one sentinel each, and the answer says what was there (T5: Raffel et al.
2020, section 3.1.4, https://arxiv.org/abs/1910.10683).

    text     Thank you for inviting me to your party last week
    source   Thank you <extra_id_0> me to your party <extra_id_1> week
    answer   <extra_id_0> for inviting <extra_id_1> last

The number of tokens taken out and the number of spans follow from the length alone, and only the places are random: so
the lengths of source and answer are known before, and nothing is ever cut. As with masks, the places depend on the seed
and the place of the sequence in the stream only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm_trainer.common.errors import DataError
from llm_trainer.data.chunk import PackedSequence
from llm_trainer.data.collate import Batch
from llm_trainer.data.examples import collate_pairs
from llm_trainer.data.packing import IntArray
from llm_trainer.data.randomness import uniforms


def corrupted_counts(length: int, density: float, mean_span: float) -> tuple[int, int]:
    """How many tokens of ``length`` are taken out, and in how many spans; at least one of each is left and taken."""
    noise = min(max(round(length * density), 1), length - 1)
    spans = min(max(round(noise / mean_span), 1), noise, length - noise)
    return noise, spans


def corrupted_lengths(length: int, density: float, mean_span: float) -> tuple[int, int]:
    """Tokens of source and answer, end tokens included, that ``length`` tokens of text become.

    Example:
        >>> corrupted_lengths(568, 0.15, 3.0)  # the numbers of T5
        (512, 114)
    """
    noise, spans = corrupted_counts(length, density, mean_span)
    return length - noise + spans + 1, noise + spans + 1


@dataclass(frozen=True)
class SpanCollator:
    """Packed sequences -> sources with gaps and answers, for :class:`~llm_trainer.data.loader.PackedLoader`.

    Args:
        seq_len: tokens of a sequence before corruption.
        sentinels: the ids of the sentinels, ``<extra_id_0>`` first.
        special_ids: tokens that stay where they are: the borders between documents.
        end_id: ends sources and answers; None: nothing does.
        density: share of the other tokens that are taken out.
        mean_span: mean length of a span.
        seed: another seed gives other spans.

    Raises:
        DataError: a number is out of its range, or there are too few sentinels.
    """

    seq_len: int
    sentinels: Sequence[int]
    special_ids: Sequence[int]
    end_id: int | None
    density: float = 0.15
    mean_span: float = 3.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.density < 1 or self.mean_span < 1:
            raise DataError(
                f"span corruption needs a share between 0 and 1 and spans of at least 1 token, not {self.density} and "
                f"{self.mean_span}"
            )
        needed = sentinels_needed(self.seq_len, self.density, self.mean_span)
        if len(self.sentinels) < needed:
            raise DataError(
                f"sequences of {self.seq_len} tokens lose {needed} spans, but the tokenizer has only "
                f"{len(self.sentinels)} sentinels (<extra_id_0>, <extra_id_1>...)",
                hint="train the tokenizer with more, shorten data.max_length, or raise training.mean_span_length",
            )

    def __call__(self, sequences: Sequence[PackedSequence], places: IntArray) -> Batch:
        """Make a batch; see :func:`~llm_trainer.data.examples.collate_pairs` for what is in it.

        Args:
            sequences: the rows; none gives one row of padding.
            places: of the sequences in the stream. (rows,)
        """
        rows = zip(sequences, places.tolist())
        return collate_pairs([self.corrupt(sequence.tokens.astype(np.int64), place) for sequence, place in rows])

    def corrupt(self, ids: IntArray, place: int) -> tuple[IntArray, IntArray]:
        """Source and answer of one sequence. ``ids``: (tokens,)."""
        special = np.isin(ids, self.special_ids)
        # A sequence's outer borders say nothing: the source is ended by its own end token.
        inner = np.flatnonzero(~special)
        ids, special = (
            (ids[inner[0] : inner[-1] + 1], special[inner[0] : inner[-1] + 1]) if len(inner) else (ids, special)
        )
        ordinary = np.flatnonzero(~special)
        end = np.array([] if self.end_id is None else [self.end_id], dtype=np.int64)
        if len(ordinary) < 2:
            return np.concatenate((ids, end)), np.empty(0, dtype=np.int64)
        noise, spans = corrupted_counts(len(ordinary), self.density, self.mean_span)
        draws = uniforms(len(ordinary), "spans", self.seed, place)
        taken = _cut(noise, spans, draws[: noise - 1])
        kept = _cut(len(ordinary) - noise, spans, draws[noise - 1 :][: len(ordinary) - noise - 1])
        # Kept and taken stretches take turns, a kept one first.
        lengths = np.stack((kept, taken), axis=1).ravel()
        is_taken = np.repeat(np.arange(2 * spans) % 2 == 1, lengths)
        starts = np.cumsum(lengths)[0::2]  # of each taken stretch, within the ordinary tokens
        sentinels = np.asarray(self.sentinels[:spans], dtype=np.int64)

        gone = np.zeros(len(ids), dtype=np.bool_)
        gone[ordinary[is_taken]] = True
        source = ids.copy()
        source[ordinary[starts]] = sentinels
        gone[ordinary[starts]] = False
        answer = np.insert(ids[ordinary[is_taken]], np.cumsum(taken) - taken, sentinels)
        return np.concatenate((source[~gone], end)), np.concatenate((answer, end))


def sentinels_needed(seq_len: int, density: float, mean_span: float) -> int:
    """Sentinels that sequences of up to ``seq_len`` tokens need."""
    return corrupted_counts(max(2, seq_len), density, mean_span)[1]


def _cut(total: int, parts: int, draws: npt.NDArray[np.float64]) -> IntArray:
    """Cut ``total`` tokens in ``parts`` pieces of at least one, all ways equally likely. ``draws``: (total - 1,)."""
    borders = np.sort(np.argsort(draws, kind="stable")[: parts - 1]) + 1
    return np.diff(np.concatenate(([0], borders, [total])))
