"""The half of C4's rules that judges documents; the other half removes lines (:mod:`...cleaning.c4_lines`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import regex
from pydantic import Field

from llm_trainer.config.base import Int
from llm_trainer.corpus.cleaning.c4_lines import LineRules
from llm_trainer.corpus.filters._marks import WordKinds
from llm_trainer.corpus.filters.base import Batch, Filter, Tags
from llm_trainer.corpus.words import tabulate

_MAY_END_INSIDE = regex.compile(r"[\p{Sentence_Terminal}\u17d6\u17d9\u17da](?=.)", regex.DOTALL)


class C4(LineRules, Filter):
    """Drops pages with too few sentences, with filler text and with code.

    Only lines that the line rules keep are looked at, so the decision is the same before and after the cleaner
    ``c4_lines`` with the same settings. C4's list of bad words is a rule of the filter ``toxicity``.

    Source: Raffel et al. 2020, section 2.2, https://arxiv.org/abs/1910.10683.
    """

    name: ClassVar[str] = "c4"
    TAG_SETTINGS: ClassVar[frozenset[str]] = frozenset(LineRules.model_fields)

    min_sentences: Int | None = Field(default=5, ge=0)
    """Fewest sentences."""
    drop_lorem_ipsum: bool = True
    """Drop documents with the words "lorem ipsum"."""
    drop_curly_bracket: bool = True
    """Drop documents with a ``{``: program text, hardly ever prose."""

    def tag(self, batch: Batch, tags: Sequence[Tags]) -> None:
        """Count sentences, words and marks of what is no prose."""
        lines: list[str] = []
        lines_of: list[int] = []
        for text, tag in zip(batch.texts, tags, strict=True):
            kept = [line for line, reason in self.scan(text) if not reason]
            lines += kept
            lines_of.append(len(kept))
            tag["c4_lorem_ipsum"] = "lorem ipsum" in text.lower() and any("lorem ipsum" in k.lower() for k in kept)
            tag["c4_curly_bracket"] = "{" in text and any("{" in line for line in kept)
        counts = np.concatenate([[0], np.cumsum(sentences(lines))])
        ends = np.cumsum(lines_of, dtype=np.int64)
        per_text = counts[ends] - counts[ends - np.array(lines_of, dtype=np.int64)]
        for tag, count in zip(tags, per_text.tolist(), strict=True):
            tag["c4_sentences"] = count

    def reasons(self, tags: Mapping[str, Any]) -> Iterator[str]:
        """The rules of C4 about whole pages."""
        if self.drop_lorem_ipsum and tags["c4_lorem_ipsum"]:
            yield "c4.lorem_ipsum"
        if self.drop_curly_bracket and tags["c4_curly_bracket"]:
            yield "c4.curly_bracket"
        if self.min_sentences is not None and tags["c4_sentences"] < self.min_sentences:
            yield "c4.few_sentences"


def sentences(lines: Sequence[str]) -> npt.NDArray[np.int64]:
    """The number of sentences of every line: a sentence ends with a mark like ``.``, and with the punctuation after it.

    The rule is that of spaCy's ``sentencizer``. A line that is not empty has at least one.

    Returns:
        (lines,) int64.
    """
    counts = np.fromiter(map(bool, lines), dtype=np.int64, count=len(lines))
    # Most lines hold no such mark before their last character: one sentence, and nothing to split.
    several = [index for index, line in enumerate(lines) if _MAY_END_INSIDE.search(line)]
    table = tabulate([lines[index] for index in several])
    kinds = WordKinds(table.vocabulary)
    passive = kinds.ends | kinds.punctuation
    # A word begins a sentence if an end stands between it and the word before it, punctuation left aside.
    before = np.zeros(len(table.ids) + 1, dtype=np.int64)
    np.cumsum(kinds.ends[table.ids], out=before[1:])
    words = np.flatnonzero(~passive[table.ids])
    line_of = np.searchsorted(table.starts[1:], words, side="right")
    previous = np.roll(before[words], 1)
    first = np.ones(len(words), dtype=bool)
    first[1:] = line_of[1:] != line_of[:-1]
    previous[first] = before[table.starts[line_of[first]]]
    begins = before[words] > previous
    counts[several] += np.bincount(line_of[begins], minlength=len(several))
    return counts
