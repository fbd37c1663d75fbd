"""WordPiece training at speed. Equal to its readable twin, :mod:`llm_trainer.tokenizer.wordpiece_plain`.

A heap of candidates, which serves BPE, does not serve here: a score depends on how often its two pieces occur anywhere,
so it can rise when some other pair takes occurrences away from them. Instead all pairs lie in arrays. A merge corrects
counts at the places that changed, computes the scores of the pairs that share a piece with it, and the best pair is the
maximum of an array: a few hundred microseconds for 200,000 pairs.

A word is held as a Python string with one character for each piece (character n is piece n), as in ``bpe_fast``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from llm_trainer.tokenizer.wordpiece_plain import MergeScore, characters_of, join

Progress = Callable[[int, int], None]

_PROGRESS_EVERY = 256


class _PairTable:
    """All pairs that may still be joined, as parallel arrays; a pair is named by its place in them."""

    def __init__(self, score: MergeScore, floor: int) -> None:
        self._score = score
        self._floor = floor
        self._size = 0
        self.left = np.zeros(1024, np.int32)
        self.right = np.zeros(1024, np.int32)
        self.counts = np.zeros(1024, np.int64)
        self.scores = np.zeros(1024, np.float64)
        self.place: dict[str, int] = {}

    def add(self, pair: str, count: int) -> None:
        if self._size == len(self.left):
            for name in ("left", "right", "counts", "scores"):
                array = getattr(self, name)
                setattr(self, name, np.concatenate([array, np.zeros_like(array)]))
        place = self._size
        self._size += 1
        self.left[place], self.right[place] = ord(pair[0]), ord(pair[1])
        self.counts[place] = count
        self.place[pair] = place

    def drop(self, pair: str) -> None:
        """Give up a pair; one that is too rare can only become rarer, since new pairs hold the new piece."""
        place = self.place.pop(pair)
        self.counts[place] = 0

    def rescore(self, pieces: tuple[int, ...], piece_counts: npt.NDArray[np.int64]) -> None:
        """Compute the scores of all pairs that hold one of ``pieces``; of all pairs if there are none."""
        left, right = self.left[: self._size], self.right[: self._size]
        chosen = np.full(self._size, not pieces)
        for piece in pieces:
            chosen |= (left == piece) | (right == piece)
        places = np.flatnonzero(chosen)
        counts = self.counts[places]
        if self._score == "likelihood":
            products = piece_counts[left[places]] * piece_counts[right[places]]
            self.scores[places] = np.where(counts >= self._floor, counts / np.maximum(products, 1), -1.0)
        else:
            self.scores[places] = np.where(counts >= self._floor, counts, -1)

    def lower_floor(self, least: int) -> bool:
        """Admit rarer pairs; ``False`` if all are admitted."""
        if self._floor == least:
            return False
        self._floor = max(least, self._floor // 2)
        return True

    def best(self) -> tuple[int, int] | None:
        """The admitted pair with the highest score; of equals the one with the smallest ids."""
        scores = self.scores[: self._size]
        if not self.place or scores.max() < 0:
            return None
        equals = np.flatnonzero(scores == scores.max())
        keys = (self.left[equals].astype(np.int64) << 32) | self.right[equals]
        place = equals[keys.argmin()]
        return int(self.left[place]), int(self.right[place])


class _Trainer:
    """The state of training: words, where each pair occurs, how often pairs and pieces occur."""

    def __init__(
        self,
        word_counts: Mapping[str, int],
        alphabet: Iterable[str],
        max_merges: int,
        min_frequency: int,
        score: MergeScore,
        first_floor: int,
    ) -> None:
        self.pieces = list(alphabet)
        number = {piece: chr(index) for index, piece in enumerate(self.pieces)}
        self.words = ["".join(number[piece] for piece in characters_of(word)) for word in word_counts]
        self.word_counts = list(word_counts.values())
        self.min_frequency = max(1, min_frequency)
        self.piece_counts = np.zeros(len(self.pieces) + max_merges, np.int64)
        self.where: defaultdict[str, list[int]] = defaultdict(list)
        self.table = _PairTable(score, max(self.min_frequency, first_floor))
        pair_counts, piece_counts = self._count()
        for piece, count in piece_counts.items():
            self.piece_counts[ord(piece)] = count
        for pair, count in pair_counts.items():
            self._offer(pair, count)
        self.table.rescore((), self.piece_counts)

    def _count(self) -> tuple[Counter[str], Counter[str]]:
        pairs: Counter[str] = Counter()
        pieces: Counter[str] = Counter()
        for index, (word, count) in enumerate(zip(self.words, self.word_counts)):
            for piece in word:
                pieces[piece] += count
            for left, right in pairwise(word):
                pairs[left + right] += count
                places = self.where[left + right]
                if not places or places[-1] != index:
                    places.append(index)
        return pairs, pieces

    def _offer(self, pair: str, count: int) -> None:
        if count >= self.min_frequency:
            self.table.add(pair, count)
        else:
            self.where.pop(pair, None)

    def merge_best(self) -> bool:
        """Join the best pair everywhere; ``False`` if there is none."""
        while (best := self.table.best()) is None:
            if not self.table.lower_floor(self.min_frequency):
                return False
            self.table.rescore((), self.piece_counts)
        left, right = best
        pair, token = chr(left) + chr(right), len(self.pieces)
        self.pieces.append(join(self.pieces[left], self.pieces[right]))
        changes: defaultdict[str, int] = defaultdict(int)
        merged = 0
        for index in self.where.pop(pair):
            segments = self.words[index].split(pair)
            if len(segments) > 1:
                self._merge_in_word(index, segments, pair, chr(token), changes)
                merged += (len(segments) - 1) * self.word_counts[index]
        self.piece_counts[token] = merged
        self.piece_counts[left] -= merged
        self.piece_counts[right] -= merged  # a pair of equals loses twice
        self.table.drop(pair)
        changes.pop(pair, None)
        self._apply(changes)
        self.table.rescore((left, right, token), self.piece_counts)
        return True

    def _merge_in_word(
        self, index: int, segments: list[str], pair: str, token: str, changes: defaultdict[str, int]
    ) -> None:
        """Note what changes around each place where ``pair`` stood, between two segments, and join the word anew."""
        first, second = pair[0], pair[1]
        count = self.word_counts[index]
        last = len(segments) - 1
        added: list[str] = []
        for place, segment in enumerate(segments):
            if place > 0 and segment:  # an occurrence stands to the left of this segment
                changes[second + segment[0]] -= count
                added.append(token + segment[0])
            elif 0 < place < last:  # two occurrences side by side
                changes[second + first] -= count
                added.append(token + token)
            if place < last and segment:  # an occurrence stands to the right
                changes[segment[-1] + first] -= count
                added.append(segment[-1] + token)
        for pair_added in added:
            changes[pair_added] += count
            self.where[pair_added].append(index)
        self.words[index] = token.join(segments)

    def _apply(self, changes: Mapping[str, int]) -> None:
        for pair, change in changes.items():
            place = self.table.place.get(pair)
            if place is None:
                # Either new, or given up before: then its count falls and it stays given up.
                self._offer(pair, change)
                continue
            self.table.counts[place] += change
            if self.table.counts[place] < self.min_frequency:
                self.table.drop(pair)
                self.where.pop(pair, None)


def train_pieces(
    word_counts: Mapping[str, int],
    alphabet: Iterable[str],
    max_merges: int,
    min_frequency: int = 2,
    score: MergeScore = "likelihood",
    first_floor: int = 0,
    progress: Progress | None = None,
) -> list[str]:
    """Learn pieces; arguments and result as in :func:`llm_trainer.tokenizer.wordpiece_plain.train_pieces`.

    Args:
        progress: called now and then with the number of merges learned and asked for.
    """
    trainer = _Trainer(word_counts, alphabet, max_merges, min_frequency, score, first_floor)
    alphabet_size = len(trainer.pieces)
    learned = 0
    while learned < max_merges and trainer.merge_best():
        learned += 1
        if progress and learned % _PROGRESS_EVERY == 0:
            progress(learned, max_merges)
    if progress:
        progress(learned, max_merges)
    return trainer.pieces[alphabet_size:]
