"""What a corpus is made of, counted document by document, in pieces that can be added up.

Each work unit of a pipeline fills a :class:`Statistics` of its own; the sum over the units is the same however the
work was shared out. Every document that enters must be either kept or dropped for a reason: :meth:`Statistics.check`
insists.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from llm_trainer.common.errors import DataError
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.filters.base import Tags
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.privacy import Redaction
from llm_trainer.corpus.report.counters import Distribution, Lengths, Sample, Tally
from llm_trainer.corpus.report.diversity import opening
from llm_trainer.corpus.report.groups import Group

VERSION = 1
GROUPINGS = ("source", "category", "language", "split")
EXAMPLES = 5
EXCERPT_CHARACTERS = 300
SAMPLED_DOCUMENTS = 256
_MAX_GROUPS = 1_000
_MAX_DOMAINS = 10_000
_OTHER = "(other)"
_YEAR = re.compile(r"(1[5-9]|20)\d\d(?!\d)")
# What these tags say is counted in a place of its own.
_GROUP_TAGS = frozenset({*GROUPINGS, "domain", "url", "date", "year", "licence", "license", "id"})


def _tallies() -> dict[str, Tally]:
    return {"domains": Tally(_MAX_DOMAINS), "licences": Tally(_MAX_GROUPS), "years": Tally(_MAX_GROUPS)}


@dataclass
class Statistics:
    """Counts over the documents of a corpus or of a part of it.

    ``source``, ``category``, ``language``, ``split``, ``domain`` (or ``url``), ``licence`` (or ``license``) and
    ``year`` (or ``date``) of a document are taken from its tags, or else from its metadata; the source, at last, from
    the document itself.

    Args:
        conceal: (text, counts) -> text, applied to every excerpt before it is kept, because the report is shown to
            others; by default personal data and keys are replaced. None shows texts as they are.
        excerpt_characters: length of the examples of what was dropped; 0 keeps none.
    """

    conceal: Callable[[str, Counter[str]], str] | None = field(
        default_factory=lambda: Redaction().redact, compare=False, repr=False
    )
    excerpt_characters: int = field(default=EXCERPT_CHARACTERS, compare=False)
    entered: Counter[str] = field(default_factory=Counter)
    """Source -> documents that its reader gave."""
    kept: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    """Source -> the reason, which is the first rule that a document broke -> documents."""
    broken_rules: Counter[str] = field(default_factory=Counter)
    """Every rule that a dropped document broke, not only the first."""
    losses: dict[str, Losses] = field(default_factory=dict)
    """Source -> records that never became documents."""
    total: Group = field(default_factory=Group)
    groups: dict[str, dict[str, Group]] = field(default_factory=lambda: {name: {} for name in GROUPINGS})
    tallies: dict[str, Tally] = field(default_factory=_tallies)
    text_tags: dict[str, Tally] = field(default_factory=dict)
    kept_tags: dict[str, Distribution] = field(default_factory=dict)
    dropped_tags: dict[str, Distribution] = field(default_factory=dict)
    examples: dict[str, Sample] = field(default_factory=dict)
    """Reason -> name and beginning of some documents, chosen by hash."""
    sample: Sample = field(default_factory=lambda: Sample(SAMPLED_DOCUMENTS))
    """Beginnings of kept documents, for the figures about diversity."""
    duplicates: dict[str, Counter[str]] = field(default_factory=dict)
    clusters: dict[str, Lengths] = field(default_factory=dict)
    contamination: dict[str, Counter[str]] = field(default_factory=dict)
    redactions: Counter[str] = field(default_factory=Counter)
    """Kind of personal data -> how often it was replaced."""
    repairs: Counter[str] = field(default_factory=Counter)
    """What the cleaners did."""
    microseconds: Counter[str] = field(default_factory=Counter)
    """Stage -> processor time; whole numbers, so that the sum does not depend on the order."""

    def enter(self, source: str, documents: int = 1) -> None:
        """Count documents that a reader gave, before anything else is done with them."""
        self.entered[source] += documents

    def lose(self, source: str, losses: Losses) -> None:
        """Count records of a source that never became documents."""
        self.losses.setdefault(source, Losses()).merge(losses)

    def add(self, document: Document, tags: Tags, *, tokens: int | None = None) -> None:
        """Count a document that stays.

        Args:
            document: as it is written out.
            tags: all that the filters said about it.
            tokens: of its text, if someone counted them.
        """
        text = document.text
        known = _facts(document, tags)
        sizes = (len(text), len(text.encode("utf-8", "surrogatepass")), len(text.split()), tokens)
        self.kept[known["source"]] += 1
        self.total.add(*sizes)
        for grouping in GROUPINGS:
            name = known.get(grouping)
            if name is not None:
                _group(self.groups[grouping], name).add(*sizes)
        for tally, fact in (("domains", "domain"), ("licences", "licence"), ("years", "year")):
            if fact in known:
                self.tallies[tally].add(known[fact])
        place = self.sample.wants(f"{known['source']}\0{document.id}")
        if place is not None:
            self.sample.put(place, opening(text))
        self._count_tags(tags, self.kept_tags)

    def drop(self, document: Document, tags: Tags, reasons: Sequence[str]) -> None:
        """Count a document that was taken out.

        Args:
            document: as it was when it was dropped.
            tags: all that is known about it by then.
            reasons: codes such as ``"gopher_quality.few_words"``; the first is *the* reason.

        Raises:
            DataError: there is no reason.
        """
        if not reasons:
            raise DataError(f"{document.id} was dropped without a reason")
        source = _facts(document, tags)["source"]
        self.dropped.setdefault(source, Counter())[reasons[0]] += 1
        self.broken_rules.update(set(reasons))
        self._count_tags(tags, self.dropped_tags)
        if self.excerpt_characters:
            shown = self.examples.setdefault(reasons[0], Sample(EXAMPLES))
            place = shown.wants(f"{source}\0{document.id}")
            if place is not None:
                # Concealed with some text behind it: an address at the end must be whole to be seen as one.
                excerpt = document.text[: self.excerpt_characters + 200]
                excerpt = self.conceal(excerpt, Counter()) if self.conceal else excerpt
                shown.put(place, f"{document.id}\n{excerpt[: self.excerpt_characters]}")

    def duplicate(self, kind: str, *, documents: int = 0, spans: int = 0, size: int = 0) -> None:
        """Count what was removed as a duplicate.

        Args:
            kind: ``"exact"``, ``"near"`` or ``"substring"``.
            documents: documents removed or, for substrings, shortened.
            spans: passages removed.
            size: bytes removed.
        """
        self.duplicates.setdefault(kind, Counter()).update(documents=documents, spans=spans, bytes=size)

    def cluster(self, kind: str, sizes: Iterable[int]) -> None:
        """Count clusters of duplicates by their size in documents, the one that stays included."""
        self.clusters.setdefault(kind, Lengths()).counts.update(sizes)

    def contaminated(self, benchmark: str, *, documents: int = 1, hits: int = 1) -> None:
        """Count documents that hold items of a benchmark."""
        self.contamination.setdefault(benchmark, Counter()).update(documents=documents, hits=hits)

    def spend(self, stage: str, seconds: float) -> None:
        """Count processor time of a stage."""
        self.microseconds[stage] += round(seconds * 1e6)

    @property
    def records(self) -> int:
        """Everything that the sources held: documents and lost records."""
        return self.entered.total() + sum(losses.total for losses in self.losses.values())

    def check(self) -> None:
        """Insist that no document vanished: of every source, entered = kept + dropped.

        Raises:
            DataError: naming the sources whose counts do not add up.
        """
        wrong = []
        for source in sorted({*self.entered, *self.kept, *self.dropped}):
            entered, kept = self.entered[source], self.kept[source]
            dropped = self.dropped.get(source, Counter()).total()
            if entered != kept + dropped:
                wrong.append(f"{source}: {entered:,} entered, {kept:,} were kept and {dropped:,} dropped")
        if wrong:
            raise DataError(
                "documents went missing or were counted twice: " + "; ".join(wrong),
                hint="statistics of an unfinished build do not add up; finish it, or build into a new folder",
            )

    def merge(self, other: Statistics) -> None:
        """Add another unit's counts."""
        for name in _COUNTERS:
            getattr(self, name).update(getattr(other, name))
        for name, make in _TABLES.items():
            _merge_tables(getattr(self, name), getattr(other, name), make)
        for grouping in GROUPINGS:
            for name, group in other.groups[grouping].items():
                _group(self.groups[grouping], name).merge(group)
        self.total.merge(other.total)
        self.sample.merge(other.sample)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        values: dict[str, Any] = {"version": VERSION, "total": self.total.to_dict(), "sample": self.sample.to_dict()}
        for name in _COUNTERS:
            values[name] = dict(sorted(getattr(self, name).items()))
        for name in _TABLES:
            values[name] = {key: _plain(entry) for key, entry in sorted(getattr(self, name).items())}
        values["groups"] = {
            grouping: {name: group.to_dict() for name, group in sorted(self.groups[grouping].items())}
            for grouping in GROUPINGS
        }
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Statistics:
        """The inverse of :meth:`to_dict`.

        Raises:
            DataError: another version of the program counted other things.
        """
        if values.get("version") != VERSION:
            raise DataError(
                f"these statistics are of version {values.get('version')}, this program reads version {VERSION}",
                hint="build again into a new folder",
            )
        made = cls(total=Group.from_dict(values["total"]), sample=Sample.from_dict(values["sample"]))
        for name in _COUNTERS:
            setattr(made, name, Counter(values[name]))
        for name, make in _TABLES.items():
            read = Counter if make is Counter else make.from_dict
            setattr(made, name, {key: read(entry) for key, entry in values[name].items()})
        for grouping in GROUPINGS:
            made.groups[grouping] = {name: Group.from_dict(entry) for name, entry in values["groups"][grouping].items()}
        return made

    def _count_tags(self, tags: Tags, numbers: dict[str, Distribution]) -> None:
        for name, value in tags.items():
            kind = type(value)  # faster than isinstance, and there are some forty tags to a document
            if name in _GROUP_TAGS:
                continue
            if kind is float or kind is int:
                distribution = numbers.get(name)
                if distribution is None:
                    distribution = numbers[name] = Distribution()
                distribution.add(value)
            elif kind is bool or kind is str:
                if name not in self.text_tags:
                    self.text_tags[name] = Tally(100)
                self.text_tags[name].add(value if kind is str else "yes" if value else "no")


_COUNTERS = ("entered", "kept", "broken_rules", "redactions", "repairs", "microseconds")
_TABLES: dict[str, Any] = {
    "dropped": Counter,
    "losses": Losses,
    "tallies": Tally,
    "text_tags": Tally,
    "kept_tags": Distribution,
    "dropped_tags": Distribution,
    "examples": Sample,
    "duplicates": Counter,
    "clusters": Lengths,
    "contamination": Counter,
}


def domain_of(url: str) -> str | None:
    """The host of a URL in lower case, without ``www.``; None if there is none."""
    try:
        host = urlsplit(url if "//" in url else f"//{url}").hostname
    except ValueError:  # "http://[::1" and the like, which the web is full of
        return None
    return host.removeprefix("www.") if host else None


def _facts(document: Document, tags: Tags) -> dict[str, str]:
    """What is known about a document beside its text; only what is known has a key."""
    found: dict[str, str] = {"source": document.source}
    sources = (document.metadata, tags)
    for fact, keys in _FACTS:
        for values in sources:
            for key in keys:
                value = values.get(key)
                if value is not None and value != "":
                    found[fact] = str(value)
    if "domain" not in found and "url" in found:
        domain = domain_of(found["url"])
        if domain is not None:
            found["domain"] = domain
    year = _YEAR.search(found["year"]) if "year" in found else None
    if year:
        found["year"] = year.group()
    else:
        found.pop("year", None)
    return found


# Later keys win over earlier ones.
_FACTS = (
    ("source", ("source",)),
    ("category", ("category",)),
    ("language", ("language",)),
    ("split", ("split",)),
    ("url", ("url",)),
    ("domain", ("domain",)),
    ("licence", ("license", "licence")),
    ("year", ("date", "year")),
)


def _group(groups: dict[str, Group], name: str) -> Group:
    if name not in groups and len(groups) >= _MAX_GROUPS:
        name = _OTHER
    return groups.setdefault(name, Group())


def _merge_tables(mine: dict[str, Any], others: Mapping[str, Any], make: Any) -> None:
    for key, entry in others.items():
        if key not in mine:
            # An empty one of the same limits, never the other's own object, which may go on counting.
            mine[key] = make(entry.limit) if make is Tally else make(entry.size) if make is Sample else make()
        if make is Counter:
            mine[key].update(entry)
        else:
            mine[key].merge(entry)


def _plain(entry: Any) -> Any:
    return dict(sorted(entry.items())) if isinstance(entry, Counter) else entry.to_dict()
