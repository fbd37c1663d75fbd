"""Unigram training at speed: numpy over all words at once. Equal to its readable twin, ``unigram_plain``.

Only where the time goes is different. Substrings are counted length by length, each one as a pair of shorter ones that
overlap, so that no table of strings is needed; and the sums over spellings run through all words in step
(:mod:`~llm_trainer.tokenizer.unigram_lattice`). Lattices are made once and lose edges as pieces are pruned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from llm_trainer.tokenizer.unigram_lattice import Bools, Floats, Ints, Lattice, code_points
from llm_trainer.tokenizer.unigram_plain import EM_STEPS, LEAST_EXPECTED, LONGEST_PIECE, ROUNDING_SLACK, SHRINK
from llm_trainer.tokenizer.unigram_vocabulary import Piece

Progress = Callable[[int, int], None]


def train_pieces(
    word_counts: Mapping[str, int],
    alphabet: Sequence[str],
    size: int,
    seed_size: int = 1_000_000,
    progress: Progress | None = None,
) -> list[Piece]:
    """Learn pieces; arguments and result as in :func:`llm_trainer.tokenizer.unigram_plain.train_pieces`.

    Args:
        progress: called after each round with (pieces dropped, pieces to drop).
    """
    trainer = _Trainer(word_counts, alphabet, seed_size)
    seeds = len(trainer.pieces)
    least = 0
    while True:
        for _ in range(EM_STEPS):
            trainer.expect_and_maximize(least)
        if progress and seeds > size:
            progress(min(seeds - len(trainer.pieces), seeds - size), seeds - size)
        if len(trainer.pieces) <= size:
            break
        trainer.prune(size)
        least = size
    for _ in range(EM_STEPS):
        trainer.expect_and_maximize(len(trainer.pieces))
    result = zip(trainer.pieces, trainer.scores.tolist(), strict=True)
    return sorted(result, key=lambda item: (-item[1], item[0]))


class _Trainer:
    """The state of training: pieces, their scores, the lattice of the text's words and that of the pieces."""

    def __init__(self, word_counts: Mapping[str, int], alphabet: Sequence[str], seed_size: int) -> None:
        words = list(word_counts)
        self.word_counts: Floats = np.array(list(word_counts.values()), np.float64)
        self.pieces, cover = seed_pieces(words, self.word_counts, alphabet, seed_size)
        self.scores = _rounded(np.log(cover / cover.sum()))
        self.text = Lattice(words, self.pieces)
        self._spell_themselves: Lattice | None = None

    @property
    def _long(self) -> Bools:
        """Which pieces have two or more characters."""
        return np.array([len(piece) > 1 for piece in self.pieces])

    def _keep(self, kept: Bools) -> None:
        if kept.all():
            return
        if self._spell_themselves is not None:
            self._spell_themselves.restrict(kept, kept[self._long])
        self.text.restrict(kept)
        self.pieces = [piece for piece, keep in zip(self.pieces, kept.tolist()) if keep]
        self.scores = self.scores[kept]

    def expect_and_maximize(self, least_pieces: int) -> None:
        """One step of EM; pieces used less than half a time go, as long as ``least_pieces`` remain."""
        expected = self.text.expected_counts(self.scores, self.word_counts)
        rare = np.flatnonzero(self._long & (expected < LEAST_EXPECTED - ROUNDING_SLACK)).tolist()
        rare.sort(key=lambda number: (round(float(expected[number]), 6), self.pieces[number]))
        kept = np.ones(len(self.pieces), np.bool_)
        kept[rare[: max(0, len(self.pieces) - least_pieces)]] = False
        self._keep(kept)
        counts = np.maximum(expected[kept], LEAST_EXPECTED)
        self.scores = _rounded(digamma(counts) - digamma(counts.sum(keepdims=True)))

    def prune(self, least_pieces: int) -> None:
        """Keep the 75 % whose loss would hurt most, but at least ``least_pieces``, and all characters."""
        long = self._long
        losses = self._losses(long)
        numbers = np.flatnonzero(long).tolist()
        ranked = sorted(range(len(numbers)), key=lambda place: (-losses[place], self.pieces[numbers[place]]))
        size = max(least_pieces, int(SHRINK * len(self.pieces)))
        kept = ~long
        kept[[numbers[place] for place in ranked[: max(0, size - int(kept.sum()))]]] = True
        self._keep(kept)

    def _losses(self, long: Bools) -> list[float]:
        """For each long piece, by how much the log-probability of the text falls without it."""
        if self._spell_themselves is None:
            long_pieces = [piece for piece, is_long in zip(self.pieces, long.tolist()) if is_long]
            self._spell_themselves = Lattice(long_pieces, self.pieces, use_itself=False)
        word, piece = self.text.best_spellings(self.scores)
        uses = np.bincount(piece, self.word_counts[word], minlength=len(self.pieces))
        total = uses.sum()
        spelled, other = self._spell_themselves.best_spellings(self.scores)
        count = uses[long]
        with np.errstate(divide="ignore", invalid="ignore"):  # pieces that are not used are dealt with below
            log_total = np.log(total + count * (np.bincount(spelled) - 1))
            without_it = np.bincount(spelled, np.log(uses[other] + count[spelled]) - log_total[spelled])
            losses = count * (np.log(count) - np.log(total) - without_it)
        result: list[float] = np.where(count > 0, np.round(losses, 6), -np.inf).tolist()
        return result


def seed_pieces(
    words: Sequence[str], word_counts: Floats, alphabet: Sequence[str], seed_size: int
) -> tuple[list[str], Floats]:
    """Pieces to start with and the text that they cover, as in :func:`.unigram_plain.seed_pieces`."""
    characters, starts = code_points(words)
    weights = np.repeat(word_counts, np.diff(starts))
    values, char_of = np.unique(characters, return_inverse=True)
    char_counts = dict(zip(map(chr, values.tolist()), np.bincount(char_of, weights).tolist()))
    pieces = list(alphabet)
    cover = [max(1.0, char_counts.get(char, 0.0)) for char in pieces]

    place, length, covered = _frequent_substrings(characters, starts, weights, char_of)
    text = "".join(words)
    limit = max(0, seed_size - len(pieces))
    chosen = np.arange(len(place))
    if len(place) > limit:
        least = np.partition(covered, len(covered) - limit)[len(covered) - limit] if limit else np.inf
        above, equal = np.flatnonzero(covered > least), np.flatnonzero(covered == least).tolist()
        equal.sort(key=lambda number: text[place[number] : place[number] + length[number]])
        chosen = np.concatenate([above, np.array(equal[: limit - len(above)], np.int64)])
    for start, size in zip(place[chosen].tolist(), length[chosen].tolist()):
        pieces.append(text[start : start + size])
    return pieces, np.concatenate([np.array(cover), covered[chosen]])


def _frequent_substrings(characters: Ints, starts: Ints, weights: Floats, char_of: Ints) -> tuple[Ints, Ints, Floats]:
    """Where each substring of two or more characters that is a seed first stands, its length, and its cover."""
    room = np.repeat(starts[1:], np.diff(starts)) - np.arange(len(characters))
    place, name = np.arange(len(characters)), char_of  # of every occurrence: where it is, which substring it is
    first_place, counts = np.zeros(0, np.int64), np.zeros(0)  # of every substring
    found: list[tuple[Ints, Ints, Floats]] = []
    for length in range(2, LONGEST_PIECE + 2):
        # A substring is the pair of the two that are one shorter, from its first and from its second character.
        name_at = np.full(len(characters) + 1, -1, np.int64)
        name_at[place] = name
        going_on = (room[place] >= length) & (name_at[place + 1] >= 0)
        place = place[going_on]
        keys, firsts, name = np.unique(
            (name_at[place] << 32) | name_at[place + 1], return_index=True, return_inverse=True
        )
        longer_counts: Floats = np.bincount(name, weights[place], minlength=len(keys)).astype(np.float64)
        if length > 2:
            # Where one more character is always the same, the longer substring serves as well.
            best_extension = np.zeros(len(counts))
            np.maximum.at(best_extension, keys >> 32, longer_counts)
            seeds = np.flatnonzero((counts >= 2) & (best_extension < counts))
            found.append((first_place[seeds], np.full(len(seeds), length - 1), counts[seeds] * (length - 1)))
        first_place, counts = place[firsts], longer_counts
        frequent = counts[name] >= 2
        place, name = place[frequent], name[frequent]
    places, lengths, covers = zip(*found)
    return np.concatenate(places), np.concatenate(lengths), np.concatenate(covers)


def digamma(x: Floats) -> Floats:
    """As :func:`.unigram_plain.digamma`, for an array."""
    shift = np.zeros_like(x)
    x = x.copy()
    while (small := x < 7).any():
        shift[small] -= 1 / x[small]
        x[small] += 1
    square = 1 / (x * x)
    series = square * (1 / 12 - square * (1 / 120 - square * (1 / 252 - square * (1 / 240 - square / 132))))
    result: Floats = shift + np.log(x) - 0.5 / x - series
    return result


def _rounded(scores: Floats) -> Floats:
    result: Floats = np.rint(scores * 1e9) / 1e9
    return result
