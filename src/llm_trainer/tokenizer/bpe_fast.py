"""BPE at speed: merges learned in sweeps over arrays, text encoded by tiktoken. Equal to its twin, ``bpe_plain``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from llm_trainer.common.errors import DataError
from llm_trainer.tokenizer.bpe_merging import MAX_TOKENS, MergeLoop
from llm_trainer.tokenizer.pretokenize import group_plain_alternatives, pretokens, replace_surrogates
from llm_trainer.tokenizer.vocabulary import BYTES_IN_ORDER, BPEVocabulary, Merge

Progress = Callable[[int, int], None]

# tiktoken's regular expression keeps one entry for each white-space character of a run on a stack of a million, and
# aborts past it (measured: at 999,357 with tiktoken 0.14). Text with a blank block of this size takes another path.
_BLANK_BLOCK = 100_000


def train_merges(
    word_counts: Mapping[bytes, int], max_merges: int, min_frequency: int = 2, progress: Progress | None = None
) -> list[Merge]:
    """Learn merges; arguments and result as in :func:`llm_trainer.tokenizer.bpe_plain.train_merges`.

    Args:
        progress: called now and then with the number of merges learned and asked for.
    """
    if 256 + max_merges > MAX_TOKENS:
        raise DataError(f"at most {MAX_TOKENS - 256:,} merges can be learned, {max_merges:,} were asked for")
    loop = MergeLoop(word_counts, max(1, min_frequency))
    del word_counts  # the loop has arrays of its own; where nobody else holds the table, its memory is free now
    tokens = list(BYTES_IN_ORDER)
    merges: list[Merge] = []
    while len(merges) < max_merges:
        learned = loop.sweep(max_merges - len(merges))
        if not learned:
            break
        for left, right in learned:
            merges.append((tokens[left], tokens[right]))
            tokens.append(tokens[left] + tokens[right])
        if progress:
            progress(len(merges), max_merges)
    if progress:
        progress(len(merges), max_merges)
    return merges


class FastEncoder:
    """Encodes and decodes with tiktoken's core, built from our own tokens: it never looks for a file or a network."""

    def __init__(self, vocabulary: BPEVocabulary) -> None:
        import tiktoken

        self._pattern = vocabulary.pattern
        # tiktoken merges the pair whose joined bytes have the lowest rank. Ids rise with the merges, so they are ranks.
        self._encoding: Any = tiktoken.Encoding(
            "llm_trainer",
            pat_str=group_plain_alternatives(vocabulary.pattern),
            mergeable_ranks=vocabulary.ids,
            special_tokens=vocabulary.special_tokens,
        )
        # tiktoken 0.8 and later. It looks for special tokens to skip them; without any, each place would be one.
        has_buffer = hasattr(self._encoding._core_bpe, "encode_to_tiktoken_buffer")
        self._gives_arrays = has_buffer and bool(vocabulary.special_tokens)

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``, nothing in it being special."""
        if len(text) > _BLANK_BLOCK and _has_blank_block(text):
            return self._encode_piecewise(text)
        ids: list[int] = self._encoding.encode_ordinary(text)
        return ids

    def encode_array(self, text: str) -> npt.NDArray[np.integer[Any]]:
        """:meth:`encode` as an array (n,), without a Python number for each id."""
        if not self._gives_arrays or len(text) > _BLANK_BLOCK:
            return np.array(self.encode(text), dtype=np.uint32)
        try:
            buffer = self._encoding._core_bpe.encode_to_tiktoken_buffer(text, frozenset())
        except UnicodeEncodeError:  # a lone surrogate
            return np.array(self.encode(text), dtype=np.uint32)
        return np.frombuffer(buffer, dtype=np.uint32)

    def _encode_piecewise(self, text: str) -> list[int]:
        """The same ids, with the cut made by the ``regex`` package, which has no limit on runs of white space."""
        ids: list[int] = []
        for piece in pretokens(replace_surrogates(text), self._pattern):
            ids.extend(self._encoding._core_bpe.encode_single_piece(piece.encode("utf-8")))
        return ids

    def decode_bytes(self, ids: list[int]) -> bytes:
        """The bytes of ``ids``. Raises ``KeyError`` or ``OverflowError`` for an id that is not in the vocabulary."""
        data: bytes = self._encoding.decode_bytes(ids)
        return data


def _has_blank_block(text: str) -> bool:
    """True if a run of white space is twice a block long, which covers a whole block wherever it starts."""
    starts = range(0, len(text), _BLANK_BLOCK)
    return any(text[start : start + _BLANK_BLOCK].isspace() for start in starts)
