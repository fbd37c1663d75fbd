"""Every format, every kind of damage, and folders as people have them."""

from __future__ import annotations

import bz2
import gzip
import importlib
import json
import lzma
import os
import tracemalloc
from pathlib import Path

import pytest

from llm_trainer.common.errors import CorruptionError, DataError
from llm_trainer.corpus import ReadReport, read_path
from llm_trainer.corpus import decoding as decoding_module
from llm_trainer.corpus.formats import ReadOptions
from llm_trainer.corpus.readers import read_with

TEXTS = ["first text", "zweiter Text\nmit zwei Zeilen, äöü", "третий текст", "文章の四番目 😀"]


def texts(path: Path, **options: object) -> list[str]:
    return [document.text for document in read_path(path, **options)]  # type: ignore[arg-type]


def write_json_list(path: Path) -> None:
    path.write_text(json.dumps([{"text": text, "n": 1} for text in TEXTS]), encoding="utf-8")


def write_json_strings(path: Path) -> None:
    path.write_text(json.dumps(TEXTS), encoding="utf-8")


def write_json_columns(path: Path) -> None:
    path.write_text(json.dumps({"n": [1, 2, 3, 4], "text": TEXTS}), encoding="utf-8")


def write_jsonl(path: Path) -> None:
    # Unicode line separators are legal inside JSON strings and must not break the line.
    path.write_text("".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in TEXTS), encoding="utf-8")


def write_csv(path: Path, delimiter: str = ",") -> None:
    rows = [f'{i}{delimiter}"{text}"' for i, text in enumerate(TEXTS)]
    path.write_text("\n".join([f"id{delimiter}text", *rows]) + "\n", encoding="utf-8")


def write_tsv(path: Path) -> None:
    write_csv(path, "\t")


def write_parquet(path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    importlib.import_module("pyarrow.parquet").write_table(arrow.table({"id": [1, 2, 3, 4], "text": TEXTS}), path)


@pytest.mark.covers("R184")
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.json", write_json_list),
        ("a.json", write_json_strings),
        ("a.json", write_json_columns),
        ("a.json", write_jsonl),
        ("a.jsonl", write_jsonl),
        ("a.csv", write_csv),
        ("a.tsv", write_tsv),
        ("a.parquet", write_parquet),
    ],
)
def test_records_of_every_format_give_their_texts(tmp_path, name, write):
    path = tmp_path / name
    write(path)
    documents = list(read_path(path))
    assert [document.text for document in documents] == TEXTS
    assert len({document.id for document in documents}) == len(TEXTS)


@pytest.mark.covers("R184")
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_text_column_is_honoured_and_a_missing_one_names_those_there_are(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "csv":
        path.write_text("title,body\nx,hello\n")
    elif suffix == "parquet":
        arrow = pytest.importorskip("pyarrow")
        importlib.import_module("pyarrow.parquet").write_table(arrow.table({"title": ["x"], "body": ["hello"]}), path)
    else:
        path.write_text(json.dumps({"title": "x", "body": "hello"}) + "\n")
    assert texts(path, text_column="body") == ["hello"]
    with pytest.raises(DataError, match=r"no column 'text'.*'title', 'body'"):
        texts(path)


def test_unicode_line_separators_do_not_split_a_json_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one\u2028still one\x85and still"}\n', encoding="utf-8")
    assert texts(path) == ["one\u2028still one\x85and still"]


@pytest.mark.covers("R183")
def test_line_mode_gives_one_document_a_line_even_for_a_tiny_file(tmp_path):
    path = tmp_path / "tiny.txt"
    path.write_text("alpha\n\n  beta\r\ngamma", newline="")
    documents = list(read_path(path, documents="line"))
    assert [document.text for document in documents] == ["alpha", "beta", "gamma"]
    assert [document.id for document in documents] == ["tiny.txt:1", "tiny.txt:3", "tiny.txt:4"]
    assert texts(path) == ["alpha\n\n  beta\ngamma"]


@pytest.mark.parametrize(("suffix", "opener"), [(".gz", gzip.open), (".bz2", bz2.open), (".xz", lzma.open)])
def test_compressed_files_are_read_and_a_truncated_one_is_named(tmp_path, suffix, opener):
    path = tmp_path / f"a.jsonl{suffix}"
    payload = "".join(json.dumps({"text": f"{i} {os.urandom(40).hex()}"}) + "\n" for i in range(500))
    with opener(path, "wt", encoding="utf-8") as file:
        file.write(payload)
    assert texts(path) == [json.loads(line)["text"] for line in payload.splitlines()]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptionError, match=f"a.jsonl{suffix} is damaged"):
        texts(path)
    path.write_bytes(b"this was never compressed")
    with pytest.raises(CorruptionError, match="damaged"):
        texts(path)


def test_zstandard_is_read_or_its_absence_is_explained(tmp_path, monkeypatch):
    path = tmp_path / "a.txt.zst"
    path.write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setattr(decoding_module, "available", lambda package: False)
        with pytest.raises(DataError, match="pip install zstandard"):
            texts(path)
    zstandard = pytest.importorskip("zstandard")
    compress = zstandard.ZstdCompressor().compress
    path.write_bytes(compress(b"one\n") + compress(b"two\n"))
    assert texts(path) == ["one\ntwo\n"]
    path.write_bytes(compress(os.urandom(300_000).hex().encode())[:-5000])
    with pytest.raises(CorruptionError, match=r"a\.txt\.zst is damaged: it ends in the middle"):
        texts(path)
    path.write_bytes(b"this was never compressed")
    with pytest.raises(CorruptionError, match="damaged"):
        texts(path)


def test_a_wrong_encoding_names_the_file_the_offset_and_the_remedy(tmp_path):
    path = tmp_path / "latin.txt"
    prefix = b"x" * (decoding_module.BLOCK_BYTES - 1)  # the bad byte is the last of the first block
    path.write_bytes(prefix + "é and more".encode("latin-1"))
    with pytest.raises(DataError, match=rf"latin\.txt is not valid utf-8: byte 0xe9 at offset {len(prefix)}") as caught:
        texts(path)
    assert "data.encoding=latin-1" in str(caught.value)
    assert texts(path, encoding="latin-1")[0].endswith("é and more")


def test_characters_cut_by_a_block_border_survive(tmp_path):
    path = tmp_path / "border.txt"
    text = "x" * (decoding_module.BLOCK_BYTES - 2) + "😀\r\nend"
    path.write_bytes(text.encode("utf-8"))
    assert texts(path) == [text.replace("\r\n", "\n")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_not_text(tmp_path, encoding):
    path = tmp_path / "bom.txt"
    path.write_bytes("Text".encode(encoding))
    assert texts(path, encoding="utf-8" if encoding == "utf-8-sig" else encoding) == ["Text"]
    if encoding == "utf-16":
        with pytest.raises(DataError, match=r"data\.encoding=utf-16"):
            texts(path)


def test_an_unknown_encoding_is_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("x")
    with pytest.raises(DataError, match="no text encoding called 'klingon'"):
        texts(path, encoding="klingon")


@pytest.mark.parametrize("content", [b"", b"  \n\t\n"])
def test_an_empty_file_or_folder_is_an_error(tmp_path, content):
    path = tmp_path / "empty.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match="empty"):
        texts(path)
    with pytest.raises(DataError, match=r"no text in the folder .*1 skipped: empty"):
        texts(tmp_path)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="there is no file or folder"):
        read_path(tmp_path / "nowhere")


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="not a regular file"):
        read_path(tmp_path / "pipe")


def test_broken_json_lines_are_named_by_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "ok"}\n{"text": "cut o')
    with pytest.raises(CorruptionError, match=r"a\.jsonl, line 2"):
        texts(path)


def test_null_texts_are_counted_and_other_values_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": null}\n{"text": "ok"}\n{"text": " "}\n')
    report = ReadReport()
    assert [document.text for document in read_path(path, report=report)] == ["ok"]
    assert report.empty_records == 2
    path.write_text('{"text": 3}\n')
    with pytest.raises(DataError, match="found int"):
        texts(path)


def test_csv_fields_may_be_longer_than_the_library_default(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text\n"' + "long " * 100_000 + '"\n')
    assert len(texts(path)[0]) == 500_000


@pytest.mark.covers("R179")
def test_a_folder_is_read_in_order_and_every_skipped_file_is_counted(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.md").write_text("two")
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "c.jsonl").write_text('{"text": "three"}\n')
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("secret")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "package.json").write_text('{"name": "x"}')
    (tmp_path / "tsconfig.json").write_text("{ // comment\n}")
    (tmp_path / "nothing.txt").write_text("")
    (tmp_path / "b" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "gone.txt").symlink_to(tmp_path / "missing")
    os.mkfifo(tmp_path / "pipe")
    report = ReadReport()
    documents = list(read_path(tmp_path, report=report))
    assert [document.id for document in documents] == ["a.txt", "b/two.md", "c.jsonl:1"]
    assert {reason: len(paths) for reason, paths in report.skipped.items()} == {
        "hidden": 1,
        "binary": 1,
        "wrong encoding": 1,
        "no text column": 1,
        "not valid JSON": 1,
        "empty": 1,
        "link to a folder that is read already": 1,
        "broken link": 1,
        "not a regular file": 1,
    }
    assert report.files == 3 and report.documents == 3
    assert "skipped 1: wrong encoding" in report.describe()


def test_a_folder_with_nothing_readable_says_why(tmp_path):
    (tmp_path / "image.png").write_bytes(b"\0")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"latin\.txt is not valid utf-8"):
        texts(tmp_path)


def test_a_file_that_breaks_after_it_gave_text_is_never_half_skipped(tmp_path):
    lines = ('{"text": "fine"}\n' * 100_000).encode()
    (tmp_path / "a.jsonl").write_bytes(lines + b'{"text": "\xff"}\n')
    with pytest.raises(DataError, match="not valid utf-8"):
        texts(tmp_path)


def test_a_huge_text_file_comes_in_pieces_that_end_with_a_line_and_lose_nothing(tmp_path):
    path = tmp_path / "huge.txt"
    content = "".join(f"line {number}\n" for number in range(400_000)) + "y" * 300_000
    path.write_text(content)
    options = ReadOptions(piece_chars=200_000)
    documents = list(read_with(path, options, ReadReport()))
    assert "".join(document.text for document in documents) == content
    assert max(len(document.text) for document in documents) <= options.piece_chars
    assert all(document.text.endswith("\n") for document in documents[:-2])
    assert len({document.id for document in documents}) == len(documents)


def test_line_files_are_streamed_in_bounded_memory(tmp_path):
    path = tmp_path / "long.jsonl"
    with path.open("w") as file:
        for _ in range(3000):
            file.write(json.dumps({"text": "w" * 10_000}) + "\n")
    tracemalloc.start()
    total = sum(len(document.text) for document in read_path(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 30_000_000
    assert peak < 12_000_000
