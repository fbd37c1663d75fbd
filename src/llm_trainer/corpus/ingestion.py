"""Raw text from the three great public sources, by one object: crawls, Wikipedia, and code.

The pipeline (``llm-trainer data build``) reads the same sources from a file of settings, in parallel and resumably;
this is the way to them from Python, one document after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_trainer.common.errors import DataError
from llm_trainer.common.hashing import fingerprint
from llm_trainer.config.base import Int, Settings
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources.addresses import check_address
from llm_trainer.corpus.sources.download import COMMON_CRAWL, download, segment_urls
from llm_trainer.corpus.sources.kinds import Kind, ReadRequest, find_kind

_LISTS = (".paths", ".paths.gz")


class IngestionSettings(Settings):
    """The keys of ``source_config``."""

    output_dir: str = "data/raw"
    """Folder for what is downloaded."""

    base_url: str = COMMON_CRAWL
    """What relative segments (``crawl-data/CC-MAIN-...``) are relative to."""

    checksums: dict[str, str] = {}
    """Address -> ``sha256:HEX``; a download with another one is refused."""

    allow_private: bool = False
    """Whether addresses of private networks are asked."""

    allow_files: bool = True
    """Whether ``file://`` addresses are read."""

    common_crawl: dict[str, Any] = {}
    """Options of the kind ``warc``, for example ``{"extractor": "trafilatura"}``."""

    wikipedia: dict[str, Any] = {}
    """Options of the kind ``wikipedia``, for example ``{"namespaces": [0, 4]}``."""

    github: dict[str, Any] = {}
    """Options of the kind ``git``, for example ``{"licences": ["MIT"]}``."""

    max_document_chars: Int = 16 << 20
    """Longer documents are lost."""


class DataIngestion:
    """Reads crawls, dumps and repositories.

    Its methods are lazy: they give documents one by one, and download, or complain about what is not there, when the
    first document of a file is asked for.

    Args:
        source_config: a mapping with the keys of :class:`IngestionSettings`; none is needed.

    Attributes:
        sources: the mapping as it was given.
        settings: its values, checked, with the defaults.
        losses: what could not become a document so far, and why; grows while the documents are read.

    Raises:
        ConfigError: a key is unknown or a value is wrong; all problems are named.

    Example:
        >>> ingestion = DataIngestion({"output_dir": "data/raw"})
        >>> for document in ingestion.process_wikipedia_dump("enwiki-pages-articles.xml.bz2"):
        ...     print(document.metadata["title"])
    """

    def __init__(self, source_config: Mapping[str, Any] | None = None) -> None:
        self.sources = source_config if source_config is not None else {}
        if not isinstance(self.sources, Mapping):
            raise DataError(
                f"source_config is a mapping, not {type(source_config).__name__}",
                hint=f"its keys are {', '.join(IngestionSettings.model_fields)}; all may be left out",
            )
        self.settings = IngestionSettings.from_dict(self.sources)
        self.losses = Losses()
        self._kinds = {
            name: (kind, kind.options.from_dict(values))
            for name, values in (
                ("warc", self.settings.common_crawl),
                ("wet", self.settings.common_crawl),
                ("wikipedia", self.settings.wikipedia),
                ("git", self.settings.github),
            )
            for kind in [find_kind(name)]
        }

    def download_common_crawl(self, segments: str | Path | Sequence[str | Path]) -> Iterator[Document]:
        """The pages of crawl archives, downloaded (resumably) where they are not on this machine.

        Args:
            segments: WARC or WET files, and lists of them (``warc.paths.gz``): paths, ``file://`` or ``https://``
                addresses, or Common Crawl's own relative names (``crawl-data/CC-MAIN-2024-22/segments/...``).

        Raises:
            DataError: a segment is not there, or its server does not answer.
        """
        for segment in _as_list(segments):
            for address in self._listed(segment):
                path = self._local(address, relative=True)
                yield from self._read("wet" if ".wet" in path.name.lower() else "warc", path)

    def process_wikipedia_dump(self, dump_path: str | Path) -> Iterator[Document]:
        """The articles of a Wikipedia dump as plain text.

        Args:
            dump_path: ``pages-articles.xml`` or ``.xml.bz2`` (multistream or not): a path or an address.
        """
        yield from self._read("wikipedia", self._local(str(dump_path)))

    def scrape_github_repos(self, repo_list: str | Path | Sequence[str | Path]) -> Iterator[Document]:
        """The source files of repositories whose licence allows it.

        Args:
            repo_list: folders (with a work tree or bare), ``https://`` addresses, or ``owner/name`` of GitHub.

        Raises:
            DataError: a repository is not there, or cannot be copied.
        """
        for entry in _as_list(repo_list):
            yield from self._read("git", self._repository(str(entry)))

    def _read(self, name: str, path: Path) -> Iterator[Document]:
        kind: Kind = self._kinds[name][0]
        request = ReadRequest(options=self._kinds[name][1], max_document_chars=self.settings.max_document_chars)
        for document in kind.read(path, request, self.losses):
            identifier = f"{path.name}:{document.id}" if document.id else path.name
            yield Document(document.text, identifier, str(path), document.metadata)

    def _listed(self, segment: str) -> list[str]:
        if not segment.lower().endswith(_LISTS):
            return [segment]
        # A list from the web must not name files of this machine.
        own = self.settings.allow_files and (segment.startswith("file:") or Path(segment).exists())
        return segment_urls(self._local(segment, relative=True), base=self.settings.base_url, allow_files=own)

    def _local(self, address: str, *, relative: bool = False) -> Path:
        """The file of an address or path, downloaded if need be."""
        settings = self.settings
        if "://" not in address and not address.startswith("file:"):
            path = Path(address)
            if path.exists():
                return path
            if not relative or not address.startswith(("crawl-data/", "cc-index/")):
                raise DataError(f"{address} does not exist")
            address = f"{settings.base_url.rstrip('/')}/{address}"
        folder = Path(settings.output_dir) / fingerprint(address)[:8]
        return download(
            address,
            folder,
            checksum=settings.checksums.get(address),
            allow_private=settings.allow_private,
            allow_files=settings.allow_files,
        )

    def _repository(self, entry: str) -> Path:
        from llm_trainer.corpus.sources.git_commands import clone

        if entry.startswith("file://"):
            if not self.settings.allow_files:
                raise DataError(f"{entry} is not read: allow_files is off")
            entry = entry.removeprefix("file://")
        if Path(entry).is_dir():
            return Path(entry)
        if "://" not in entry:
            parts = entry.split("/")
            if len(parts) != 2 or not all(parts) or entry.startswith((".", "-", "~")):
                raise DataError(
                    f"the repository {entry} does not exist", hint="give a folder, an address or owner/name"
                )
            entry = f"https://github.com/{entry}"
        private = self.settings.allow_private
        return clone(
            entry,
            Path(self.settings.output_dir) / "repositories",
            check_address=lambda url: check_address(url, allow_private=private),
        )


def _as_list(values: str | Path | Sequence[str | Path]) -> list[str]:
    return [str(values)] if isinstance(values, str | Path) else [str(value) for value in values]
