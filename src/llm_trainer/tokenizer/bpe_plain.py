"""Byte pair encoding as it is taught: the readable twin of :mod:`llm_trainer.tokenizer.bpe_fast`.

Training (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909): start with single bytes; find the pair of
neighbouring tokens that occurs most often; make it a token; repeat. Encoding applies the same merges in the same order.

These few lines define what the fast twin must compute. They count every pair again after every merge, so
training takes minutes where the fast twin takes a second; a test holds the two equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

from llm_trainer.tokenizer.pretokenize import pretokens, replace_surrogates
from llm_trainer.tokenizer.vocabulary import BYTES_IN_ORDER, BPEVocabulary, Merge

Word = tuple[bytes, ...]


def count_pairs(words: Mapping[Word, int]) -> Counter[Merge]:
    """How often each pair of neighbouring tokens occurs. In ``a a a`` the pair ``(a, a)`` occurs twice."""
    pairs: Counter[Merge] = Counter()
    for word, count in words.items():
        for pair in pairwise(word):
            pairs[pair] += count
    return pairs


def merge_pair(word: Word, pair: Merge) -> Word:
    """Join every occurrence of ``pair``, from the left: ``a a a`` with ``(a, a)`` becomes ``aa a``."""
    merged: list[bytes] = []
    position = 0
    while position < len(word):
        if word[position : position + 2] == pair:
            merged.append(pair[0] + pair[1])
            position += 2
        else:
            merged.append(word[position])
            position += 1
    return tuple(merged)


def train_merges(word_counts: Mapping[bytes, int], max_merges: int, min_frequency: int = 2) -> list[Merge]:
    """Learn merges.

    Args:
        word_counts: pre-tokens as bytes -> how often each occurs.
        max_merges: stop after this many.
        min_frequency: stop when the most frequent pair occurs less often than this.

    Returns:
        Pairs in the order learned; fewer than ``max_merges`` where the text has no more. Among equally frequent pairs
        the one with the smaller id on the left, then on the right comes first, as in the ``tokenizers`` library.
    """
    id_of = {token: number for number, token in enumerate(BYTES_IN_ORDER)}
    words: dict[Word, int] = {tuple(bytes([byte]) for byte in word): count for word, count in word_counts.items()}
    merges: list[Merge] = []
    while len(merges) < max_merges:
        pairs = count_pairs(words)
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], id_of[pair[0]], id_of[pair[1]]))
        if pairs[best] < min_frequency:
            break
        words = {merge_pair(word, best): count for word, count in words.items()}
        merges.append(best)
        id_of[best[0] + best[1]] = len(id_of)
    return merges


def encode(text: str, vocabulary: BPEVocabulary) -> list[int]:
    """The ids of ``text``: in each pre-token, apply the earliest learned merge that applies, until none does."""
    rank = {pair: index for index, pair in enumerate(vocabulary.merges)}
    ids: list[int] = []
    for piece in pretokens(replace_surrogates(text), vocabulary.pattern):
        word: Word = tuple(bytes([byte]) for byte in piece.encode("utf-8"))
        while True:
            known = [pair for pair in pairwise(word) if pair in rank]
            if not known:
                break
            word = merge_pair(word, min(known, key=rank.__getitem__))
        ids.extend(vocabulary.ids[token] for token in word)
    return ids
