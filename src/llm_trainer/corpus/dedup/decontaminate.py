"""Benchmark items in training text: a model that has read the question measures memory.

A document is hit where thirteen words in a row are those of a benchmark item (Brown et al. 2020, arXiv:2005.14165,
appendix C). Words are compared in lower case, without punctuation and accents, numbers as they are. A hash finds the
place, the words themselves decide.
"""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from llm_trainer.common.errors import CorruptionError, DataError
from llm_trainer.common.files import atomic_write
from llm_trainer.common.hashing import hash_bytes
from llm_trainer.config.base import Int, Settings
from llm_trainer.corpus.dedup.benchmarks import Item, read_items
from llm_trainer.corpus.dedup.grams import Grams, Postings
from llm_trainer.corpus.dedup.shingles import expand, plain_hashes
from llm_trainer.corpus.dedup.spans import cut_characters, word_places
from llm_trainer.corpus.words import WordTable, tabulate

_SENTENCE_ENDS = ".!?。！？\n"
# Text without a full stop, such as a list, is cut at the words that were found.
_SENTENCE_CHARS = 1000
_EXAMPLES = 5
_BATCH = 2000


class Decontamination(Settings):
    """What counts as a hit, and what becomes of a document with one."""

    VERSION: ClassVar[int] = 1
    """Changes when an index does."""

    ngram: Annotated[Int, Field(ge=3, le=100)] = 13
    """Words in a row that make a hit."""

    min_words: Annotated[Int, Field(ge=2)] = 8
    """A question of fewer than ``ngram`` words is a hit as a whole. One of fewer words than this is ordinary language:
    it is not looked for, and the index says so."""

    ignore_above: Annotated[Int, Field(ge=1)] | None = 50
    """Runs of words in more than so many items are the benchmark's boilerplate ("Output T for true and F for false")
    and are no hit; None to take all."""

    min_hits: Annotated[Int, Field(ge=1)] = 1
    """Runs of words of one item that have to be found in a document. A question that is a hit as a whole always is."""

    mode: Literal["document", "span"] = "document"
    """``document`` drops what is hit; ``span`` cuts the sentences that are and keeps the rest."""

    min_chars: Annotated[Int, Field(ge=0)] = 200
    """With ``span``: a rest that is shorter is dropped."""

    max_cuts: Annotated[Int, Field(ge=1)] = 10
    """With ``span``: a document that would be cut in more places is dropped."""

    columns: list[str] | None = None
    """The columns of the benchmark files that hold text, where they have unusual names."""

    def contradictions(self) -> Iterable[str]:
        """A whole question longer than a run of words."""
        if self.min_words > self.ngram:
            yield f"min_words ({self.min_words}) is more than ngram ({self.ngram})"

    def index_identity(self) -> dict[str, Any]:
        """What an index depends on besides the items."""
        names = ("ngram", "min_words", "ignore_above")
        return {"name": "decontamination", "version": self.VERSION, **{key: getattr(self, key) for key in names}}


@dataclass(frozen=True)
class Hit:
    """A benchmark item in a document.

    Attributes:
        benchmark: its benchmark.
        item: its name there.
        ngram: the first words that were found, as the document writes them.
        places: stretches of the document's characters that are in the item, sorted, without overlaps.
        count: runs of words that were found.
    """

    benchmark: str
    item: str
    ngram: str
    places: tuple[tuple[int, int], ...]
    count: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the list of what was hit."""
        return {"benchmark": self.benchmark, "item": self.item, "ngram": self.ngram, "count": self.count}


@dataclass
class IndexReport:
    """What is in an index.

    Attributes:
        items: benchmark -> items that are looked for.
        ignored: benchmark -> items that are too short to be looked for, or have no text.
        examples: benchmark -> some of the ignored, as ``name: question``.
        boilerplate: runs of words that are ignored because too many items have them.
    """

    items: dict[str, int] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    boilerplate: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "items": self.items,
            "ignored": self.ignored,
            "examples": self.examples,
            "boilerplate": self.boilerplate,
        }


class Decontaminator:
    """An index of benchmark items, and the search for them.

    Args:
        grams: the runs of ``ngram`` words, and the beginnings of short questions.
        names: (benchmark, item) of every item.
        report: what is in the index.
        settings: those that it was made with.
    """

    def __init__(
        self,
        grams: Sequence[Grams],
        names: Sequence[tuple[str, str]],
        report: IndexReport,
        settings: Decontamination,
    ) -> None:
        self.grams = list(grams)
        self.names = list(names)
        self.report = report
        self.settings = settings

    @classmethod
    def from_files(cls, paths: Iterable[str | Path], settings: Decontamination | None = None) -> Decontaminator:
        """Make an index from benchmark files; see :func:`~llm_trainer.corpus.dedup.benchmarks.read_items`."""
        settings = settings or Decontamination()
        return cls.from_items(read_items(paths, settings.columns), settings)

    @classmethod
    def from_items(cls, items: Iterable[Item], settings: Decontamination | None = None) -> Decontaminator:
        """Make an index from items."""
        settings = settings or Decontamination()
        postings = Postings(settings.ngram, settings.min_words)
        names: list[tuple[str, str]] = []
        counts: Counter[str] = Counter()
        ignored: Counter[str] = Counter()
        examples: dict[str, list[str]] = {}
        batch: list[Item] = []

        def flush() -> None:
            for item, found in zip(batch, postings.add(batch, len(names))):
                names.append((item.benchmark, item.name))
                counts[item.benchmark] += found
                if not found:
                    ignored[item.benchmark] += 1
                    shown = examples.setdefault(item.benchmark, [])
                    if len(shown) < _EXAMPLES:
                        shown.append(f"{item.name}: {item.question[:100] or '(no text)'}")
            batch.clear()

        for item in items:
            batch.append(item)
            if len(batch) == _BATCH:
                flush()
        flush()
        grams, boilerplate = postings.finish(settings.ignore_above)
        return cls(grams, names, IndexReport(dict(counts), dict(ignored), examples, boilerplate), settings)

    def hits(self, texts: Sequence[str], table: WordTable | None = None) -> list[list[Hit]]:
        """Find benchmark items in texts.

        Args:
            texts: the texts.
            table: their words, if somebody has split them.

        Returns:
            for every text, its hits in order of the items.
        """
        words = expand(tabulate(texts) if table is None else table, plain_hashes)
        found = [gram.find(words) for gram in self.grams]
        documents = np.concatenate([some.documents for some in found])
        result: list[list[Hit]] = [[] for _ in texts]
        if not len(documents):
            return result
        items = np.concatenate([some.items for some in found])
        starts = np.concatenate([some.starts for some in found])
        lengths = np.concatenate([some.lengths for some in found])
        whole = np.concatenate([np.full(len(some.items), gram.whole) for some, gram in zip(found, self.grams)])
        order = np.lexsort((starts, items, documents))
        rows = list(zip(*(column[order].tolist() for column in (documents, items, starts, lengths, whole))))
        first = 0
        while first < len(rows):
            document = rows[first][0]
            last = first
            while last < len(rows) and rows[last][0] == document:
                last += 1
            result[document] = self._describe(texts[document], [row[1:] for row in rows[first:last]])
            first = last
        return result

    def clean(self, text: str, hits: Sequence[Hit]) -> str | None:
        """What is left of a text by the settings' ``mode``: the text itself without hits, None if it is dropped."""
        if not hits:
            return text
        if self.settings.mode == "document":
            return None
        cuts: list[tuple[int, int]] = []
        for start, stop in sorted(_sentences(text, *place) for hit in hits for place in hit.places):
            if cuts and start <= cuts[-1][1]:
                cuts[-1] = (cuts[-1][0], max(stop, cuts[-1][1]))
            else:
                cuts.append((start, stop))
        if len(cuts) > self.settings.max_cuts:
            return None
        rest = cut_characters(text, cuts)
        return rest if len(rest.strip()) >= max(self.settings.min_chars, 1) else None

    @property
    def identity(self) -> str:
        """Changes when the items or the settings of the index do."""
        parts = [json.dumps(self.settings.index_identity(), sort_keys=True).encode("utf-8")]
        parts += [np.ascontiguousarray(array).tobytes() for gram in self.grams for array in gram.arrays().values()]
        parts.append(self.grams[0].words.tobytes())
        return hash_bytes(b"".join(parts))

    def save(self, path: str | Path) -> None:
        """Write the index to one ``.npz`` file, atomically."""
        head = {
            "settings": self.settings.to_dict(),
            "version": self.settings.VERSION,
            "names": self.names,
            "report": self.report.to_dict(),
            "grams": [{"size": gram.size, "whole": gram.whole} for gram in self.grams],
        }
        arrays: dict[str, npt.NDArray[Any]] = {
            f"{number}.{name}": array for number, gram in enumerate(self.grams) for name, array in gram.arrays().items()
        }
        arrays["words"] = self.grams[0].words
        arrays["head"] = np.frombuffer(json.dumps(head, ensure_ascii=False).encode("utf-8"), dtype=np.uint8)
        with atomic_write(path) as file:
            np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: str | Path, settings: Decontamination | None = None) -> Decontaminator:
        """Read an index.

        Args:
            path: what :meth:`save` wrote.
            settings: replaces those of the file, for another ``mode`` for example.

        Raises:
            CorruptionError: the file is damaged, or was written by another version, or for other runs of words.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                head = json.loads(arrays["head"].tobytes())
                if head["version"] != Decontamination.VERSION:
                    raise CorruptionError(f"{path} is an index of another version", hint="make it again")
                words = arrays["words"]
                grams = [
                    Grams(**shape, words=words, **{name: arrays[f"{number}.{name}"] for name in Grams.ARRAYS})
                    for number, shape in enumerate(head["grams"])
                ]
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
            raise CorruptionError(f"{path} is no index of benchmarks: {error}", hint="make it again") from None
        made_with = Decontamination(**head["settings"])
        if settings is not None and settings.index_identity() != made_with.index_identity():
            raise CorruptionError(f"{path} was made with other settings", hint="make it again")
        names = [(benchmark, name) for benchmark, name in head["names"]]
        return cls(grams, names, IndexReport(**head["report"]), settings or made_with)

    def _describe(self, text: str, rows: Sequence[tuple[int, int, int, bool]]) -> list[Hit]:
        """Rows of (item, first word, words, whether a whole question), by item, as hits with places in the text."""
        words, places = word_places(text)
        # Which word of the text each compared word comes from: punctuation gives none, "state-of-the-art" perhaps four.
        source = [number for number, word in enumerate(words) for _ in plain_hashes(word)]
        found: dict[int, list[tuple[int, int, bool]]] = {}
        for item, start, length, whole in rows:
            first, last = source[start], source[start + length - 1]
            found.setdefault(item, []).append((places[first], places[last] + len(words[last]), whole))
        hits = []
        for item, stretches in found.items():
            runs = sum(not whole for _, _, whole in stretches)
            if runs < self.settings.min_hits and runs == len(stretches):
                continue
            joined: list[tuple[int, int]] = []
            for start, stop, _ in stretches:
                if joined and start <= joined[-1][1]:
                    joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
                else:
                    joined.append((start, stop))
            shown = text[stretches[0][0] : stretches[0][1]]
            hits.append(Hit(*self.names[item], shown, tuple(joined), len(stretches)))
        return hits


def _sentences(text: str, start: int, stop: int) -> tuple[int, int]:
    """Widen a stretch to the borders of its sentences, inside their lines; a border far away is none."""
    earliest, latest = max(0, start - _SENTENCE_CHARS), min(len(text), stop + _SENTENCE_CHARS)
    first, last = start, stop
    while start > earliest and not _ends_sentence(text, start - 1):
        start -= 1
    while stop < latest and not _ends_sentence(text, stop):
        stop += 1
    start = first if start == earliest > 0 else start
    stop = last if stop == latest < len(text) else stop
    while stop < len(text) and text[stop] in _SENTENCE_ENDS and text[stop] != "\n":
        stop += 1
    return start, stop


def _ends_sentence(text: str, place: int) -> bool:
    """Whether a sentence ends here: not at the point of 3.5 or of example.org."""
    return text[place] in _SENTENCE_ENDS and (text[place] not in ".!?" or not text[place + 1 : place + 2].isalnum())
