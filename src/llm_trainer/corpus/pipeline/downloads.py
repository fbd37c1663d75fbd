"""Sources that are addresses: downloaded once, resumed where an earlier build was interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llm_trainer.common.hashing import fingerprint
from llm_trainer.corpus.pipeline.definition import Pipeline, SourceSettings
from llm_trainer.corpus.sources.addresses import check_address
from llm_trainer.corpus.sources.download import download
from llm_trainer.corpus.sources.git_commands import clone

Notice = Callable[[str], None]


def download_sources(pipeline: Pipeline, notice: Notice) -> None:
    """Fetch what sources name by an address and is not there yet.

    Raises:
        UserError: an address does not answer, gives something else than its checksum says, or is a private one.
    """
    for source in pipeline.sources:
        for address in source.paths:
            if "://" in address:
                fetch(address, source, pipeline, notice)


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
        target = download(address, target.parent, checksum=source.checksums.get(address), allow_private=private)
    return target
