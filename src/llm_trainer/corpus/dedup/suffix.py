"""Exact repetition with a suffix array, for texts that fit in memory: no hash decides, token is compared with token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from llm_trainer.common.optional import available, require
from llm_trainer.corpus.dedup.shingles import HashedWords, Int64s, as_table
from llm_trainer.corpus.dedup.spans import Spans, cut_tokens
from llm_trainer.corpus.dedup.substring import Owners, RepeatedText, collect, resolve

BYTES_PER_TOKEN = 48
"""Of memory while the suffix array is made: 4 of text and 16 of suffix array a token, and their intermediates; beyond
2**29 tokens, places of 64 bits make it 80."""


@dataclass(frozen=True)
class Cut:
    """Texts without what was repeated.

    Attributes:
        texts: as long as the input.
        tokens: tokens that were found to be repeated, in each pass.
        short: numbers of the texts that were cut and are now shorter than ``min_chars``.
    """

    texts: list[str]
    tokens: list[int] = field(default_factory=list)
    short: list[int] = field(default_factory=list)


def find_repeats(texts: Sequence[str], ranks: Int64s, settings: RepeatedText) -> Spans:
    """What is repeated in texts that are in memory, by the method of the settings."""
    table = as_table(texts)
    tokens = settings.tokens(table)
    fits = len(tokens.values) * BYTES_PER_TOKEN <= settings.memory and available("pydivsufsort")
    if settings.method == "suffix_array" or (settings.method == "auto" and fits):
        return resolve_suffixes(tokens, ranks, settings)
    return resolve([collect(table, settings)], [ranks], settings)[0]


def remove_repeats(texts: Sequence[str], ranks: Int64s, settings: RepeatedText) -> Cut:
    """Cut every repeated stretch but one out of texts that are in memory.

    Args:
        texts: the texts.
        ranks: (texts,) int64, unique: the lowest keeps its text.
        settings: what counts as repeated.
    """
    found = list(texts)
    tokens: list[int] = []
    touched: set[int] = set()
    for _ in range(settings.passes):
        spans = find_repeats(found, ranks, settings)
        tokens.append(spans.tokens)
        if not len(spans):
            break
        for number in np.unique(spans.documents).tolist():
            found[number] = cut_tokens(found[number], spans.of(number), min_tokens=settings.min_tokens)
            touched.add(number)
    short = sorted(number for number in touched if len(found[number].strip()) < settings.min_chars)
    return Cut(found, tokens, short)


def resolve_suffixes(tokens: HashedWords, ranks: Int64s, settings: RepeatedText) -> Spans:
    """The same stretches as :func:`~llm_trainer.corpus.dedup.substring.resolve`, by a suffix array.

    All suffixes in order bring equal beginnings together: neighbours whose first ``min_tokens`` tokens are equal are
    one group. Tokens are compared as numbers of their kind.

    Args:
        tokens: of all texts.
        ranks: (texts,) int64, unique.
        settings: the length of a run.
    """
    owners = Owners.of([ranks], 0)
    size = settings.min_tokens
    valid = np.zeros(len(tokens.values), dtype=bool)
    for start, stop in zip(tokens.starts[:-1].tolist(), tokens.starts[1:].tolist()):
        valid[start : max(start, stop - size + 1)] = True
    if int(valid.sum()) < 2:
        return owners.spans([])[0]
    _, numbers = np.unique(tokens.values, return_inverse=True)
    text = np.ascontiguousarray(numbers.astype("<u4"))
    places = _suffix_array(text)
    places = places[valid[places]]
    equal = _same_beginning(text, places[:-1], places[1:], size)
    groups = np.zeros(len(places), dtype=np.int64)
    np.cumsum(~equal, out=groups[1:])
    shared = np.zeros(len(places), dtype=bool)
    shared[1:] |= equal
    shared[:-1] |= equal
    places, groups = places[shared], groups[shared]
    documents = np.searchsorted(tokens.starts, places, side="right") - 1
    return owners.spans([owners.losers(groups, documents, places - tokens.starts[documents], size)])[0]


def _suffix_array(text: npt.NDArray[np.uint32]) -> Int64s:
    """Places of all suffixes, in the order of their bytes; only those at whole tokens are kept."""
    library = require("pydivsufsort", extra="data", purpose="finding repeated text with a suffix array")
    places = library.divsufsort(text.view(np.uint8))
    return np.asarray(places[places % 4 == 0] // 4).astype(np.int64)


def _same_beginning(text: npt.NDArray[np.uint32], left: Int64s, right: Int64s, size: int) -> npt.NDArray[np.bool_]:
    """Whether the ``size`` tokens from each place of ``left`` on equal those from ``right`` on."""
    alive = np.arange(len(left))
    for step in range(size):
        alive = alive[text[left[alive] + step] == text[right[alive] + step]]
    equal = np.zeros(len(left), dtype=bool)
    equal[alive] = True
    return equal
