"""Archives are read without a file being written, and hostile members are counted."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources.archives import ArchiveLimits, is_tar, read_members, safe_name


def tar_bytes(members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def listing(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.mark.covers("R174")
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_hostile_tar_writes_nothing_and_gives_its_good_members(tmp_path: Path, mode: str) -> None:
    suffix = {"w": ".tar", "w:gz": ".tar.gz", "w:bz2": ".tar.bz2", "w:xz": ".tar.xz"}[mode]
    path = tmp_path / f"a{suffix}"
    members = [
        (info("../../escape.txt"), b"x"),
        (info("/etc/absolute"), b"x"),
        (info("good/./a.txt"), b"good"),
        (info("link", tarfile.SYMTYPE, "/etc/passwd"), b""),
        (info("hard", tarfile.LNKTYPE, "good/a.txt"), b""),
        (info("device", tarfile.CHRTYPE), b""),
        (info("big.bin"), b"y" * 5000),
        (info("last.txt"), b"last"),
    ]
    path.write_bytes(tar_bytes(members, mode))
    before = listing(tmp_path.parent)
    losses = Losses()
    found = list(read_members(path, losses, ArchiveLimits(max_member_bytes=1000)))
    assert [(member.name, member.data) for member in found] == [("good/a.txt", b"good"), ("last.txt", b"last")]
    assert losses.counts == {"unsafe_path": 2, "unsafe_link": 2, "special_member": 1, "too_large": 1}
    assert listing(tmp_path.parent) == before


def test_a_hostile_zip_writes_nothing_and_gives_its_good_members(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../escape.txt", "x")
        archive.writestr("C:\\windows\\x.txt", "x")
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("zeros.bin", b"\0" * 10_000_000)
        archive.writestr("good.txt", "good")
    losses = Losses()
    found = list(read_members(path, losses, ArchiveLimits(max_member_bytes=1 << 20)))
    assert [(member.name, member.data) for member in found] == [("good.txt", b"good")]
    assert losses.counts == {"unsafe_path": 2, "unsafe_link": 1, "too_large": 1}


def test_limits_of_members_and_of_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(tar_bytes([(info(f"{index}.txt"), b"z" * 1000) for index in range(20)]))
    losses = Losses()
    assert len(list(read_members(path, losses, ArchiveLimits(max_members=5)))) == 5
    assert losses.counts == {"too_many_members": 1}
    losses = Losses()
    assert len(list(read_members(path, losses, ArchiveLimits(max_total_bytes=3500)))) == 3
    assert losses.counts == {"decompression_bomb": 1}


def test_truncated_archives_give_what_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    whole = tar_bytes([(info(f"{index}.txt"), os.urandom(5000)) for index in range(20)])
    path.write_bytes(whole[: len(whole) // 2])
    losses = Losses()
    assert 5 < len(list(read_members(path, losses))) < 15
    assert losses.counts == {"damaged": 1}
    path.write_bytes(b"PK\x03\x04 not a zip")
    losses = Losses()
    assert list(read_members(path, losses)) == []
    assert losses.counts["damaged"] == 1


def test_names_and_headers() -> None:
    assert [safe_name(name) for name in ("a/b", "./a//b", "a/../b", "/a", "..", "c:/x", "a\\b", "")] == [
        "a/b", "a/b", None, None, None, None, "a/b", None,
    ]  # fmt: skip
    assert is_tar(tar_bytes([(info("a"), b"x")], "w")[:512])
    assert not is_tar(b"\\documentclass{article}".ljust(512))
    assert not is_tar(b"short")
