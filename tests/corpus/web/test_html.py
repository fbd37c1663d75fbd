"""Pages become their main content, in any encoding, and hostile ones cost neither minutes nor the process."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from llm_trainer.common.errors import UserError
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources import html
from llm_trainer.corpus.sources.html import KIND_HTML, HostilePageError, HtmlOptions, extract_html
from llm_trainer.corpus.sources.kinds import ReadRequest

ARTICLE = "<p>A paragraph of prose that a person wrote for other people to read, with enough words to count.</p>" * 5
PAGE = (
    "<html lang='en-GB'><head><title>The &amp; title</title><script>var x = 'hidden';</script></head><body>"
    f"<nav><ul><li><a href='/'>Home</a></li><li><a href='/a'>About us</a></li></ul></nav><main>{ARTICLE}</main>"
    "<footer>Copyright 2024</footer></body></html>"
)


def test_the_main_content_with_title_and_language() -> None:
    text, metadata = extract_html(PAGE)
    assert text.startswith("A paragraph of prose")
    assert "About us" not in text and "Copyright" not in text and "hidden" not in text
    assert metadata == {"title": "The & title", "language": "en-gb"}
    assert "About us" in extract_html(PAGE, main_content=False)[0]


@pytest.mark.parametrize(
    ("data", "charset"),
    [
        ("<p>Grüße aus Österreich</p>".encode(), None),
        ("<p>Grüße aus Österreich</p>".encode("latin-1"), "iso-8859-1"),
        ("<meta charset='iso-8859-1'><p>Grüße aus Österreich</p>".encode("latin-1"), None),
        ("\ufeff<p>Grüße aus Österreich</p>".encode(), "iso-8859-1"),
        ("<p>Grüße aus Österreich</p>".encode("utf-16"), "utf-16"),
        ("<p>Grüße aus Österreich</p>".encode("latin-1"), "utf-8"),
        ("<p>Grüße aus Österreich</p>".encode(), "no-such-charset"),
    ],
)
def test_encodings(data: bytes, charset: str | None) -> None:
    assert extract_html(data, charset=charset, main_content=False)[0] == "Grüße aus Österreich"


HOSTILE = {
    "deep": "<div>" * 100_000 + "text",
    "deep and closed": "<div>" * 100_000 + "text" + "</div>" * 100_000,
    "formatting": "<b><a><p>" * 30_000 + "text",
    "tables": "<table><tr><td>" * 30_000 + "text",
    "open scripts": "<script>var x=1;" * 100_000,
    "half tags": "<a" * 400_000,
    "spaces": "<pre>" + " " * 1_000_000 + "</pre>text",
    "nul": "\0" * 100_000 + "text",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pages_are_read_in_time(name: str) -> None:
    begun = time.process_time()
    text, _ = extract_html(HOSTILE[name])
    assert time.process_time() - begun < 3
    assert text in {"text", ""}


def test_a_tag_of_a_hundred_thousand_attributes_is_refused_and_a_large_picture_is_not() -> None:
    with pytest.raises(HostilePageError, match="attributes"):
        extract_html("<div " + " ".join(f"a{number}" for number in range(100_000)) + ">text</div>")
    for value in ("='>'", '=">"', "= '<b>'"):
        with pytest.raises(HostilePageError, match="attributes"):
            extract_html("<div " + " ".join(f"a{number}{value}" for number in range(20_000)) + ">text</div>")
    picture = "<img src='data:image/svg;" + "a b=/" * 100_000 + "'>"
    assert extract_html(f"{picture}<p>text</p>", main_content=False)[0] == "text"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no_text"),
        (b"<html><script>alert(1)</script><body></body></html>", "no_text"),
        (b"<p>" + b"x" * 2000, "too_large"),
        (b"<div " + b" ".join(b"a%d" % number for number in range(10_000)) + b">text</div>", "too_complex"),
    ],
)
def test_pages_without_text_are_counted(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "a.html"
    path.write_bytes(data)
    losses = Losses()
    limit = 1000 if reason == "too_large" else 1 << 20
    assert list(KIND_HTML.read(path, ReadRequest(options=HtmlOptions(max_page_bytes=limit)), losses)) == []
    assert losses.counts == {reason: 1}


def test_a_file_that_vanished_is_counted(tmp_path: Path) -> None:
    losses = Losses()
    assert list(KIND_HTML.read(tmp_path / "gone.html", ReadRequest(), losses)) == []
    assert losses.counts == {"unreadable": 1}


def test_a_real_book_page(shared_data: Path) -> None:
    path = shared_data / "gutenberg" / "pride_and_prejudice_1342.htm"
    [document] = KIND_HTML.read(path, ReadRequest(options=HtmlOptions(main_content=False)), Losses())
    assert "It is a truth universally acknowledged" in document.text
    assert "<p" not in document.text


def test_trafilatura_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "available", lambda _: False)
    with pytest.raises(UserError, match="trafilatura") as error:
        extract_html(PAGE, extractor="trafilatura")
    assert error.value.hint is not None and "pip install trafilatura" in error.value.hint
