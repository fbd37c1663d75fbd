"""Crawl archives: every record is a document or a count, and damage costs no more than what it hit."""

from __future__ import annotations

import gzip
import time
import tracemalloc
import zlib
from pathlib import Path

import pytest

from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources.kinds import ReadRequest, kind_of_file
from llm_trainer.corpus.sources.warc import KIND_WARC, KIND_WET, WarcOptions
from llm_trainer.corpus.sources.warc_http import dechunk, parse_response

TEXT = "Some words of prose that stand on this page for its readers, again and again. "


def record(
    number: int, block: bytes, *, kind: str = "response", mime: str = "application/http; msgtype=response"
) -> bytes:
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:{number:08d}-0000-0000-0000-000000000000>\r\n"
        f"WARC-Target-URI: https://www.example.org/{number}\r\nWARC-Date: 2024-05-18T01:58:10Z\r\n"
        f"Content-Type: {mime}\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def answer(body: bytes, *headers: str, status: str = "200 OK", mime: str = "text/html; charset=utf-8") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {mime}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def html(number: int) -> bytes:
    return f"<html><head><title>Page {number}</title></head><body><p>{TEXT * 3}{number}</p></body></html>".encode()


def write(path: Path, records: list[bytes]) -> Path:
    path.write_bytes(b"".join(map(gzip.compress, records)) if path.name.endswith(".gz") else b"".join(records))
    return path


def read(path: Path, losses: Losses | None = None, **options: object) -> list[Document]:
    kind = KIND_WET if ".wet" in path.name else KIND_WARC
    request = ReadRequest(options=WarcOptions(**options))  # type: ignore[arg-type]
    return list(kind.read(path, request, losses if losses is not None else Losses()))


@pytest.mark.parametrize("suffix", [".warc", ".warc.gz"])
@pytest.mark.covers("R171")
def test_every_record_is_a_document_or_a_count(tmp_path: Path, suffix: str) -> None:
    records = [
        record(0, b"software: x\r\n", kind="warcinfo", mime="application/warc-fields"),
        record(1, b"GET / HTTP/1.1\r\n\r\n", kind="request"),
        record(2, answer(html(2))),
        record(3, answer(html(3), status="404 Not Found")),
        record(4, answer(b"%PDF", mime="application/pdf")),
        record(5, answer(b"", status="200 OK"), kind="revisit"),
        record(6, b"www.example.org. 60 IN A 1.2.3.4", mime="text/dns"),
        record(7, answer(b"<html><script>x</script></html>")),
        record(8, answer(html(8), mime="")),
        record(9, b"{}", kind="metadata"),
    ]
    losses = Losses()

    documents = read(write(tmp_path / f"a{suffix}", records), losses)

    assert [document.metadata["url"][-1] for document in documents] == ["2", "8"]
    assert documents[0].metadata == {
        "url": "https://www.example.org/2", "domain": "example.org", "date": "2024-05-18T01:58:10Z",
        "mime": "text/html", "title": "Page 2",
    }  # fmt: skip
    assert losses.counts == {
        "record_warcinfo": 1, "record_request": 1, "http_status": 1, "not_html": 1, "record_revisit": 1, "not_http": 1,
        "no_text": 1, "record_metadata": 1,
    }  # fmt: skip
    assert len(documents) + losses.total == len(records)


def _chunks(body: bytes) -> bytes:
    return (
        b"".join(b"%x;x=y\r\n%b\r\n" % (len(body[i : i + 50]), body[i : i + 50]) for i in range(0, len(body), 50))
        + b"0\r\n\r\n"
    )


def _bare(body: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-15)
    return deflate.compress(body) + deflate.flush()


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (_chunks(html(1)), ["Transfer-Encoding: chunked"]),
        (_chunks(gzip.compress(html(1))), ["Transfer-Encoding: chunked", "Content-Encoding: gzip"]),
        (zlib.compress(html(1)), ["Content-Encoding: deflate"]),
        (_bare(html(1)), ["Content-Encoding: deflate"]),
        (html(1), ["Transfer-Encoding: chunked"]),
        (html(1), ["Content-Encoding: gzip"]),
        (html(1), ["Content-Encoding: br, identity"]),
        (_chunks(html(1))[:-5], ["Transfer-Encoding: chunked"]),
        (gzip.compress(html(1)[:90]) + gzip.compress(html(1)[90:]), ["Content-Encoding: gzip"]),
    ],
)
def test_bodies_are_read_whatever_the_crawler_did_to_them(body: bytes, headers: list[str]) -> None:
    assert parse_response(answer(body, *headers), 1 << 20).body == html(1)


def test_headers_with_bare_line_ends() -> None:
    response = parse_response(b"HTTP/1.0 200 OK\nContent-Type: Text/HTML\n\nbody\r\n\r\n", 100)
    assert (response.status, response.mime, response.body) == (200, "text/html", b"body\r\n\r\n")


@pytest.mark.parametrize("raw", [b"", b"\r\n", b"HTTP/1.1", b"HTTP/1.1 x", b"\xff" * 100, b"HTTP/1.1 200\r\n\r\n"])
def test_what_is_no_http_is_no_error(raw: bytes) -> None:
    assert parse_response(raw, 100).status in {0, 200}


def test_chunks_that_never_end() -> None:
    assert dechunk(b"5\r\nhello\r\nzz\r\nrest") == b"hello"
    assert dechunk(b"ffffffffffff\r\nx") == b"ffffffffffff\r\nx"


def test_a_block_of_line_ends_costs_no_memory() -> None:
    raw = b"HTTP/1.1 200 OK\r" + b"ab\r" * 5_000_000
    tracemalloc.start()
    parse_response(raw, 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * len(raw)


def test_a_header_with_an_odd_sign_is_one_header() -> None:
    response = parse_response(
        b"HTTP/1.1 200 OK\r\nX: a\x85Content-Type: text/css\r\nContent-Type: text/html\r\n\r\n", 9
    )
    assert response.headers == {"x": "a\x85Content-Type: text/css", "content-type": "text/html"}


def test_a_page_that_says_it_is_packed_a_million_times_takes_no_time() -> None:
    begun = time.process_time()
    response = parse_response(answer(html(1), "Content-Encoding: " + "deflate," * 30_000), 1 << 20)
    assert response.problem == "damaged"
    assert time.process_time() - begun < 0.05


def test_a_page_of_ten_thousand_gzip_members_is_read_in_time() -> None:
    begun = time.process_time()
    body = gzip.compress(b"") * 100_000
    assert parse_response(answer(body, "Content-Encoding: gzip"), 1 << 20).body == b""
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_bomb_in_a_page_is_counted(tmp_path: Path, coding: str) -> None:
    zeros = b"\0" * 50_000_000
    body = gzip.compress(zeros) if coding == "gzip" else zlib.compress(zeros)
    path = write(
        tmp_path / "a.warc.gz", [record(1, answer(body, f"Content-Encoding: {coding}")), record(2, answer(html(2)))]
    )
    losses = Losses()
    assert len(read(path, losses)) == 1
    assert losses.counts == {"too_large": 1}


def test_a_bomb_of_a_record_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.warc.gz", [record(1, answer(b" " * 20_000_000)), record(2, answer(html(2)))])
    losses = Losses()
    assert len(read(path, losses, max_record_bytes=1_000_000)) == 1
    assert losses.counts == {"too_large": 1}


def _archive(tmp_path: Path) -> tuple[Path, list[bytes]]:
    records = [record(number, answer(html(number))) for number in range(6)]
    return tmp_path / "a.warc.gz", [gzip.compress(one) for one in records]


def test_a_damaged_record_costs_itself(tmp_path: Path) -> None:
    path, members = _archive(tmp_path)
    for change in (b"\0" * 40, b"\xff" * 40):
        damaged = members[2][:100] + change + members[2][140:]
        path.write_bytes(b"".join([*members[:2], damaged, *members[3:]]))
        losses = Losses()
        assert [document.metadata["title"] for document in read(path, losses)] == [f"Page {n}" for n in (0, 1, 3, 4, 5)]
        assert losses.counts == {"damaged": 1}


def test_garbage_between_records_is_passed_over(tmp_path: Path) -> None:
    path, members = _archive(tmp_path)
    path.write_bytes(b"".join([*members[:3], b"garbage" * 100, *members[3:]]))
    losses = Losses()
    assert len(read(path, losses)) == 6
    assert losses.counts == {"damaged": 1}

    plain = tmp_path / "b.warc"
    plain.write_bytes(b"".join([gzip.decompress(members[0]), b"garbage\r\n" * 100, gzip.decompress(members[1])]))
    losses = Losses()
    assert len(read(plain, losses)) == 2
    assert losses.counts == {"damaged": 1}


@pytest.mark.parametrize("cut", [1, 20, 100, 150, 180, 200, -30, -5])
def test_an_archive_that_ends_early_is_counted(tmp_path: Path, cut: int) -> None:
    path, members = _archive(tmp_path)
    path.write_bytes(b"".join(members[:5]) + members[5][:cut])
    losses = Losses()
    documents = read(path, losses)
    assert [document.metadata["title"] for document in documents][:5] == [f"Page {number}" for number in range(5)]
    assert losses.counts in ({"truncated": 1}, {"damaged": 1})


@pytest.mark.parametrize("cut", [30, 200, -60, -5])
@pytest.mark.parametrize("kind", ["request", "response"])
def test_a_plain_archive_that_ends_early_is_counted_once(tmp_path: Path, cut: int, kind: str) -> None:
    path = tmp_path / "a.warc"
    path.write_bytes(record(1, answer(html(1))) + record(2, answer(html(2)), kind=kind)[:cut])
    losses = Losses()
    assert len(read(path, losses)) == 1
    assert losses.counts == {"truncated": 1}


@pytest.mark.parametrize("suffix", [".warc", ".warc.gz"])
@pytest.mark.parametrize("kind", ["request", "response"])
@pytest.mark.parametrize("length", ["100000", "18446744073709551615"])
@pytest.mark.covers("R171")
def test_a_record_that_says_it_is_too_long_costs_itself(tmp_path: Path, suffix: str, kind: str, length: str) -> None:
    records = [record(number, answer(html(number)), kind=kind if number == 1 else "response") for number in range(4)]
    head, _, block = records[1].partition(b"\r\nContent-Length: ")
    records[1] = b"%b\r\nContent-Length: %b%b" % (head, length.encode(), block[block.index(b"\r\n") :])
    losses = Losses()
    documents = read(write(tmp_path / f"a{suffix}", records), losses)
    assert [document.metadata["title"] for document in documents] == ["Page 0", "Page 2", "Page 3"]
    assert losses.counts in ({"truncated": 1}, {"too_large": 1})


def test_an_empty_member_ends_no_archive(tmp_path: Path) -> None:
    path, members = _archive(tmp_path)
    empty = gzip.compress(b"")
    path.write_bytes(empty + b"".join(members[:3]) + empty + b"".join(members[3:]) + empty)
    losses = Losses()
    assert [document.metadata["title"] for document in read(path, losses)] == [f"Page {n}" for n in range(6)]
    assert losses.counts == {}


def test_an_archive_whose_name_hides_that_it_is_compressed(tmp_path: Path) -> None:
    _, members = _archive(tmp_path)
    path = tmp_path / "a.warc"
    path.write_bytes(b"".join(members))
    losses = Losses()
    assert len(read(path, losses)) == 6
    assert losses.counts == {}
    path.write_bytes(b"".join([members[0], members[1][:100] + b"\xff" * 40 + members[1][140:], *members[2:]]))
    assert len(read(path, losses)) == 5
    assert losses.counts == {"damaged": 1}


def test_archives_damaged_anywhere_are_read_without_an_error(tmp_path: Path) -> None:
    import random

    _, members = _archive(tmp_path)
    for suffix, data in ((".warc.gz", b"".join(members)), (".warc", b"".join(map(gzip.decompress, members)))):
        chance = random.Random(7)
        for number in range(60):
            damaged = bytearray(data)
            place = chance.randrange(len(damaged))
            damaged[place : place + chance.randrange(300)] = chance.randbytes(chance.randrange(300))
            path = tmp_path / f"{number}{suffix}"
            path.write_bytes(damaged)
            losses = Losses()
            documents = read(path, losses)
            assert len({document.id for document in documents}) == len(documents)
            assert len(documents) >= 3 or losses.total, "nothing is lost in silence"


def test_files_that_are_no_archives(tmp_path: Path) -> None:
    for name, data in (("empty.warc.gz", b""), ("text.warc", b"hello"), ("text.warc.gz", b"hello" * 10_000)):
        path = tmp_path / name
        path.write_bytes(data)
        losses = Losses()
        assert read(path, losses) == []
        assert losses.counts == ({"damaged": 1} if data else {})
    losses = Losses()
    assert read(tmp_path / "gone.warc", losses) == []
    assert losses.counts == {"unreadable": 1}


@pytest.mark.covers("R171")
def test_texts_that_common_crawl_extracted(tmp_path: Path) -> None:
    records = [
        record(1, TEXT.encode(), kind="conversion", mime="text/plain"),
        record(2, b"\xff\xfe", kind="conversion", mime="text/plain"),
        record(3, b"  \n", kind="conversion", mime="text/plain"),
    ]
    losses = Losses()
    path = write(tmp_path / "a.warc.wet.gz", records)
    [document] = read(path, losses)
    assert document.text == TEXT.strip()
    assert losses.counts == {"invalid_utf8": 1, "no_text": 1}
    assert kind_of_file(path).name == "wet"
    assert kind_of_file(tmp_path / "a.warc.gz").name == "warc"


@pytest.mark.parametrize(
    ("name", "documents", "losses"),
    [
        ("whirlwind.warc.gz", 1, {"record_warcinfo": 1, "record_request": 1, "record_metadata": 1}),
        ("whirlwind.warc.wet.gz", 1, {"record_warcinfo": 1}),
        ("resiliparse_clueweb-quirk.warc.gz", 29, {"record_warcinfo": 1}),
        ("warcio/example.warc", 1, {"record_warcinfo": 2, "record_request": 2, "record_revisit": 1}),
        ("warcio/example-bad-non-chunked.warc.gz", 1, {"record_warcinfo": 2, "record_request": 2, "record_revisit": 1}),
        ("warcio/example-iana.org-chunked.warc", 1, {"record_warcinfo": 1, "record_request": 1}),
        ("warcio/example-trunc.warc", 1, {"record_warcinfo": 2, "record_request": 1, "damaged": 1}),
        ("warcio/example-wrong-chunks.warc.gz", 1, {"record_request": 1}),
    ],
)
@pytest.mark.covers("R171")
def test_real_archives(shared_data: Path, name: str, documents: int, losses: dict[str, int]) -> None:
    found = Losses()
    read_documents = read(shared_data / "warc" / name, found)
    assert len(read_documents) == documents
    assert len({document.id for document in read_documents}) == documents
    assert found.counts == losses
    assert all("<p" not in document.text for document in read_documents)
