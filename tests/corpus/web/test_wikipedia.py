"""Dumps: articles in, everything else counted, damage survived, and the same documents however a dump is cut."""

from __future__ import annotations

import bz2
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources import wikipedia
from llm_trainer.corpus.sources.kinds import ReadRequest, kind_of_file
from llm_trainer.corpus.sources.wikipedia import KIND_WIKIPEDIA, WikipediaOptions

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="de">
<siteinfo><base>https://de.wikipedia.org/wiki/Wikipedia:Hauptseite</base><namespaces>
<namespace key="6" case="first-letter">Lichtbild</namespace></namespaces></siteinfo>
"""
END = "</mediawiki>\n"


def page(number: int, text: str, *, space: int = 0, extra: str = "") -> str:
    return (
        f"  <page>\n<title>Seite {number}</title><ns>{space}</ns><id>{number}</id>{extra}\n"
        f"<revision><id>{number + 1000}</id><timestamp>2024-01-01T00:00:00Z</timestamp><model>wikitext</model>"
        f'<text xml:space="preserve">{text}</text></revision>\n</page>\n'
    )


def read(path: Path, losses: Losses | None = None, **options: object) -> list[Document]:
    request = ReadRequest(options=WikipediaOptions(**options))  # type: ignore[arg-type]
    return list(KIND_WIKIPEDIA.read(path, request, losses if losses is not None else Losses()))


def dump(folder: Path, *pages: str) -> Path:
    path = folder / "dewiki-pages-articles.xml.bz2"
    path.write_bytes(bz2.compress((HEAD + "".join(pages) + END).encode()))
    return path


@pytest.mark.covers("R172")
def test_articles_become_documents_and_all_other_pages_are_counted(tmp_path: Path) -> None:
    path = dump(
        tmp_path,
        page(1, "'''Haus''' ist ein [[Bau|Gebäude]].[[Lichtbild:A.jpg|mini|x]] {{Box}}"),
        page(2, "#WEITERLEITUNG [[Haus]]", extra='<redirect title="Haus" />'),
        page(3, "Diskussion", space=1),
        page(4, "* [[A]]\n{{Begriffsklärung}}"),
        page(5, "{{Box}}"),
        page(6, "&lt;ref&gt;"),
    )
    losses = Losses()

    documents = read(path, losses)

    assert [document.text for document in documents] == ["Seite 1\n\nHaus ist ein Gebäude."]
    assert documents[0].id == "1"
    assert documents[0].metadata["url"] == "https://de.wikipedia.org/wiki/Seite_1"
    assert documents[0].metadata["language"] == "de"
    assert losses.counts == {"redirect": 1, "namespace": 1, "disambiguation": 1, "empty": 2}
    assert read(path, title=False)[0].text == "Haus ist ein Gebäude."
    assert len(read(path, namespaces=[0, 1], disambiguation=True)) == 3
    assert kind_of_file(path).name == "wikipedia"


@pytest.mark.covers("R172")
def test_real_dumps_give_clean_text(shared_data: Path) -> None:
    folder = shared_data / "wikipedia_dump"
    losses = Losses()
    documents = read(next(folder.glob("enwiki-latest*.bz2")), losses)

    assert len(documents) == 98
    assert losses.counts == {"redirect": 99, "disambiguation": 8, "namespace": 1}
    assert len({document.id for document in documents}) == 98
    anarchism = documents[0].text
    assert anarchism.startswith(
        "Anarchism\n\nAnarchism is a political philosophy that advocates self-governed societies"
    )
    for mark in ("[[", "]]", "|}", "{|", "'''", "<ref", "(;", "(,", "\x04"):
        rest = [document.metadata["title"] for document in documents if mark in document.text.replace("$", "")]
        # [H^+]] stands in a formula of one article, and (,) is what another writes about.
        assert len(rest) <= 1, f"{mark!r} is left in {rest}"
    assert sum("{{" in document.text for document in documents) == 2, "two articles have formulas with {{"
    assert read(next(folder.glob("bgwiki*")))[0].metadata["language"] == "bg", "a dump in UTF-16"
    tables = "".join(document.text for document in read(folder / "enwiki-table-markup.xml.bz2"))
    assert "wikitable" not in tables and "\n|" not in tables


@pytest.mark.covers("R172")
def test_one_damaged_page_costs_one_page(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    body = page(1, "eins") + page(2, "zwei & drei") + page(3, "drei") + page(4, "vier").replace("</page>", "")
    path.write_bytes(
        (HEAD + body + page(5, "fünf")).encode() + page(6, "sechs").encode().replace(b"sechs", b"\xff\xfe")
    )
    losses = Losses()

    assert [document.id for document in read(path, losses)] == ["1", "3", "5"]
    assert losses.counts == {"invalid_xml": 3}
    assert losses.examples["invalid_xml"][0] == "x.xml:0: Seite 2"


def test_a_dump_that_ends_early_keeps_what_it_has(tmp_path: Path) -> None:
    pages = [page(number, f"Text {number} " * 2000) for number in range(40)]
    path = tmp_path / "x.xml.bz2"
    data = bz2.compress((HEAD + "".join(pages) + END).encode(), compresslevel=1)  # blocks of 100 KB
    path.write_bytes(data[: len(data) // 2])
    losses = Losses()

    documents = read(path, losses)

    assert len(documents) > 10
    assert [document.id for document in documents] == [str(number) for number in range(len(documents))]
    assert losses.counts["truncated"] >= 1


def test_a_damaged_stream_costs_its_own_pages_only(tmp_path: Path) -> None:
    streams = [bz2.compress(page(number, f"Text {number}").encode()) for number in range(5)]
    streams[2] = streams[2][:60] + b"\0" * 20 + streams[2][80:]
    path = tmp_path / "m.xml.bz2"
    path.write_bytes(bz2.compress(HEAD.encode()) + b"".join(streams) + bz2.compress(END.encode()))
    losses = Losses()

    assert [document.id for document in read(path, losses)] == ["0", "1", "3", "4"]
    assert losses.counts == {"damaged": 1}


def test_entities_are_never_defined(tmp_path: Path) -> None:
    laughs = '<!DOCTYPE m [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>\n'
    path = tmp_path / "x.xml"
    path.write_text(laughs + HEAD + page(1, "&c;") + page(2, "gut"), encoding="utf-8")
    losses = Losses()

    assert [document.id for document in read(path, losses)] == ["2"]
    assert losses.counts == {"invalid_xml": 1}


def test_a_bomb_of_zeros_costs_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wikipedia, "_MAX_PAGE_BYTES", 4 << 20)
    path = tmp_path / "bomb.xml.bz2"
    path.write_bytes(bz2.compress(b"<page>" + b"\0" * 40_000_000) + bz2.compress(page(1, "danach").encode()))
    losses = Losses()
    tracemalloc.start()
    documents = read(path, losses)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert [document.id for document in documents] == ["1"]
    assert losses.counts == {"too_large": 1}
    assert peak < 12e6


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(0, 3000), max_size=8),
    part_bytes=st.integers(1, 1500),
)
@pytest.mark.covers("R172")
def test_parts_together_are_the_whole_wherever_streams_end(tmp_path: Path, cuts: list[int], part_bytes: int) -> None:
    whole = (
        HEAD
        + "".join(page(number, f"Text {number} <page>".replace("<page>", "&lt;page&gt;")) for number in range(9))
        + END
    ).encode()
    borders = [0, *sorted({cut for cut in cuts if 0 < cut < len(whole)}), len(whole)]
    path = tmp_path / "multi.xml.bz2"
    path.write_bytes(b"".join(bz2.compress(whole[a:b]) for a, b in pairwise(borders)))
    assert KIND_WIKIPEDIA.cut is not None
    parts = KIND_WIKIPEDIA.cut(path, part_bytes)
    losses, expected_losses = Losses(), Losses()

    together = [
        document
        for part in parts
        for document in KIND_WIKIPEDIA.read(path, ReadRequest(options=WikipediaOptions(), part=part), losses)
    ]

    assert together == read(path, expected_losses)
    assert len(together) == 9
    assert losses == expected_losses == Losses()
    assert [parts[0].start, parts[-1].stop] == [0, path.stat().st_size]


@pytest.mark.covers("R172")
def test_a_page_whose_end_is_lost_at_the_border_of_parts_doubles_no_other(tmp_path: Path) -> None:
    pages = [page(number, f"Text {number}") for number in range(6)]
    pages[1], pages[2] = pages[1].replace("</page>", ""), pages[2].replace("</page>", "")
    path = tmp_path / "m.xml.bz2"
    path.write_bytes(b"".join(bz2.compress(one.encode()) for one in [HEAD, *pages, END]))
    assert KIND_WIKIPEDIA.cut is not None
    whole, together = Losses(), Losses()

    documents = read(path, whole)
    parts = [
        document
        for part in KIND_WIKIPEDIA.cut(path, 1)
        for document in KIND_WIKIPEDIA.read(path, ReadRequest(options=WikipediaOptions(), part=part), together)
    ]

    assert [document.id for document in documents] == ["0", "3", "4", "5"]
    assert parts == documents
    assert together.counts == whole.counts == {"invalid_xml": 2}


@pytest.mark.parametrize("space", ["²", "--5", "9" * 5000])
def test_an_odd_namespace_costs_one_page(tmp_path: Path, space: str) -> None:
    losses = Losses()
    odd = page(1, "eins").replace("<ns>0", f"<ns>{space}")
    documents = read(dump(tmp_path, odd, page(2, "zwei")), losses)
    assert [document.id for document in documents] == ["2"]
    assert losses.counts == {"invalid_xml": 1}


def test_an_odd_name_of_a_namespace_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    path.write_text(HEAD.replace('key="6"', f'key="{"9" * 5000}"') + page(1, "eins") + END, encoding="utf-8")
    assert len(read(path)) == 1


def test_a_doubtful_link_makes_no_list_of_an_article(tmp_path: Path) -> None:
    path = dump(
        tmp_path, page(1, "[[Mercury]]{{Disambiguation needed|date=May 2020}} is near."), page(2, "{{Disambig}}")
    )
    losses = Losses()
    assert [document.text for document in read(path, losses)] == ["Seite 1\n\nMercury is near."]
    assert losses.counts == {"disambiguation": 1}


def test_a_file_that_is_no_dump_is_said(tmp_path: Path) -> None:
    for name, data, expected in (
        ("a.xml", b"INSERT INTO page VALUES" * 99, {"not_a_dump": 1}),
        ("b.xml.bz2", bz2.compress(b"<html></html>"), {"not_a_dump": 1}),
        ("c.xml", (HEAD + END).encode(), {}),
        ("d.xml.bz2", b"nonsense", {"damaged": 1}),
    ):
        losses = Losses()
        path = tmp_path / name
        path.write_bytes(data)
        assert read(path, losses) == []
        assert losses.counts == expected


def test_a_multistream_dump_is_cut_into_parts_of_the_wanted_size(tmp_path: Path) -> None:
    streams = [bz2.compress(page(number, f"Text {number} " * 50).encode()) for number in range(50)]
    path = tmp_path / "multi.xml.bz2"
    path.write_bytes(bz2.compress(HEAD.encode()) + b"".join(streams))
    assert KIND_WIKIPEDIA.cut is not None
    size = path.stat().st_size
    assert 3 <= len(KIND_WIKIPEDIA.cut(path, size // 4)) <= 4
    assert len(KIND_WIKIPEDIA.cut(path, size)) == 1
    plain = tmp_path / "plain.xml"
    plain.write_text(HEAD + page(1, "x" * 1000) + END, encoding="utf-8")
    assert len(KIND_WIKIPEDIA.cut(plain, 100)) == 1
