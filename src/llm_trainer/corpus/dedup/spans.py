"""Stretches of tokens to remove from documents, and how a text is cut so that it stays readable."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm_trainer.corpus.dedup.shingles import cut_units, word_pieces
from llm_trainer.corpus.words import tabulate

_BLANK = " \t"


@dataclass(frozen=True)
class Spans:
    """What to remove from the documents of one unit; sorted, without overlaps.

    Attributes:
        documents: (n,) int64: number of the document in its unit.
        starts: (n,) int64: first token.
        stops: (n,) int64: behind the last token.
    """

    documents: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    stops: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.documents)

    def of(self, document: int) -> list[tuple[int, int]]:
        """The stretches of one document."""
        first, last = np.searchsorted(self.documents, [document, document + 1])
        return list(zip(self.starts[first:last].tolist(), self.stops[first:last].tolist()))

    @property
    def tokens(self) -> int:
        """Tokens covered."""
        return int((self.stops - self.starts).sum())


def merge_spans(documents: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> Spans:
    """Join stretches that overlap or touch."""
    if not len(documents):
        empty = np.empty(0, dtype=np.int64)
        return Spans(empty, empty, empty)
    # One long axis: no document has 2**32 tokens, so stretches of different documents never touch.
    first = (documents << 33) + starts
    last = (documents << 33) + stops
    order = np.argsort(first, kind="stable")
    first, last = first[order], np.maximum.accumulate(last[order])
    begins = np.ones(len(first), dtype=bool)
    begins[1:] = first[1:] > last[:-1]
    ends = np.append(np.flatnonzero(begins)[1:] - 1, len(first) - 1)
    first, last = first[begins], last[ends]
    owner = first >> 33
    return Spans(owner, first - (owner << 33), last - (owner << 33))


def word_places(text: str) -> tuple[list[str], list[int]]:
    """The words of a text and where each begins."""
    table = tabulate([text])
    words = [table.vocabulary[number] for number in table.ids.tolist()]
    places, place = [], 0
    for word in words:
        found = text.find(word, place)
        place = found if found >= 0 else place
        places.append(place)
        place += len(word) if found >= 0 else 0
    return words, places


def cut_tokens(text: str, spans: Iterable[tuple[int, int]], *, min_tokens: int) -> str:
    """Remove stretches of tokens from a text.

    Lines are taken out whole. Of a line that is covered only in part, the part is taken out when it has ``min_tokens``
    tokens by itself, and stays otherwise, unless the stretch would then stay altogether. What is left on both sides of
    a cut inside a line becomes two lines: words are never joined that did not stand together.

    Args:
        text: the text.
        spans: (first token, behind the last token), sorted; tokens are those of
            :func:`~llm_trainer.corpus.dedup.shingles.word_pieces`, of which only whole words are removed (whole
            characters in scripts without spaces, where a "word" is all between two marks).
        min_tokens: see above.
    """
    words: list[str] = []
    places: list[int] = []
    sizes: list[int] = []
    for word, place in zip(*word_places(text)):
        units = cut_units(word)
        for unit in units:
            words.append(unit)
            places.append(place)
            place += len(unit)
        sizes += [len(word_pieces(word))] if len(units) == 1 else map(len, units)
    counts = np.array(sizes, dtype=np.int64)
    ends = np.cumsum(counts)
    begins = ends - counts
    at = np.array(places, dtype=np.int64)
    total = np.concatenate(([0], ends))  # tokens before each word
    cuts: list[tuple[int, int]] = []
    for start, stop in spans:
        first = int(np.searchsorted(begins, start, side="left"))
        last = int(np.searchsorted(ends, stop, side="right"))
        while first < last and not counts[first]:
            first += 1
        if first >= last:
            continue
        pieces = _lines(text, places[first], places[last - 1] + len(words[last - 1]))
        chosen = []
        for low, high, whole in pieces:
            first_inside, last_inside = np.searchsorted(at, [low, high])
            if whole or total[last_inside] - total[first_inside] >= min_tokens:
                chosen.append((low, high))
        cuts += chosen or [(low, high) for low, high, _ in pieces]
    return cut_characters(text, cuts)


def cut_characters(text: str, cuts: Sequence[tuple[int, int]]) -> str:
    """Remove ``text[start:stop]`` for all cuts, which are sorted, and mend the seams.

    What stood on both sides of a cut inside a line becomes two lines; a line that is gone takes its line end with it,
    and of the blank lines around it one stays.
    """
    parts: list[str] = []
    place = 0
    for start, stop in cuts:
        if start >= stop:
            continue
        # Nothing but space between two cuts makes them one.
        if not parts or text[place:start].strip():
            parts.append(text[place:start])
        place = max(place, stop)
    parts.append(text[place:])
    for number in range(1, len(parts)):
        parts[number - 1 : number + 1] = _seam(parts[number - 1], parts[number])
    return "".join(parts)


def _seam(left: str, right: str) -> tuple[str, str]:
    left, right = left.rstrip(_BLANK), right.lstrip(_BLANK)
    if not left or left.endswith("\n\n"):
        return left, right.lstrip("\n")
    if left.endswith("\n"):
        return left, right.removeprefix("\n")
    return (left + "\n" if right and not right.startswith("\n") else left), right


def _lines(text: str, start: int, stop: int) -> list[tuple[int, int, bool]]:
    """``text[start:stop]`` as pieces of one line each, ``(start, stop, whether it is the whole line)``; blank lines are
    in no piece."""
    pieces = []
    place = start
    while place < stop:
        line_end = text.find("\n", place)
        line_end = len(text) if line_end < 0 else line_end
        end = min(stop, line_end)
        line_start = text.rfind("\n", 0, place) + 1
        if text[place:end].strip():
            whole = not text[line_start:place].strip() and not text[end:line_end].strip()
            pieces.append((line_start if whole else place, line_end if whole else end, whole))
        place = line_end + 1
    return pieces
