"""One object for crawls, Wikipedia and code, with the three methods by their documented names."""

from __future__ import annotations

import bz2
import gzip
import os
import subprocess
from pathlib import Path

import pytest

from llm_trainer.common.errors import ConfigError, DataError
from llm_trainer.corpus.ingestion import DataIngestion

from .conftest import Site
from .test_warc import answer, html, record
from .test_wikipedia import dump, page


def _segment(number: int) -> bytes:
    return gzip.compress(record(number, answer(html(number)))) + gzip.compress(record(99, b"x", kind="request"))


@pytest.mark.covers("R170")
def test_the_constructor_keeps_the_sources() -> None:
    config = {"output_dir": "somewhere", "wikipedia": {"namespaces": [0, 4]}}
    ingestion = DataIngestion(config)
    assert ingestion.sources is config
    assert DataIngestion(source_config={}).losses.total == 0

    with pytest.raises(ConfigError, match="did you mean 'output_dir'"):
        DataIngestion({"output_dirr": "x"})
    with pytest.raises(ConfigError, match="namespaces"):
        DataIngestion({"wikipedia": {"namespace": [0]}})
    with pytest.raises(DataError, match="is a mapping"):
        DataIngestion(["common_crawl"])  # type: ignore[arg-type]


@pytest.mark.covers("R170", "R171")
def test_segments_by_path_address_and_list(site: Site, tmp_path: Path) -> None:
    local = tmp_path / "a.warc.gz"
    local.write_bytes(_segment(1))
    other = tmp_path / "b.warc.gz"
    other.write_bytes(_segment(2))
    web = site.add("/cc/c.warc.gz", _segment(3))
    site.add("/cc/crawl-data/d.warc.gz", _segment(4))
    site.add("/cc/crawl-data/e.warc.wet.gz", gzip.compress(record(5, b"Text", kind="conversion", mime="text/plain")))
    paths = tmp_path / "warc.paths.gz"
    paths.write_bytes(gzip.compress(b"crawl-data/d.warc.gz\n"))
    config = {"output_dir": str(tmp_path / "raw"), "allow_private": True, "base_url": f"{site.address}/cc/"}
    ingestion = DataIngestion(config)
    segments = [local, other.as_uri(), web, paths, "crawl-data/e.warc.wet.gz"]

    documents = list(ingestion.download_common_crawl(segments))

    assert [document.metadata["url"][-1] for document in documents] == ["1", "2", "3", "4", "5"]
    assert len({document.id for document in documents}) == 5
    assert ingestion.losses.counts == {"record_request": 4}
    requests = len(site.log)
    assert list(DataIngestion(config).download_common_crawl(segments)) == documents
    assert len(site.log) == requests, "what was downloaded is not asked for again"


@pytest.mark.covers("R170", "R172")
def test_a_wikipedia_dump(site: Site, tmp_path: Path) -> None:
    path = dump(tmp_path, page(1, "Ein [[Bau|Gebäude]]. {{Box}}"), page(2, "#REDIRECT [[x]]"))
    ingestion = DataIngestion({"output_dir": str(tmp_path / "raw"), "allow_private": True})
    [document] = ingestion.process_wikipedia_dump(str(path))
    assert document.text == "Seite 1\n\nEin Gebäude."
    assert ingestion.losses.counts == {"redirect": 1}
    url = site.add("/wiki.xml.bz2", bz2.compress(bz2.decompress(path.read_bytes())))
    assert next(ingestion.process_wikipedia_dump(url)).text == document.text


def _git(folder: Path, *arguments: str) -> None:
    names = {f"GIT_{role}_{what}": "a@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, env={**os.environ, **names})


@pytest.mark.covers("R170", "R173")
def test_repositories_with_a_work_tree_and_bare(tmp_path: Path) -> None:
    work = tmp_path / "project"
    work.mkdir()
    _git(work, "init", "-q")
    (work / "LICENSE").write_text(
        "MIT License\n\nPermission is hereby granted, free of charge, to any person obtaining a copy of this software "
        'and associated documentation files (the "Software"), to deal in the Software without restriction, including '
        "without "
        "limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the "
        'Software.\n\nTHE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND.\n',
        encoding="utf-8",
    )
    (work / "main.py").write_text("def add(a, b):\n    return a + b\n", encoding="utf-8")
    _git(work, "add", ".")
    _git(work, "commit", "-q", "-m", "first")
    bare = tmp_path / "bare.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(bare)], check=True, capture_output=True)
    ingestion = DataIngestion({"output_dir": str(tmp_path / "raw")})

    documents = list(ingestion.scrape_github_repos([str(work), bare.as_uri()]))

    code = [document for document in documents if "def add" in document.text]
    assert [document.id for document in code] == ["project:main.py", "bare.git:main.py"]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    ingestion = DataIngestion({"output_dir": str(tmp_path), "allow_files": False})
    with pytest.raises(DataError, match="does not exist"):
        list(ingestion.download_common_crawl([tmp_path / "none.warc.gz"]))
    with pytest.raises(DataError, match="does not exist"):
        list(ingestion.scrape_github_repos(["nothing"]))
    with pytest.raises(DataError, match="private or reserved"):
        list(ingestion.process_wikipedia_dump("http://127.0.0.1/dump.xml"))
    with pytest.raises(DataError, match="private or reserved"):
        list(ingestion.scrape_github_repos("https://127.0.0.1/a/b"))
    with pytest.raises(DataError, match="not allowed"):
        list(ingestion.download_common_crawl("file:///etc/hostname"))


@pytest.mark.covers("R180")
def test_a_list_from_the_web_cannot_make_us_read_files_of_this_machine(site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "secret.warc.gz"
    secret.write_bytes(_segment(1))
    url = site.add("/warc.paths", secret.as_uri().encode())
    ingestion = DataIngestion({"output_dir": str(tmp_path / "raw"), "allow_private": True})
    with pytest.raises(DataError, match="not allowed"):
        list(ingestion.download_common_crawl(url))
    own = tmp_path / "warc.paths"
    own.write_text(secret.as_uri(), encoding="utf-8")
    assert len(list(ingestion.download_common_crawl(own))) == 1
