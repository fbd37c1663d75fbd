"""Local files: every format and compression, damage counted and passed over, parts equal to the whole."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_trainer.common.errors import DataError
from llm_trainer.corpus.formats import ReadOptions, reader_for
from llm_trainer.corpus.sources.files import cut_file
from llm_trainer.corpus.sources.kinds import Part, find_kind, kind_of_file
from tests.corpus.sources.reading import read, texts

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}


def lines(*records: object) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode("utf-8")


@pytest.mark.covers("R179", "R184")
@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("form", [".jsonl", ".json", ".csv", ".tsv"])
def test_records_of_every_form_and_compression(tmp_path: Path, form: str, compression: str) -> None:
    content = {
        ".jsonl": lines({"content": "one\ntwo", "year": 1}, {"content": "drei", "year": 2}),
        ".json": json.dumps([{"content": "one\ntwo", "year": 1}, {"content": "drei", "year": 2}]).encode(),
        ".csv": b'year,content\n1,"one\ntwo"\n2,drei\n',
        ".tsv": b'year\tcontent\n1\t"one\ntwo"\n2\tdrei\n',
    }[form]
    path = tmp_path / f"a{form}{compression}"
    path.write_bytes(COMPRESS[compression](content))
    documents, losses = read("files", path, text_column="content")
    assert [document.text for document in documents] == ["one\ntwo", "drei"]
    assert [str(document.metadata["year"]) for document in documents] == ["1", "2"]
    assert len({document.id for document in documents}) == 2
    assert losses.counts == {}


@pytest.mark.covers("R183")
def test_one_document_a_line_and_one_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("first\n\n  second \nthird", encoding="utf-8")
    assert texts("files", path, documents="line") == ["first", "second", "third"]
    assert [text.strip() for text in texts("files", path)] == ["first\n\n  second \nthird"]
    path.write_text("x", encoding="utf-8")
    assert texts("files", path, documents="line") == ["x"]


def test_the_tolerant_reader_agrees_with_the_strict_one(shared_data: Path) -> None:
    path = shared_data / "c4_wiki_demo" / "c4_demo.jsonl"
    strict = [text for _, text in reader_for(path)(path, ReadOptions())]
    assert texts("files", path) == strict


@pytest.mark.covers("R179", "R184")
def test_bad_lines_are_counted_with_their_place_and_the_rest_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = lines({"text": "kept"})
    bad = [b"{broken\n", b'{"text": "\xff"}\n', b'{"other": "x"}\n', b'{"text": null}\n', b'{"text": "  "}\n']
    bad += [b'{"text": 5}\n', b'{"te\0xt": "x"}\n', b'{"text": "\\ud800"}\n', b"[" * 100_000 + b"\n"]
    path.write_bytes(good + b"".join(line + good for line in bad))
    documents, losses = read("files", path)
    assert [document.text for document in documents] == ["kept"] * (len(bad) + 1)
    assert losses.counts == {
        "invalid_json": 2,
        "invalid_encoding": 1,
        "no_text_column": 1,
        "empty": 2,
        "not_text": 1,
        "binary": 1,
        "invalid_unicode": 1,
    }
    assert losses.examples["invalid_json"][0].startswith(f"{path}:byte {len(good)}: ")


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz", ".zst"])
def test_a_download_that_broke_off_gives_what_arrived(tmp_path: Path, compression: str) -> None:
    records = [{"text": f"document {index} " + "word " * (index % 50)} for index in range(20_000)]
    whole = COMPRESS[compression](lines(*records))
    path = tmp_path / f"a.jsonl{compression}"
    path.write_bytes(whole[: len(whole) * 4 // 5])
    documents, losses = read("files", path)
    assert 1_000 < len(documents) < 20_000 or compression == ".bz2"
    assert [document.text for document in documents] == [record["text"] for record in records[: len(documents)]]
    assert losses.counts["damaged"] == 1


def test_damage_in_the_middle_of_compressed_data_is_counted(tmp_path: Path) -> None:
    for compression in (".gz", ".bz2", ".xz", ".zst"):
        data = bytearray(COMPRESS[compression](lines(*({"text": f"number {index}"} for index in range(5000)))))
        data[len(data) // 2 : len(data) // 2 + 20] = b"\xff" * 20
        path = tmp_path / f"a.jsonl{compression}"
        path.write_bytes(data)
        _, losses = read("files", path)
        assert losses.counts["damaged"] == 1, compression


def test_a_file_of_several_members_is_read_to_its_end(tmp_path: Path) -> None:
    for compression, compress in COMPRESS.items():
        path = tmp_path / f"a.jsonl{compression}"
        path.write_bytes(compress(lines({"text": "one"})) + compress(lines({"text": "two"})))
        assert texts("files", path) == ["one", "two"]


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".zst"])
def test_a_bomb_is_given_up_early(tmp_path: Path, compression: str) -> None:
    path = tmp_path / f"a.txt{compression}"
    path.write_bytes(COMPRESS[compression](b"a" * (80 << 20)))
    documents, losses = read("files", path, documents="line", max_document_chars=1 << 20)
    assert losses.counts == {"decompression_bomb": 1}
    assert sum(len(document.text) for document in documents) < 100 << 20
    small = tmp_path / "b.txt.gz"
    small.write_bytes(gzip.compress(b"the same line\n" * 100_000))
    assert len(texts("files", small, documents="line")) == 100_000
    _, losses = read("files", small, documents="line", max_decompressed_bytes=1000)
    assert losses.counts == {"decompression_bomb": 1}


LONG_LINE = """
import resource, sys
from pathlib import Path
from llm_trainer.corpus.sources.kinds import ReadRequest, find_kind
from llm_trainer.corpus.losses import Losses
kind, losses = find_kind("files"), Losses()
request = ReadRequest(options=kind.options(), documents="line", max_document_chars=1 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = [len(document.text) for document in kind.read(Path(sys.argv[1]), request, losses)]
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(max(found), sum(found), grown // 1024, losses.counts.get("too_large", 0))
"""


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_line_of_200_mb_costs_little_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        for _ in range(200):
            file.write(b"word and " * 111_111)
        file.write(b'\n{"text": "after"}\n')
    done = subprocess.run([sys.executable, "-c", LONG_LINE, str(path)], capture_output=True, text=True, check=True)
    longest, total, grown, lost = map(int, done.stdout.split())
    assert grown < 100  # megabytes
    if name == "a.txt":
        assert longest <= 1 << 20 and total > 190_000_000
    else:
        assert (longest, lost) == (5, 1)


def test_a_text_over_the_limit_comes_in_pieces_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    content = "".join(f"line {index} ü {'x' * (index % 97)}\n" for index in range(1000))
    path.write_text(content, encoding="utf-8")
    documents, losses = read("files", path, max_document_chars=1000)
    assert "".join(document.text for document in documents) == content
    assert all(len(document.text) <= 1001 for document in documents)
    assert [document.id for document in documents][:2] == ["piece1", "piece2"]
    assert losses.counts == {}


def test_binary_and_foreign_encodings_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\x7fELF\0\0\0\0" * 100)
    assert read("files", path)[1].counts == {"binary": 1}
    path.write_bytes("grün\nblau\nrötlich\n".encode("latin-1"))
    assert read("files", path)[1].counts == {"wrong_encoding": 1}
    assert texts("files", path, encoding="latin-1") == ["grün\nblau\nrötlich\n"]
    path.write_bytes(b"good\n" * 50 + b"\xff\xfe bad\n" + b"good\n" * 50)
    documents, losses = read("files", path)
    assert documents[0].text == "good\n" * 100
    assert losses.counts == {"invalid_encoding": 1}
    path.write_text("zwei\nZeilen\n", encoding="utf-16")
    assert texts("files", path, encoding="utf-16", documents="line") == ["zwei", "Zeilen"]
    path.write_text("\ufeffmark\n", encoding="utf-8")
    assert texts("files", path, documents="line") == ["mark"]
    with pytest.raises(DataError, match="no text encoding called"):
        read("files", path, encoding="utf-9")


def test_empty_and_missing_files(tmp_path: Path) -> None:
    for name in ("a.txt", "a.jsonl", "a.json", "a.csv"):
        (tmp_path / name).write_bytes(b"")
        documents, losses = read("files", tmp_path / name)
        assert documents == []
        assert set(losses.counts) <= {"empty"}
    assert read("files", tmp_path / "gone.jsonl")[1].counts == {"unreadable": 1}
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    assert read("files", tmp_path / "a.parquet")[1].counts == {"damaged": 1}


def test_an_unclosed_quote_loses_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,"fine, really"\n2,"never closed\n3,three\n4,four\n', encoding="utf-8")
    documents, losses = read("files", path)
    assert [document.text for document in documents] == ["fine, really", "three", "four"]
    assert losses.counts == {"unclosed_quote": 1}
    path.write_text("id,text\n1\n2,b\n", encoding="utf-8")
    documents, losses = read("files", path)
    assert [document.text for document in documents] == ["b"]
    assert losses.counts == {"short_row": 1}
    path.write_text("id,words\n1,b\n", encoding="utf-8")
    assert read("files", path)[1].counts == {"no_text_column": 1}


@given(st.lists(st.lists(st.text("ab\",\n ;ü'", max_size=12), min_size=2, max_size=2), max_size=8))
@settings(max_examples=60, deadline=None)
def test_tables_written_by_python_are_read_back(rows: list[list[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["id", "text"], *rows])
        documents, _ = read("files", path)
        expected = [row[1].replace("\r\n", "\n").replace("\r", "\n") for row in rows if row[1].strip()]
        assert [document.text for document in documents] == expected


def test_a_damaged_list_gives_the_items_before_the_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"text": "one"}, {"text": "two"}, {"text": "thr', encoding="utf-8")
    documents, losses = read("files", path)
    assert [document.text for document in documents] == ["one", "two"]
    assert losses.counts == {"invalid_json": 1}
    path.write_bytes(lines({"text": "a"}) + b"oops\n" + lines({"text": "b"}))
    documents, losses = read("files", path)
    assert [document.text for document in documents] == ["a", "b"]
    assert losses.counts == {"invalid_json": 1}
    path.write_text('{"text": ["x", "y"], "id": [1, 2]}', encoding="utf-8")
    assert texts("files", path) == ["x", "y"]
    assert read("files", path, max_json_bytes=10)[1].counts == {"too_large": 1}


def test_metadata_is_what_json_can_hold(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    record = {"text": "t", "url": "u", "n": 3, "score": 0.5, "nested": {"a": 1}, "huge": "x" * 5000, "none": None}
    path.write_bytes(lines(record))
    assert read("files", path)[0][0].metadata == {"url": "u", "n": 3, "score": 0.5}
    assert read("files", path, metadata_columns="none")[0][0].metadata == {}
    named = read("files", path, metadata_columns=["nested", "huge", "absent"])[0][0].metadata
    assert named == {"nested": {"a": 1}, "huge": "x" * 5000}


def parts_equal_the_whole(path: Path, part_bytes: int, documents: str) -> None:
    whole, lost = read("files", path, documents=documents)
    found, losses = [], 0
    for part in cut_file(path, part_bytes):
        some, counted = read("files", path, part=part, documents=documents)
        found += some
        losses += counted.total
    assert [(document.id, document.text) for document in found] == [(one.id, one.text) for one in whole]
    assert losses == lost.total


LINE = st.one_of(
    st.builds(lambda text: json.dumps({"text": text}, ensure_ascii=False), st.text(max_size=15)),
    st.sampled_from(["", "{bad", " ", "\r"]),
)


@pytest.mark.covers("R184")
@given(
    st.lists(LINE, max_size=12),
    st.integers(1, 60),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.sampled_from(["file", "line"]),
)
@settings(max_examples=120, deadline=None)
def test_parts_of_a_file_are_the_whole_file(
    content: list[str], part_bytes: int, ending: str, last: bool, documents: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.jsonl", "a.txt", "a.csv"):
            path = Path(folder) / name
            rows = ["text", *(line.replace('"', "'") for line in content)] if name == "a.csv" else content
            path.write_bytes((ending.join(rows) + (ending if last else "")).encode("utf-8", "replace"))
            parts_equal_the_whole(path, part_bytes, documents)


@pytest.mark.covers("R182", "R184")
def test_row_groups_of_parquet_are_parts(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    values = [None if index % 50 == 7 else f"text {index}" for index in range(1000)]
    table = pa.table({"text": values, "n": list(range(1000)), "picture": [b"x"] * 1000, "list": [[1]] * 1000})
    parquet.write_table(table, path, row_group_size=130)
    parts = cut_file(path, 1)
    assert len(parts) == 8
    parts_equal_the_whole(path, 1, "auto")
    documents, losses = read("files", path)
    assert [document.id for document in documents][:8] == ["0", "1", "2", "3", "4", "5", "6", "8"]
    assert documents[3].metadata == {"n": 3}
    assert losses.counts == {"empty": 20}
    assert read("files", path, text_column="words")[1].counts == {"no_text_column": 1000}
    damaged = bytearray(path.read_bytes())
    damaged[200:400] = b"\xff" * 200
    path.write_bytes(damaged)
    documents, losses = read("files", path)
    assert losses.counts["damaged"] >= 1
    assert documents[-1].text == "text 999"


@pytest.mark.covers("R182")
@pytest.mark.slow
def test_a_large_shard_is_streamed(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    with parquet.ParquetWriter(path, pa.schema([("text", pa.string())])) as writer:
        for group in range(10):
            rows = [f"{group} {row} " + "many different words " * 150 for row in range(5000)]
            writer.write_table(pa.table({"text": rows}))
    kind = find_kind("files")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert kind.name == "files"
    done = subprocess.run([sys.executable, "-c", LONG_LINE, str(path)], capture_output=True, text=True, check=True)
    _, total, grown, _ = map(int, done.stdout.split())
    assert total > 150_000_000
    assert grown < 250, before  # megabytes; most of it is pyarrow itself


@pytest.mark.covers("R178")
def test_a_folder_of_anything_finds_the_kind_of_each_file() -> None:
    expected = {
        "a.txt": "files", "b.parquet": "files", "c.jsonl.zst": "files", "paper.tex": "latex", "x.pdf": "pdf",
        "b.epub": "epub", "Posts.xml.bz2": "stackexchange", "unknown.xyz": "files", "p.tar.gz": "latex",
    }  # fmt: skip
    assert {name: kind_of_file(Path(name)).name for name in expected} == expected


def test_cutting_gives_no_empty_parts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"x" * 10)
    assert list(cut_file(path, 4)) == [Part(0, 4), Part(4, 8), Part(8, 10)]
    path.write_bytes(b"")
    assert list(cut_file(path, 4)) == [Part(0, 0)]
