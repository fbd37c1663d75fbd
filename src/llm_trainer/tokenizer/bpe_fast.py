"""BPE at speed: merges learned incrementally, text encoded by tiktoken. Equal to its readable twin, ``bpe_plain``.

Training differs from the readable twin in three ways. An index says which words contain a pair, so a merge visits those
words only. Counts are corrected at the places that changed, not counted again. The most frequent pair comes
from a heap whose entries may be out of date and are corrected when they surface: a pair's count only falls after it was
first counted, since a merge makes new pairs with the new token only.

A word is held as a Python string with one character for each token (character 256 + n is the n-th merge). Finding,
splitting and joining tokens are then string methods, which run in C: 32,000 merges of 10 MB take seconds.
"""

from __future__ import annotations

import heapq
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from llm_trainer.common.errors import DataError
from llm_trainer.tokenizer.pretokenize import pretokens, replace_surrogates
from llm_trainer.tokenizer.vocabulary import BPEVocabulary, Merge

Progress = Callable[[int, int], None]

_PROGRESS_EVERY = 256

# tiktoken's regular expression keeps one entry for each white-space character of a run on a stack of a million, and
# aborts past it (measured: at 999,357 with tiktoken 0.14). Text with a blank block of this size takes another path.
_BLANK_BLOCK = 100_000

_HeapEntry = tuple[int, bytes, bytes, str]


class _MergeTrainer:
    """The state of training: words, where each pair occurs, how often, and the heap of candidates."""

    def __init__(self, word_counts: Mapping[bytes, int], min_frequency: int) -> None:
        self.token_bytes: list[bytes] = [bytes([byte]) for byte in range(256)]
        self.words = [word.decode("latin-1") for word in word_counts]  # byte b is character b
        self.word_counts = list(word_counts.values())
        self.min_frequency = min_frequency
        self.pair_counts: defaultdict[str, int] = defaultdict(int)
        self.where: defaultdict[str, list[int]] = defaultdict(list)
        self.heap: list[_HeapEntry] = []
        for index, word in enumerate(self.words):
            self._count_pairs(index, word)
        for pair in self.pair_counts:
            self._offer(pair)

    def _count_pairs(self, index: int, word: str) -> None:
        count = self.word_counts[index]
        for left, right in pairwise(word):
            self.pair_counts[left + right] += count
            places = self.where[left + right]
            if not places or places[-1] != index:
                places.append(index)

    def _offer(self, pair: str) -> None:
        """Make a pair a candidate. One that is too rare now can only become rarer, so it is forgotten."""
        count = self.pair_counts[pair]
        if count >= self.min_frequency:
            left, right = self.token_bytes[ord(pair[0])], self.token_bytes[ord(pair[1])]
            heapq.heappush(self.heap, (-count, left, right, pair))
        else:
            self.where.pop(pair, None)

    def next_merge(self) -> Merge | None:
        """Find the most frequent pair (of equals, the one with the smallest bytes) and merge it everywhere."""
        while self.heap:
            negative, left, right, pair = heapq.heappop(self.heap)
            if self.pair_counts[pair] == -negative:
                self._merge(pair, left + right)
                return left, right
            self._offer(pair)
        return None

    def _merge(self, pair: str, merged_bytes: bytes) -> None:
        token = chr(len(self.token_bytes))
        self.token_bytes.append(merged_bytes)
        new_pairs: set[str] = set()
        for index in self.where.pop(pair):
            word = self.words[index]
            if pair in word:
                self._merge_in_word(index, word.split(pair), pair, token, new_pairs)
        del self.pair_counts[pair]
        for new_pair in new_pairs:
            self._offer(new_pair)

    def _merge_in_word(self, index: int, segments: list[str], pair: str, token: str, new_pairs: set[str]) -> None:
        """Correct the counts around each place where ``pair`` stood, between two segments, and join the word anew."""
        first, second = pair[0], pair[1]
        count, pair_counts, where = self.word_counts[index], self.pair_counts, self.where
        last = len(segments) - 1
        for place, segment in enumerate(segments):
            if place > 0:  # an occurrence stands to the left of this segment
                if segment:
                    pair_counts[second + segment[0]] -= count
                    added = token + segment[0]
                elif place < last:  # two occurrences side by side
                    pair_counts[second + first] -= count
                    added = token + token
                else:
                    added = ""
                if added:
                    pair_counts[added] += count
                    where[added].append(index)
                    new_pairs.add(added)
            if place < last and segment:  # an occurrence stands to the right
                pair_counts[segment[-1] + first] -= count
                added = segment[-1] + token
                pair_counts[added] += count
                where[added].append(index)
                new_pairs.add(added)
        self.words[index] = token.join(segments)


def train_merges(
    word_counts: Mapping[bytes, int], max_merges: int, min_frequency: int = 2, progress: Progress | None = None
) -> list[Merge]:
    """Learn merges; arguments and result as in :func:`llm_trainer.tokenizer.bpe_plain.train_merges`.

    Args:
        progress: called now and then with the number of merges learned and asked for.
    """
    if 256 + max_merges > sys.maxunicode:
        raise DataError(f"at most {sys.maxunicode - 256:,} merges can be learned, {max_merges:,} were asked for")
    trainer = _MergeTrainer(word_counts, max(1, min_frequency))
    merges: list[Merge] = []
    while len(merges) < max_merges:
        merge = trainer.next_merge()
        if merge is None:
            break
        merges.append(merge)
        if progress and len(merges) % _PROGRESS_EVERY == 0:
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
            pat_str=vocabulary.pattern,
            mergeable_ranks=vocabulary.ids,
            special_tokens=vocabulary.special_tokens,
        )

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``, nothing in it being special."""
        if len(text) > _BLANK_BLOCK and _has_blank_block(text):
            return self._encode_piecewise(text)
        ids: list[int] = self._encoding.encode_ordinary(text)
        return ids

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
