"""Sources that are addresses: fetched once, checked, read like files."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Any

import pytest

from llm_trainer.common.errors import UserError
from llm_trainer.corpus.pipeline.build import Build
from llm_trainer.corpus.pipeline.definition import Pipeline
from llm_trainer.corpus.pipeline.engines import SerialEngine
from tests.corpus.pipeline.texts import prose, read_corpus
from tests.corpus.web.conftest import Site, site  # noqa: F401

pytest.importorskip("orjson")


def build(folder: Path, source: dict[str, Any], **settings: Any) -> dict[str, Any]:
    values = {"allow_private_addresses": True, "split": {"validation_fraction": 0.0}, **settings}
    return Build(Pipeline(output_dir=str(folder), sources=[source], **values), SerialEngine()).run()


def wet(*texts: str) -> bytes:
    """A crawl's extract with these pages."""
    records = []
    for number, text in enumerate(texts):
        body = text.encode()
        head = (
            f"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: https://site.org/{number}\r\n"
            f"WARC-Record-ID: <urn:uuid:0000000{number}-0000-0000-0000-000000000000>\r\n"
            f"WARC-Date: 2024-01-01T00:00:00Z\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        records.append(gzip.compress(head.encode() + body + b"\r\n\r\n", mtime=0))
    return b"".join(records)


@pytest.mark.covers("R171", "R185")
def test_the_first_files_of_a_list_of_segments(tmp_path: Path, site: Site) -> None:  # noqa: F811
    names = [f"/crawl/{number}.warc.wet.gz" for number in range(3)]
    for number, name in enumerate(names):
        site.add(name, wet(prose(number), prose(10 + number)))
    listed = site.add("/wet.paths.gz", gzip.compress("\n".join(name[1:] for name in names).encode()))
    source = {"name": "crawl", "kind": "wet", "paths": [listed], "segments": 2, "segment_base": f"{site.address}/"}
    summary = build(tmp_path / "corpus", source)
    assert summary["documents"]["kept"] == 4
    assert [str(record["text"]).strip() for record in read_corpus(tmp_path / "corpus")][::2] == [prose(0), prose(1)]
    asked = len(site.log)
    build(tmp_path / "corpus", source)
    assert len(site.log) == asked, "what is there is not asked for again"
    assert not any(path == names[2] for path, _ in site.log)


def test_a_checksum_that_is_added_later_is_looked_at(tmp_path: Path, site: Site) -> None:  # noqa: F811
    address = site.add("/notes.txt", prose(1))
    source: dict[str, Any] = {"name": "notes", "paths": [address]}
    build(tmp_path / "corpus", source)
    right = hashlib.sha256(prose(1).encode()).hexdigest()
    build(tmp_path / "corpus", {**source, "checksums": {address: f"sha256:{right}"}})
    with pytest.raises(UserError, match="sha256"):
        build(tmp_path / "corpus", {**source, "checksums": {address: f"sha256:{right[::-1]}"}})


def test_private_addresses_are_refused_unless_allowed(tmp_path: Path, site: Site) -> None:  # noqa: F811
    address = site.add("/notes.txt", prose(1))
    with pytest.raises(UserError, match=r"private|loopback|public"):
        build(tmp_path / "corpus", {"name": "notes", "paths": [address]}, allow_private_addresses=False)
    assert site.log == []


def test_pages_of_the_web_are_kept_with_the_corpus(tmp_path: Path, site: Site) -> None:  # noqa: F811
    page = site.add("/page.html", f"<html><body><article><p>{prose(3)}</p></article></body></html>")
    (tmp_path / "pages.urls").write_text(f"{page}\n", encoding="utf-8")
    source = {"name": "web", "kind": "web", "paths": [str(tmp_path / "pages.urls")]}
    source = {**source, "options": {"seconds_between_requests": 0.0}}
    assert build(tmp_path / "corpus", source)["documents"]["kept"] == 1
    assert (tmp_path / "corpus" / "downloads" / "web.pages").is_dir()
    asked = len(site.log)
    build(tmp_path / "corpus", source, filters={"length": {}})
    assert len(site.log) == asked
