"""Files, archives and repositories that are broken or meant to hurt: nothing runs, grows, or goes missing uncounted."""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources.archives import read_members
from llm_trainer.corpus.sources.files import cut_file
from llm_trainer.corpus.sources.git_licences import Licences, detect_licence
from tests.corpus.sources.reading import read


def _git(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "-c", "user.name=T", "-c", "user.email=t@example.org", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, env=environment, text=True).stdout.strip()


def _repository(folder: Path, names: list[bytes]) -> Path:
    folder.mkdir()
    _git(folder, "init", "--quiet")
    for name in names:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_text("first = 1\n", encoding="utf-8")
    _git(folder, "add", "--all")
    _git(folder, "commit", "--quiet", "--message", "first")
    return folder


@pytest.mark.covers("R178")
def test_a_partial_clone_cannot_have_git_run_a_command(tmp_path: Path) -> None:
    """Its configuration allows ext:: to itself, and names a command there that would bring the missing object."""
    folder = _repository(tmp_path / "bait", [b"a.py"])
    oid = _git(folder, "rev-parse", "HEAD:a.py")
    (folder / ".git/objects" / oid[:2] / oid[2:]).unlink()
    ran = tmp_path / "ran"
    with (folder / ".git/config").open("a", encoding="utf-8") as file:
        file.write(
            "[core]\n repositoryformatversion = 1\n[extensions]\n partialClone = origin\n"
            f'[remote "origin"]\n url = ext::sh -c "touch% {ran}"\n promisor = true\n'
            '[protocol "ext"]\n allow = always\n'
        )
    documents, losses = read("git", folder, licences="any")
    assert not ran.exists()
    assert (documents, losses.counts) == ([], {"damaged": 1})


def test_names_that_are_no_utf8_do_not_become_one_id(tmp_path: Path) -> None:
    documents, _ = read("git", _repository(tmp_path / "names", [b"\xfe.py", b"\xff.py"]), licences="any")
    assert len({document.id for document in documents}) == 2


_APACHE = "Apache License, Version 2.0"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("GNU GENERAL PUBLIC LICENSE\nVersion 3\n13. Use with the GNU Affero General Public License.", "GPL-3.0"),
        ("Mozilla Public License Version 2.0\n1.12 the GNU Affero General Public License, Version 3.0", "MPL-2.0"),
        (f"Business Source License 1.1\nChange License: {_APACHE}", "BUSL-1.1"),
        (f'"Commons Clause" License Condition v1.0\nLicense: {_APACHE}', "Commons-Clause"),
    ],
)
def test_a_licence_is_not_taken_for_one_that_it_mentions(text: str, name: str) -> None:
    assert detect_licence(text) == name


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("(MIT OR Apache-2.0) AND GPL-3.0", False),
        ("MIT AND (GPL-2.0 OR BSD-3-Clause)", True),
        ("MIT OR GPL-3.0 AND GPL-2.0", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("(MIT", False),
        ("MIT GPL-3.0", False),
        ("", False),
    ],
)
def test_brackets_and_precedence_of_licence_expressions(expression: str, allowed: bool) -> None:
    assert Licences.allowed(expression, ["MIT", "Apache-2.0", "BSD-3-Clause"]) is allowed


@pytest.mark.slow
@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_that_lies_about_sizes_stays_small_in_memory(tmp_path: Path, method: int) -> None:
    path = tmp_path / "lie.zip"
    size = 100 << 20
    with zipfile.ZipFile(path, "w", method) as archive, archive.open("zeros", "w", force_zip64=False) as member:
        for _ in range(100):
            member.write(bytes(1 << 20))
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", size), struct.pack("<I", 10)))
    losses = Losses()
    tracemalloc.start()
    try:
        assert list(read_members(path, losses)) == []
        assert tracemalloc.get_traced_memory()[1] < 80 << 20
    finally:
        tracemalloc.stop()
    assert losses.counts == {"damaged": 1}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_every_method_of_zip_gives_its_members(tmp_path: Path, method: int) -> None:
    path = tmp_path / "a.zip"
    data = random.Random(1).randbytes(200_000)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.bin", data)
        archive.writestr("empty", b"")
    losses = Losses()
    assert [(member.name, member.data) for member in read_members(path, losses)] == [("a.bin", data), ("empty", b"")]
    assert losses.counts == {}


def _tar(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("inner.txt", "inner")
    path = tmp_path / "a.tar"
    path.write_bytes(_tar([("main.txt", b"main"), ("figures.zip", inner.getvalue())]))
    assert [member.name for member in read_members(path, Losses())] == ["main.txt", "figures.zip"]


def test_damage_behind_a_member_that_was_left_out_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(_tar([("../out", b"x"), ("a", b"a" * 5000), ("b", b"b" * 5000)])[:9000])
    losses = Losses()
    assert [member.name for member in read_members(path, losses)] == ["a"]
    assert losses.counts == {"unsafe_path": 1, "damaged": 1}


@pytest.mark.parametrize(
    ("data", "encoding", "text"),
    [
        ("good\n".encode("utf-16-le") + b"\x00\xdc\x41\x00", "utf-16-le", "good\n"),
        ("good\n".encode("utf-16") + b"\x41", "utf-16", "good\n"),
        ("日本\n".encode("shift_jis") + b"\x80\xff", "shift_jis", "日本\n"),
    ],
)
def test_another_encoding_is_read_up_to_its_first_wrong_byte(
    tmp_path: Path, data: bytes, encoding: str, text: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    documents, losses = read("files", path, encoding=encoding)
    assert ([document.text for document in documents], losses.counts) == ([text], {"invalid_encoding": 1})


def test_any_cut_of_a_file_of_lines_or_rows_gives_the_same(tmp_path: Path) -> None:
    source = random.Random(7)
    pieces = [
        b"a",
        b"b c",
        b"\n",
        b"\r\n",
        b"\r",
        "é日".encode(),
        b"\xff",
        b"\0",
        b'"',
        b'{"text":"x"}',
        b"\xef\xbb\xbf",
    ]
    for _ in range(150):
        path = tmp_path / source.choice(["a.txt", "a.jsonl", "a.csv"])
        head = source.choice([b"text,b\n", b"body,b\n"]) if path.suffix == ".csv" else b""
        path.write_bytes(head + b"".join(source.choices(pieces, k=source.randrange(25))))
        fields = {"documents": "line", "max_document_chars": source.choice([5, 1000])}
        documents, losses = read("files", path, **fields)
        assert len({document.id for document in documents}) == len(documents)
        assert not any("\r" in document.text for document in documents)
        for size in (1, 3, 10):
            found, lost = [], Losses()
            for part in cut_file(path, size):
                some, missed = read("files", path, part=part, **fields)
                found += some
                lost.merge(missed)
            assert (found, lost.counts) == (documents, losses.counts), path.read_bytes()


def test_the_first_of_two_columns_of_one_name_is_the_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,text\nfirst,second\n", encoding="utf-8")
    assert [document.text for document in read("files", path)[0]] == ["first"]


def test_a_time_beyond_the_calendar_costs_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    times = pyarrow.array([2**62, 0], pyarrow.timestamp("us"))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], "when": times}), path)
    documents, losses = read("files", path)
    assert ([document.text for document in documents], losses.counts) == (["a", "b"], {})


def test_no_single_wrong_byte_in_a_parquet_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], "title": ["c", "d"]}), path)
    whole = path.read_bytes()
    for place in range(4, len(whole), 3):
        path.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
        for part in cut_file(path, 1):
            read("files", path, part=part)
