"""All spellings of many words at once, as arrays.

A word of n characters has n + 1 nodes, the places between its characters; a piece that stands in the word is an edge
from its start to its end. Nodes of all words are numbered in one row. Sums over spellings run through all words in
step: first every node one character from its word's start, then every node at two, and so on, each step a few numpy
calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# edges, where groups start among them, the group of each edge, the node of each group
_Level = tuple[slice, Ints, Ints, Ints]

_CHAR_BITS = 21  # a code point


def code_points(words: Sequence[str]) -> tuple[Ints, Ints]:
    """The characters of all words in one row, and where each word starts; one more start than words."""
    starts = np.zeros(len(words) + 1, np.int64)
    np.cumsum([len(word) for word in words], out=starts[1:])
    return np.frombuffer("".join(words).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64), starts


class _Trie:
    """The prefixes of all pieces, level by level: sorted keys (parent, character) whose places are the children."""

    def __init__(self, pieces: Sequence[str]) -> None:
        characters, starts = code_points(pieces)
        lengths = np.diff(starts)
        alive = np.flatnonzero(lengths > 0)
        node = np.zeros(len(pieces), np.int64)
        self.keys: list[Ints] = []
        self.piece_at: list[Ints] = []
        depth = 0
        while len(alive):
            key = (node[alive] << _CHAR_BITS) | characters[starts[alive] + depth]
            keys, child = np.unique(key, return_inverse=True)
            node[alive] = child
            depth += 1
            ends = lengths[alive] == depth
            piece_at = np.full(len(keys), -1, np.int64)
            piece_at[child[ends]] = alive[ends]
            self.keys.append(keys)
            self.piece_at.append(piece_at)
            alive = alive[~ends]


class Lattice:
    """The spellings of words with pieces.

    Args:
        words: none of them empty.
        pieces: every character of the words is among them.
        use_itself: whether a word may be spelled by the piece that equals it; single characters may always.
    """

    def __init__(self, words: Sequence[str], pieces: Sequence[str], *, use_itself: bool = True) -> None:
        characters, starts = code_points(words)
        lengths = np.diff(starts)
        self.word_ends = starts[1:] + np.arange(len(words))  # the last node of each word
        self._nodes = len(characters) + len(words)
        word_of = np.repeat(np.arange(len(words)), lengths)
        room = starts[1:][word_of] - np.arange(len(characters))  # characters from here to the end of the word
        place, length, piece = _find(characters, room, _Trie(pieces))
        if not use_itself:
            whole = (length == lengths[word_of[place]]) & (place == starts[word_of[place]]) & (length > 1)
            place, length, piece = place[~whole], length[~whole], piece[~whole]
        self.source = place + word_of[place]
        self.target = self.source + length
        self.piece = piece
        self.source_level = place - starts[word_of[place]]
        self.target_level = self.source_level + length
        # Edges by the place of their end, then by word, then the longest first.
        order = np.lexsort((self.source, self.target, self.target_level))
        for name in ("source", "target", "piece", "source_level", "target_level"):
            setattr(self, name, getattr(self, name)[order])
        self._index()

    def _index(self) -> None:
        self._by_source = np.lexsort((self.source, self.source_level))
        self._into = _Groups(self.target, self.target_level)
        self._out_of = _Groups(self.source[self._by_source], self.source_level[self._by_source])

    def restrict(self, kept_pieces: Bools, kept_words: Bools | None = None) -> None:
        """Drop pieces, number the others anew in the same order, and drop the words that are no longer wanted."""
        kept = kept_pieces[self.piece]
        if kept_words is not None:
            kept &= np.repeat(kept_words, np.diff(self.word_ends, prepend=-1))[self.source]
            self.word_ends = self.word_ends[kept_words]
        number = np.cumsum(kept_pieces) - 1
        for name in ("source", "target", "piece", "source_level", "target_level"):
            setattr(self, name, getattr(self, name)[kept])
        self.piece = number[self.piece]
        self._index()

    def expected_counts(self, scores: Floats, word_counts: Floats) -> Floats:
        """How often each piece is used, on average over all spellings, (pieces,)."""
        forward = np.zeros(self._nodes)
        weight = scores[self.piece]
        for edges, offsets, group, nodes in self._into:
            values = forward[self.source[edges]] + weight[edges]
            highest = np.maximum.reduceat(values, offsets)
            sums = np.add.reduceat(np.exp(values - highest[group]), offsets)
            forward[nodes] = highest + np.log(sums)
        # The share of all spellings up to an edge's end that pass through the edge.
        share = np.exp(forward[self.source] + weight - forward[self.target])
        flow = np.zeros(self._nodes)
        flow[self.word_ends] = word_counts
        share_out, target_out = share[self._by_source], self.target[self._by_source]
        for edges, offsets, _, nodes in reversed(list(self._out_of)):
            flow[nodes] = np.add.reduceat(flow[target_out[edges]] * share_out[edges], offsets)
        counts: Floats = np.bincount(self.piece, flow[self.target] * share, minlength=len(scores)).astype(np.float64)
        return counts

    def best_spellings(self, scores: Floats) -> tuple[Ints, Ints]:
        """(word, piece) of every piece in the most probable spelling of every word; see ``unigram_plain``."""
        best = np.zeros(self._nodes)
        last = np.zeros(self._nodes, np.int64)
        weight = scores[self.piece]
        for edges, offsets, group, nodes in self._into:
            values = best[self.source[edges]] + weight[edges]
            highest = np.maximum.reduceat(values, offsets)
            numbers = np.arange(edges.start, edges.stop)
            last[nodes] = np.minimum.reduceat(np.where(values == highest[group], numbers, edges.stop), offsets)
            best[nodes] = highest
        words, pieces = [], []
        word, node = np.arange(len(self.word_ends)), self.word_ends
        while len(word):
            edge = last[node]
            words.append(word)
            pieces.append(self.piece[edge])
            unfinished = self.source_level[edge] > 0
            word, node = word[unfinished], self.source[edge][unfinished]
        return np.concatenate(words), np.concatenate(pieces)


class _Groups:
    """Edges that share a node stand side by side; all groups of one level are worked on at once.

    Iterating yields for each level: the slice of its edges, where its groups start in it, the group of each edge, and
    the node of each group.
    """

    def __init__(self, node: Ints, level: Ints) -> None:
        new = np.ones(len(node), np.bool_)
        new[1:] = node[1:] != node[:-1]
        starts = np.flatnonzero(new)
        bounds = np.searchsorted(level, np.arange(level[-1] + 2 if len(level) else 1))
        self._levels: list[_Level] = []
        group_of = np.cumsum(new) - 1
        for low, high in pairwise(bounds.tolist()):
            if low < high:
                first, last = group_of[low], group_of[high - 1] + 1
                self._levels.append(
                    (
                        slice(int(low), int(high)),
                        starts[first:last] - low,
                        group_of[low:high] - first,
                        node[starts[first:last]],
                    )
                )

    def __iter__(self) -> Iterator[_Level]:
        return iter(self._levels)

    def __len__(self) -> int:
        return len(self._levels)


def _find(characters: Ints, room: Ints, trie: _Trie) -> tuple[Ints, Ints, Ints]:
    """Every occurrence of a piece: its place in the row of characters, its length, its number."""
    place = np.arange(len(characters))
    node = np.zeros(len(characters), np.int64)
    found: list[tuple[Ints, Ints, Ints]] = []
    for depth, (keys, piece_at) in enumerate(zip(trie.keys, trie.piece_at)):
        inside = room[place] > depth
        place, node = place[inside], node[inside]
        key = (node << _CHAR_BITS) | characters[place + depth]
        child = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
        known = keys[child] == key
        place, node = place[known], child[known]
        piece = piece_at[node]
        ends = piece >= 0
        found.append((place[ends], np.full(int(ends.sum()), depth + 1), piece[ends]))
    places, lengths, pieces = zip(*found)
    return np.concatenate(places), np.concatenate(lengths), np.concatenate(pieces)
