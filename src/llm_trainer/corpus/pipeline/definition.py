"""The definition of a pipeline: one YAML file, or the same as Python objects, strictly checked.

.. code-block:: yaml

    name: my_corpus
    sources:
      - {name: books, kind: book, paths: [texts/books], category: books, license: public domain}
      - {name: notes, paths: [texts/notes]}
    clean: {unicode: {}}
    filters: {language: {languages: [en]}, length: {}, gopher_quality: {}}
    redaction: {}
    dedup: {near: {}}
    decontaminate: {benchmarks: [benchmarks/mmlu]}
    split: {validation_fraction: 0.05}

A section that is left out does nothing; ``{}`` takes the published defaults. Filters decide in the order in which they
are written: the first rule that a document breaks is the reason that it is counted under.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from llm_trainer.common.errors import ConfigError, DataError
from llm_trainer.config.base import Int, Settings
from llm_trainer.corpus.cleaning.base import Cleaner
from llm_trainer.corpus.dedup.decontaminate import Decontamination
from llm_trainer.corpus.dedup.minhash import MinHash
from llm_trainer.corpus.dedup.substring import RepeatedText
from llm_trainer.corpus.filters.base import Filter
from llm_trainer.corpus.pipeline.mixing import MixSettings
from llm_trainer.corpus.pipeline.sections import CLEANERS, FILTERS, build_section
from llm_trainer.corpus.privacy import Redaction
from llm_trainer.corpus.sources.download import COMMON_CRAWL
from llm_trainer.corpus.sources.kinds import NoOptions, Part, ReadRequest, find_kind


class SourceSettings(Settings):
    """One source of documents."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """What it is called in ids, reports and mixtures."""
    kind: str = "auto"
    """What its files are (``llm-trainer data sources``); auto: by their names."""
    paths: list[str] = Field(default_factory=list)
    """Files, folders, patterns (``crawl/*.warc.gz``) or addresses (https://...), which are downloaded first. For the
    kind ``dataset``: names of data sets."""
    category: str = ""
    """What it is about, for mixing and reports: web, books, academic, code, conversation, or a word of one's own."""
    license: str = ""
    """Under which licence its texts are; a document that knows its own keeps that."""
    priority: Int = 0
    """Of equal documents the one from the source with the lowest number stays; at equal numbers the earlier source."""
    text_column: str = "text"
    """Column or key of the text, in tables and records."""
    documents: Literal["auto", "file", "line"] = "auto"
    """One document a text file, or one a line; auto: one a file."""
    encoding: str = "utf-8"
    """Encoding of text files."""
    max_document_chars: Int = Field(4 << 20, gt=0)
    """No document is longer (War and Peace has 3.2 million): texts are cut at a line border, other records are lost as
    ``too_large``. The filters need some 50 bytes of memory for each character of the longest one."""
    skip: list[str] = Field(default_factory=list)
    """Repairs and filters that are not for this source: rules for prose say nothing about code."""
    checksums: dict[str, str] = Field(default_factory=dict)
    """Address -> ``sha256:...`` (or ``md5:``, ``sha1:``) of what is downloaded from it."""
    segments: Int | None = Field(None, gt=0)
    """Of a list of a crawl's files (``warc.paths.gz``, as a path or an address) only the first so many; unset: all."""
    segment_base: str = COMMON_CRAWL
    """What the lines of such a list are relative to."""
    options: dict[str, Any] = Field(default_factory=dict)
    """What only this kind of source knows."""

    ALIASES: ClassVar[Mapping[str, str]] = {"path": "paths", "files": "paths", "text_field": "text_column"}

    def kind_options(self) -> Settings:
        """The options as the kind's own settings.

        Raises:
            ConfigError: an option that the kind does not have.
        """
        if self.kind == "auto":
            return NoOptions(**self.options)
        return find_kind(self.kind).options(**self.options)

    def request(self, part: Part | None = None) -> ReadRequest:
        """How a file of it is read, or a part of the file."""
        return ReadRequest(
            options=self.kind_options(),
            part=part,
            text_column=self.text_column,
            documents=self.documents,
            encoding=self.encoding,
            max_document_chars=self.max_document_chars,
        )

    def contradictions(self) -> Iterable[str]:
        """A source of nothing."""
        if not self.paths:
            yield f"paths: the source {self.name} names nothing to read"
        if self.kind == "auto" and self.options:
            yield "options: say which kind they are for; with kind: auto there are none"


class DedupSettings(Settings):
    """Which duplicates are removed."""

    exact: bool = True
    """Documents with equal text, but for case, spaces and Unicode form."""
    near: MinHash | None = None
    """Documents that share most of their words, by MinHash."""
    substring: RepeatedText | None = None
    """Long passages that occur elsewhere."""
    against: list[str] = Field(default_factory=list)
    """Folders of corpora that were built before: what they hold is a duplicate here."""


class DecontaminationSettings(Decontamination):
    """Removal of what benchmarks ask, so that a score measures the model and not its memory."""

    benchmarks: list[str] = Field(min_length=1)
    """Files and folders of benchmark items."""


class SplitSettings(Settings):
    """Validation documents, set apart by cluster of duplicates: no near copy of one of them is trained on."""

    validation_fraction: float = Field(0.05, ge=0, lt=1)
    """Share of the documents."""


class WriteSettings(Settings):
    """How the finished documents are written."""

    format: Literal["jsonl.zst", "parquet"] = "jsonl.zst"
    """File format of ``documents/``."""
    shard_mb: float = Field(128.0, gt=0)
    """Megabytes of text in a file, about."""


class CacheSettings(Settings):
    """Packing of the finished documents into a token cache."""

    seq_len: Int = Field(512, gt=1)
    """Tokens per sequence."""
    compression: Literal["lz4", "zstd", "none"] = "lz4"
    """Codec of the cache."""
    packing: Literal["bfd", "concat"] = "bfd"
    """Whole documents fitted together, or end to end."""


class LimitSettings(Settings):
    """When a build is to fail instead of counting what it lost."""

    max_lost_fraction: float = Field(1.0, ge=0, le=1)
    """Share of all records that may be unreadable."""
    max_dropped_fraction: float = Field(1.0, ge=0, le=1)
    """Share of all documents that may be dropped, for any reason."""


class Pipeline(Settings):
    """A whole pipeline."""

    name: str = Field("corpus", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Name of the corpus."""
    output_dir: str | None = None
    """Folder of everything that is made. Unset: ``corpora/NAME``."""
    seed: Int = 0
    """Decides which documents are chosen where a choice is made."""
    unit_mb: float = Field(32.0, ge=0.001)
    """Megabytes of files (as they lie on the disk) that are worked on at a time; also what is done again after a
    crash."""
    tokenizer: str | None = None
    """Folder of a tokenizer: tokens are then counted with it instead of estimated (4 bytes each), and the cache is
    packed with it."""
    sources: list[SourceSettings]
    """Where the documents come from."""
    clean: dict[str, Any] = Field(default_factory=dict)
    """Repairs, in this order."""
    filters: dict[str, Any] = Field(default_factory=dict)
    """Rules, in this order."""
    redaction: Redaction | None = None
    """Personal data to replace."""
    dedup: DedupSettings | None = None
    """Duplicates to remove."""
    decontaminate: DecontaminationSettings | None = None
    """Benchmarks to keep apart."""
    split: SplitSettings = Field(default_factory=SplitSettings)
    """Validation."""
    mix: MixSettings | None = None
    """Composition of the result by tokens. Unset: everything, as it is."""
    write: WriteSettings = Field(default_factory=WriteSettings)
    """Files of the result."""
    cache: CacheSettings | None = None
    """Token cache of the result."""
    limits: LimitSettings = Field(default_factory=LimitSettings)
    """When to fail."""
    allow_private_addresses: bool = False
    """Whether sources may be downloaded from addresses inside one's own network."""

    SECTIONS: ClassVar[Mapping[str, type[Settings]]] = {
        "redaction": Redaction,
        "dedup": DedupSettings,
        "decontaminate": DecontaminationSettings,
        "split": SplitSettings,
        "mix": MixSettings,
        "write": WriteSettings,
        "cache": CacheSettings,
        "limits": LimitSettings,
    }

    def __init__(self, **values: Any) -> None:
        problems: list[str] = []
        for name, section in self.SECTIONS.items():
            if isinstance(values.get(name), dict):
                values[name] = _nested(section, name, values[name], problems)
        sources = values.get("sources")
        if isinstance(sources, list):
            values["sources"] = [
                _nested(SourceSettings, f"sources.{index}", entry, problems) if isinstance(entry, dict) else entry
                for index, entry in enumerate(sources)
            ]
        if problems:
            raise ConfigError(problems)
        super().__init__(**values)
        for source in self.sources:
            if source.kind == "web":  # it fetches by itself, while it reads
                pages = self.folder / "downloads" / f"{source.name}.pages"
                follows = {"allow_private": self.allow_private_addresses, "pages": str(pages)}
                source.options = {**follows, **source.options}

    @property
    def folder(self) -> Path:
        """Where everything is made."""
        return Path(self.output_dir) if self.output_dir else Path("corpora") / self.name

    def cleaners(self, skip: Collection[str] = ()) -> list[Cleaner]:
        """The repairs, in order, without those of these names."""
        return [
            build_section(CLEANERS, "clean", name, values) for name, values in self.clean.items() if name not in skip
        ]

    def rules(self, skip: Collection[str] = ()) -> list[Filter]:
        """The filters, in order, without those of these names."""
        return [
            build_section(FILTERS, "filters", name, values) for name, values in self.filters.items() if name not in skip
        ]

    def contradictions(self) -> Iterable[str]:
        """Settings that cannot work together, and sections that do not parse."""
        names = [source.name for source in self.sources]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"sources: two are called {name}; give each its own name"
        if not self.sources:
            yield "sources: expected at least one"
        for corpus in self.dedup.against if self.dedup else ():
            if Path(corpus).resolve() == self.folder.resolve():
                yield f"dedup.against: {corpus} is the folder that is built; all of it would be a duplicate of itself"
        for index, source in enumerate(self.sources):
            for name in source.skip:
                if name not in self.clean and name not in self.filters:
                    yield f"sources.{index}.skip: there is no repair or filter {name!r} in this pipeline"
            named = source.kind != "auto"
            unknown = list(_problems(f"sources.{index}.kind", partial(find_kind, source.kind))) if named else []
            yield from unknown or _problems(f"sources.{index}.options", source.kind_options)
        for known, section, entries in ((CLEANERS, "clean", self.clean), (FILTERS, "filters", self.filters)):
            for name, values in entries.items():
                yield from _problems("", partial(build_section, known, section, name, values))


def _nested(cls: type[Settings], prefix: str, values: dict[str, Any], problems: list[str]) -> Settings | None:
    """A section below another one; its problems get the prefix of their place."""
    try:
        if cls is DedupSettings:
            inner: dict[str, type[Settings]] = {"near": MinHash, "substring": RepeatedText}
            nested = {
                key: _nested(inner[key], f"{prefix}.{key}", value, problems)
                for key, value in values.items()
                if key in inner and isinstance(value, dict)
            }
            values = {**values, **nested}
        return cls(**values)
    except ConfigError as error:
        problems.extend(f"{prefix}.{problem}" for problem in error.problems)
        return None


def _problems(prefix: str, make: Callable[[], object]) -> Iterator[str]:
    try:
        make()
    except ConfigError as error:
        yield from (f"{prefix}.{problem}" if prefix else problem for problem in error.problems)
    except DataError as error:
        yield f"{prefix}: {error.message}" + (f" ({error.hint})" if error.hint else "")
