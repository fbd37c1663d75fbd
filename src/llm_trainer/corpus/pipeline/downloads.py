"""Sources that are addresses: downloaded once, resumed where an earlier build was interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llm_trainer.common.hashing import fingerprint
from llm_trainer.corpus.pipeline.definition import Pipeline, SourceSettings
from llm_trainer.corpus.sources.addresses import check_address
from llm_trainer.corpus.sources.download import download, segment_urls
from llm_trainer.corpus.sources.git_commands import clone

Notice = Callable[[str], None]
SEGMENT_LISTS = (".paths", ".paths.gz")


def download_sources(pipeline: Pipeline, notice: Notice) -> None:
    """Fetch what sources name by an address and is not there yet.

    Raises:
        UserError: an address does not answer, gives something else than its checksum says, or is a private one.
    """
    for source in pipeline.sources:
        for text in source.paths:
            for address in addresses(text, source, pipeline, notice):
                fetch(address, source, pipeline, notice)


def addresses(text: str, source: SourceSettings, pipeline: Pipeline, notice: Notice) -> list[str]:
    """The addresses that a path of a source stands for: none, itself, or those of a crawl's list of segments."""
    remote = "://" in text
    if source.kind not in ("warc", "wet") or not text.endswith(SEGMENT_LISTS):
        return [text] if remote else []
    listed = fetch(text, source, pipeline, notice) if remote else Path(text).expanduser()
    return segment_urls(listed, base=source.segment_base)[: source.segments]


def fetch(address: str, source: SourceSettings, pipeline: Pipeline, notice: Notice) -> Path:
    """Where the file (for the kind ``git``: the copy of the repository) of an address lies; fetched if need be."""
    downloads = pipeline.folder / "downloads"
    private = pipeline.allow_private_addresses
    if source.kind == "git":
        return clone(address, downloads, check_address=lambda url: check_address(url, allow_private=private))
    name = Path(address.partition("?")[0].rstrip("/")).name or "index.html"
    target = downloads / fingerprint(address)[:8] / name
    if not target.exists():
        notice(f"{source.name}: downloading {address}")
    # Also what is there already: its checksum may have been added or corrected since.
    return download(address, target.parent, name=name, checksum=source.checksums.get(address), allow_private=private)
