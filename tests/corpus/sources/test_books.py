"""Books as text, HTML, EPUB and PDF."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path

import pytest

from llm_trainer.corpus.sources.books import clean_book, strip_gutenberg
from llm_trainer.corpus.sources.books_html import html_text
from llm_trainer.corpus.sources.books_ocr import clean_pages, join_hyphens
from tests.corpus.sources.reading import read, texts

STORY = "It was a dark night, and the lines of this story are\nlong enough to be joined, I hope.\n\nThe end."
HEADERS = [
    "The Project Gutenberg EBook of A Story, by A. Author\n\nTitle: A Story\n\n"
    "*** START OF THIS PROJECT GUTENBERG EBOOK A STORY ***\n\nProduced by A Volunteer and friends\n\n",
    "The Project Gutenberg eBook of A Story\n\n*** START OF THE PROJECT GUTENBERG EBOOK A STORY ***\n\n",
    "***START OF THE PROJECT GUTENBERG EBOOK A STORY***\n\nE-text prepared by A Volunteer\n\n",
    "**Welcome To The World of Free Plain Vanilla Electronic Texts**\nProject Gutenberg\n\n"
    "*END*THE SMALL PRINT! FOR PUBLIC "
    "DOMAIN ETEXTS*Ver.04.29.93*END*\n\n",
    "*** START OF THIS PROJECT GUTENBERG EBOOK A VERY LONG\nTITLE OVER TWO LINES ***\n\n",
]
FOOTERS = [
    "\n\nEnd of the Project Gutenberg EBook of A Story, by A. Author\n\n"
    "*** END OF THIS PROJECT GUTENBERG EBOOK A STORY ***\n"
    "\nLicence text.\n",
    "\n\n*** END OF THE PROJECT GUTENBERG EBOOK A STORY ***\nLicence text.\n",
    "\n\nEnd of Project Gutenberg's A Story\nLicence text.\n",
    "\n\nEnd of this Project Gutenberg Etext of A Story\n",
    "\n\n***END OF THE PROJECT GUTENBERG EBOOK A STORY***\n",
]


@pytest.mark.covers("R174")
@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("footer", FOOTERS)
def test_header_and_licence_of_gutenberg_go(header: str, footer: str) -> None:
    assert strip_gutenberg(header + STORY + footer).strip() == STORY


def test_a_book_without_marks_stays(tmp_path: Path) -> None:
    assert strip_gutenberg(STORY) == STORY
    middle = "He printed it.\n\n" + "x\n" * 30_000 + "The End of Project X.\n" + "y\n" * 30_000
    assert strip_gutenberg(middle) == middle
    path = tmp_path / "a.txt"
    path.write_text(HEADERS[0] + FOOTERS[0], encoding="utf-8")
    assert read("book", path)[1].counts == {"empty": 1}


@pytest.mark.covers("R174")
@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("alice_11.txt", "ALICE’S ADVENTURES IN WONDERLAND", "THE END"),
        ("pride_and_prejudice_1342.txt", "PRIDE AND PREJUDICE", "uniting them."),
        ("pride_and_prejudice_1342.htm", "# PRIDE AND PREJUDICE", "uniting them."),
        ("tale_of_two_cities_98.txt", "A TALE OF TWO CITIES", "have ever known.”"),
        ("war_and_peace_2600.txt", "WAR AND PEACE", "we are not conscious."),
    ],
)
def test_real_books(shared_data: Path, name: str, first: str, last: str) -> None:
    documents, losses = read("book", shared_data / "gutenberg" / name)
    text = documents[0].text
    assert losses.counts == {}
    assert text.startswith(first) and text.endswith(last)
    assert "Gutenberg" not in text
    assert documents[0].metadata["language"] == "English"


@pytest.mark.covers("R174")
def test_scanned_pages_become_running_text() -> None:
    pages = [
        f"THE HISTORY OF ROME {number}\n\nIn year {word} the army of the republic marched on through the win-\n"
        f"ter of {word}, and its well-known general, whose ﬁrst cam-\npaign this was, {word} the river"
        for number, word in enumerate(["saw", "crossed", "left", "forgot"], start=11)
    ]
    pages[1] += ".\n\n12\n"
    text = clean_pages(pages)
    assert "HISTORY OF ROME" not in text and "12" not in text
    assert text.count(", and its well-known general, whose first campaign this was,") == 4
    assert "saw the river In year crossed the army" in text  # a paragraph that goes on over the page
    assert "crossed the river.\n\nIn year left the army" in text


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        ("an exam-\nple of it", "an example\n of it"),
        ("a well-\nknown and well-known man", "a well-known\n and well-known man"),
        ("Anglo-\nSaxon kings", "Anglo-Saxon\n kings"),
        ("soft\u00ad\nware and co\u00adde", "software\n and code"),
        ("a dash -\nhere", "a dash -\nhere"),
    ],
)
def test_hyphens_at_line_ends(text: str, joined: str) -> None:
    assert " ".join(join_hyphens(text).split()) == " ".join(joined.split())


def test_verse_stays_as_it_is_set() -> None:
    poem = "Tyger Tyger, burning bright,\nIn the forests of the night;\nWhat immortal hand or eye,"
    assert clean_book(poem) == poem


def test_old_character_sets(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("Café “quoted” text.".encode("cp1252"))
    assert texts("book", path) == ["Café “quoted” text."]
    path.write_bytes(b"\0\0\0\0")
    assert read("book", path)[1].counts == {"binary": 1}


def test_html_of_books_and_posts() -> None:
    page = (
        "<html><head><title>no</title><style>no</style></head><body><h2>Head <i>line</i></h2>"
        "<p>One\n two<br>three &amp; "
        "<code>f(x)</code></p><ul><li>a<li>b</ul><ol><li><p>first</p></li></ol>"
        "<pre>  x = 1\n\n\n  y</pre><script>no()</script>"
        "<p>last<p></body>"
    )
    assert html_text(page) == (
        "## Head line\n\nOne two\nthree & `f(x)`\n\n- a\n- b\n\n1. first\n\n```\n  x = 1\n\n\n  y\n```\n\nlast"
    )
    assert html_text("<pre>verse</pre>", fences=False) == "verse"
    assert html_text("<div>" * 50_000 + "deep") == "deep"
    assert html_text("<head><title>x<body>shown") == "shown"
    assert html_text("") == ""


def test_broken_pages_and_books_end_soon() -> None:
    started = time.process_time()
    for piece in ("<!--", "<a b='", "<![", "</", "&#", "<p", "<?", "<pre>", "<ol><li>", "<script>", "<![CDATA["):
        html_text(piece * 20_000)
    for piece in (" ", "\n", "-\n", "\f", "\n \n", "***start of project gutenberg "):
        clean_book(piece * 60_000)
    assert time.process_time() - started < 20


CONTAINER = '<container xmlns="urn:x"><rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
PACKAGE = """<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">
<metadata><dc:title>Two Chapters</dc:title><dc:creator>A. Author</dc:creator><dc:language>en</dc:language></metadata>
<manifest><item id="nav" href="nav.xhtml" properties="nav"/><item id="b" href="b%20b.xhtml"/>
<item id="a" href="text/a.xhtml"/>
<item id="gone" href="gone.xhtml"/></manifest>
<spine><itemref idref="nav"/><itemref idref="a"/><itemref idref="b"/>{more}</spine></package>"""


def epub(path: Path, *, more: str = "", **extra: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr("META-INF/container.xml", CONTAINER)
        archive.writestr("OEBPS/book.opf", PACKAGE.format(more=more))
        archive.writestr("OEBPS/nav.xhtml", "<html><body><p>Contents</p></body></html>")
        archive.writestr("OEBPS/b b.xhtml", "<html><body><h1>Two</h1><p>The second.</p></body></html>")
        archive.writestr("OEBPS/text/a.xhtml", "<html><body><h1>One</h1><p>The first.</p></body></html>")
        for name, content in extra.items():
            archive.writestr(name.replace("__", "/").replace("_xml", ".xml"), content)
    return path


@pytest.mark.covers("R174")
def test_an_epub_in_reading_order(tmp_path: Path) -> None:
    documents, losses = read("epub", epub(tmp_path / "a.epub"))
    assert [document.text for document in documents] == ["# One\n\nThe first.\n\n# Two\n\nThe second."]
    assert documents[0].metadata == {"title": "Two Chapters", "author": "A. Author", "language": "en"}
    assert losses.counts == {}


def test_damaged_and_protected_epubs(tmp_path: Path) -> None:
    missing = epub(tmp_path / "m.epub", more='<itemref idref="gone"/>')
    documents, losses = read("epub", missing)
    assert len(documents) == 1 and losses.counts == {"missing_page": 1}
    method = '<encryption xmlns="x"><EncryptedData><EncryptionMethod Algorithm="{}"/></EncryptedData></encryption>'
    locked = epub(
        tmp_path / "d.epub",
        **{"META-INF__encryption_xml": method.format("http://www.w3.org/2001/04/xmlenc#aes128-cbc")},
    )
    assert read("epub", locked)[1].counts == {"encrypted": 1}
    fonts = epub(
        tmp_path / "f.epub", **{"META-INF__encryption_xml": method.format("http://www.idpf.org/2008/embedding")}
    )
    assert len(read("epub", fonts)[0]) == 1
    path = tmp_path / "a.epub"
    path.write_bytes(missing.read_bytes()[:300])
    assert read("epub", path)[1].total >= 1
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("META-INF/container.xml", '<!DOCTYPE x [<!ENTITY a "aaaa">]><x>&a;</x>')
    assert read("epub", path)[1].counts == {"damaged": 1}


def pdf(*pages: list[str]) -> bytes:
    """A PDF with a line of text for each string."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * index} 0 R" for index in range(len(pages)))
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode())
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for index, lines in enumerate(pages):
        shown = " T* ".join(f"({line}) Tj" for line in lines)
        content = f"BT /F1 12 Tf 14 TL 50 750 Td {shown} ET".encode()
        page = f"<< /Type /Page /Parent 2 0 R /Contents {5 + 2 * index} 0 R /MediaBox [0 0 612 792]"
        objects.append((page + " /Resources << /Font << /F1 3 0 R >> >> >>").encode())
        objects.append(f"<< /Length {len(content)} >>\nstream\n".encode() + content + b"\nendstream")
    data, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(data))
        data += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    table = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n" + "".join(
        f"{place:010} 00000 n \n" for place in places
    )
    trailer = f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(data)}\n%%EOF\n"
    return data + table.encode() + trailer.encode()


PDF_PAGE = [
    "A Study of Rivers",
    "Rivers carry water from the mountains down to the wide and salty sea, and exam-",
    "ples of this abound.",
]


@pytest.mark.covers("R174")
def test_a_pdf_becomes_running_text(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(
        pdf(
            *(
                [PDF_PAGE[0], f"In river {word} " + PDF_PAGE[1][7:], f"{PDF_PAGE[2]} {word}"]
                for word in ("Rhine", "Nile", "Po")
            )
        )
    )
    documents, losses = read("pdf", path)
    text = documents[0].text
    assert text.count("examples") == 3 and "A Study of Rivers" not in text
    assert documents[0].metadata["pages"] == 3
    assert losses.counts == {}


def test_scanned_encrypted_and_damaged_pdfs(tmp_path: Path) -> None:
    pypdf = pytest.importorskip("pypdf")
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf([], []))
    assert read("pdf", path)[1].counts == {"scanned": 1}
    path.write_bytes(pdf(PDF_PAGE))
    writer = pypdf.PdfWriter(clone_from=path)
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(tmp_path / "locked.pdf")
    assert read("pdf", tmp_path / "locked.pdf")[1].counts == {"encrypted": 1}
    for content in (b"", b"not a pdf", path.read_bytes()[:200], b"%PDF-1.4\n" + b"\xff" * 500):
        path.write_bytes(content)
        documents, losses = read("pdf", path)
        assert documents == [] and losses.total == 1
    assert read("pdf", tmp_path / "gone.pdf")[1].counts == {"unreadable": 1}
