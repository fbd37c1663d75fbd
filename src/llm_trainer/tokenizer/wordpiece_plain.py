"""WordPiece as it is taught: the readable twin of :mod:`llm_trainer.tokenizer.wordpiece_fast`.

Training (Schuster and Nakajima 2012, "Japanese and Korean Voice Search"; used by BERT) starts with single characters
and joins a pair of neighbouring pieces at a time, like BPE. It differs in which pair: not the most frequent one, but
the one whose joining raises the likelihood of the text most under a unigram model, for each time it occurs:

    score(a, b) = count(ab) / (count(a) * count(b))

A pair of frequent pieces that meet by chance scores low, and two pieces that are hardly ever seen apart score high.
The trainer of the ``tokenizers`` library uses plain frequency instead, that is, it runs BPE and writes ``##``;
``score="frequency"`` does the same here. By itself the likelihood spends its first merges on rare pieces, which few
texts contain; a floor below which pairs wait (``first_floor``) keeps it to pairs that matter.

Pieces within a word carry ``##``, so ``##ing`` and ``ing`` are two pieces. Encoding does not replay the merges: it
takes the longest piece that fits, then the longest that fits after it.

These few lines define what the fast twin must compute; a test holds the two equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Literal

from llm_trainer.tokenizer.wordpiece_vocabulary import PREFIX, WordPieceVocabulary

MergeScore = Literal["likelihood", "frequency"]
Word = tuple[str, ...]


def characters_of(word: str) -> Word:
    """``dog`` -> ``d ##o ##g``."""
    return (word[0], *(PREFIX + char for char in word[1:]))


def join(left: str, right: str) -> str:
    """``d`` and ``##o`` -> ``do``."""
    return left + right.removeprefix(PREFIX)


def score_of(pair_count: int, left_count: int, right_count: int, score: MergeScore) -> float:
    """How much a pair deserves to be joined."""
    return pair_count / (left_count * right_count) if score == "likelihood" else float(pair_count)


def merge_pair(word: Word, pair: tuple[str, str]) -> Word:
    """Join every occurrence of ``pair``, from the left."""
    merged: list[str] = []
    position = 0
    while position < len(word):
        if word[position : position + 2] == pair:
            merged.append(join(*pair))
            position += 2
        else:
            merged.append(word[position])
            position += 1
    return tuple(merged)


def train_pieces(
    word_counts: Mapping[str, int],
    alphabet: Iterable[str],
    max_merges: int,
    min_frequency: int = 2,
    score: MergeScore = "likelihood",
    first_floor: int = 0,
) -> list[str]:
    """Learn pieces.

    Args:
        word_counts: words -> how often each occurs; every character of theirs is in the alphabet.
        alphabet: the pieces of one character, in the order of their ids.
        max_merges: stop after this many.
        min_frequency: pairs that occur less often are not joined.
        score: by what the next pair is chosen.
        first_floor: pairs that occur less often wait. Whenever no pair is left the floor falls to half, at last to
            ``min_frequency``.

    Returns:
        The joined pieces in the order learned; fewer than ``max_merges`` where the text has no more. Of pairs with
        equal scores, the one with the older left piece comes first, then the one with the older right piece.
    """
    words: dict[Word, int] = {characters_of(word): count for word, count in word_counts.items()}
    age = {piece: index for index, piece in enumerate(alphabet)}
    learned: list[str] = []
    least = max(1, min_frequency)
    floor = max(least, first_floor)
    while len(learned) < max_merges:
        pieces: Counter[str] = Counter()
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for piece in word:
                pieces[piece] += count
            for pair in pairwise(word):
                pairs[pair] += count
        candidates = {pair: count for pair, count in pairs.items() if count >= floor}
        if not candidates:
            if floor == least:
                break
            floor = max(least, floor // 2)
            continue
        left, right = min(
            candidates,
            key=lambda pair: (
                -score_of(candidates[pair], pieces[pair[0]], pieces[pair[1]], score),
                age[pair[0]],
                age[pair[1]],
            ),
        )
        learned.append(join(left, right))
        age[learned[-1]] = len(age)
        words = {merge_pair(word, (left, right)): count for word, count in words.items()}
    return learned


def encode_word(word: str, vocabulary: WordPieceVocabulary) -> list[int]:
    """The ids of a word: the longest piece that fits, again and again; one unknown token if at some place none fits."""
    unknown = [vocabulary.special_tokens[vocabulary.unk_token]]
    if len(word) > vocabulary.max_word_chars:
        return unknown
    ids: list[int] = []
    start = 0
    while start < len(word):
        prefix = PREFIX if start else ""
        for end in range(len(word), start, -1):
            token_id = vocabulary.ids.get(prefix + word[start:end])
            if token_id is not None:
                break
        else:
            return unknown
        ids.append(token_id)
        start = end
    return ids


def encode(text: str, vocabulary: WordPieceVocabulary) -> list[int]:
    """The ids of a text."""
    return [token_id for word in vocabulary.text.words(text) for token_id in encode_word(word, vocabulary)]
