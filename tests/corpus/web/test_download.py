"""Downloads go on where they were interrupted, never mix two versions of a file, and are whole or absent."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from llm_trainer.common.errors import CorruptionError, DataError, UserError
from llm_trainer.corpus.sources import download as module
from llm_trainer.corpus.sources.addresses import RefusedAddressError
from llm_trainer.corpus.sources.download import download, segment_urls

from .conftest import Site

BODY = bytes(range(256)) * 20_000  # 5 MB


def fetch(url: str, folder: Path, **more: object) -> Path:
    return download(url, folder, allow_private=True, backoff=0.01, **more)  # type: ignore[arg-type]


@pytest.mark.covers("R185")
def test_a_download_that_breaks_off_twice_is_resumed_and_not_started_again(site: Site, tmp_path: Path) -> None:
    url = site.add("/a.bin", BODY, break_after=[3_000_000, 1_500_000])

    path = fetch(url, tmp_path, checksum=f"sha256:{hashlib.sha256(BODY).hexdigest()}", expected_bytes=len(BODY))

    assert path.read_bytes() == BODY
    assert [wanted for _, wanted in site.log] == [None, "bytes=3000000-", "bytes=4500000-"]
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"], "nothing but the file is left"


@pytest.mark.covers("R185")
def test_a_killed_download_goes_on_behind_what_it_had(site: Site, tmp_path: Path) -> None:
    url = site.add("/a.bin", BODY)
    script = (
        "import sys, time\n"
        "from llm_trainer.corpus.sources.download import download\n"
        "def slow(there, total):\n    print(there, flush=True)\n    time.sleep(60)\n"
        f"download({url!r}, {str(tmp_path)!r}, allow_private=True, progress=slow)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    there = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "a.bin.part").stat().st_size == there
    assert not (tmp_path / "a.bin").exists()

    assert fetch(url, tmp_path).read_bytes() == BODY
    assert site.log[-1] == ("/a.bin", f"bytes={there}-")


@pytest.mark.covers("R185")
def test_a_file_that_changed_in_between_is_fetched_from_its_start(site: Site, tmp_path: Path) -> None:
    url = site.add("/a.bin", BODY, break_after=[1_000_000])
    with pytest.raises(DataError, match="cannot be downloaded"):
        fetch(url, tmp_path, retries=0)
    new = b"new" * 1_000_000
    site.add("/a.bin", new, etag='"two"')

    assert fetch(url, tmp_path).read_bytes() == new


def test_without_a_version_to_compare_the_rest_is_not_glued_on(site: Site, tmp_path: Path) -> None:
    url = site.add("/a.bin", BODY, etag=None, break_after=[1_000_000])

    assert fetch(url, tmp_path).read_bytes() == BODY
    assert [wanted for _, wanted in site.log] == [None, None]


@pytest.mark.covers("R185")
def test_a_wrong_checksum_leaves_no_file(site: Site, tmp_path: Path) -> None:
    url = site.add("/a.bin", BODY)

    with pytest.raises(CorruptionError, match=r"its md5 is .*, not 0000"):
        fetch(url, tmp_path, checksum="md5:" + "0" * 32)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_first_half_is_noticed_and_everything_fetched_again(site: Site, tmp_path: Path) -> None:
    url = site.add("/a.bin", BODY, break_after=[1_000_000])
    with pytest.raises(DataError):
        fetch(url, tmp_path, retries=0)
    with (tmp_path / "a.bin.part").open("r+b") as part:
        part.write(b"garbage")

    assert fetch(url, tmp_path, checksum=hashlib.sha1(BODY).hexdigest()).read_bytes() == BODY


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(site: Site, tmp_path: Path) -> None:
    url = site.add("/a.bin", b"text", status=[503, 429])
    assert fetch(url, tmp_path).read_bytes() == b"text"

    with pytest.raises(DataError, match=r"status 404 \(Not Found\)"):
        fetch(f"{site.address}/none.bin", tmp_path)
    assert site.asked("/none.bin") == 1


def test_a_part_that_is_whole_already_only_gets_its_name(site: Site, tmp_path: Path) -> None:
    url = site.add("/a.bin", BODY, break_after=[len(BODY)])
    fetch(url, tmp_path)
    (tmp_path / "a.bin").rename(tmp_path / "a.bin.part")

    assert fetch(url, tmp_path, checksum=hashlib.sha256(BODY).hexdigest()).read_bytes() == BODY
    assert site.log[-1] == ("/a.bin", f"bytes={len(BODY)}-")


def test_what_is_there_is_not_asked_for_again(site: Site, tmp_path: Path) -> None:
    url = site.add("/a.bin", BODY)
    fetch(url, tmp_path)
    fetch(url, tmp_path)
    assert site.asked("/a.bin") == 1

    site.add("/a.bin", b"newer")
    assert fetch(url, tmp_path, expected_bytes=5).read_bytes() == b"newer"


def test_a_length_that_is_not_the_expected_one_is_refused_before_it_is_fetched(site: Site, tmp_path: Path) -> None:
    with pytest.raises(CorruptionError, match="has 5120000 bytes, not 10"):
        fetch(site.add("/a.bin", BODY), tmp_path, expected_bytes=10)


def test_a_full_disk_is_said_before_the_download(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"not enough disk space for a\.bin: 4\.9 MB needed"):
        fetch(site.add("/a.bin", BODY), tmp_path)


def test_names_from_the_web_stay_inside_the_folder(site: Site, tmp_path: Path) -> None:
    url = site.add("/x/%2e%2e%2f%2e%2e%2fetc%2fpasswd", b"text")
    path = fetch(url, tmp_path / "in")
    assert path.parent == tmp_path / "in"
    assert path.name == "_.._etc_passwd"


def test_files_of_this_machine_only_where_allowed(tmp_path: Path) -> None:
    file = tmp_path / "a b.txt"
    file.write_text("text", encoding="utf-8")
    with pytest.raises(RefusedAddressError, match="not allowed"):
        download(file.as_uri(), tmp_path)
    assert download(file.as_uri(), tmp_path / "other", allow_files=True) == file
    with pytest.raises(RefusedAddressError, match="another machine"):
        download("file://server/share/x", tmp_path, allow_files=True)


def test_a_checksum_that_is_none_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a checksum"):
        download("https://example.org/x", tmp_path, checksum="sha256:abc")


def test_no_network_is_said_at_once(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(DataError, match="is not known"):
        download("http://does-not-exist.invalid/x", tmp_path)
    assert time.monotonic() - begun < 15


@pytest.mark.covers("R185")
def test_progress_is_told(site: Site, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    fetch(site.add("/a.bin", BODY), tmp_path, progress=lambda there, total: told.append((there, total)))
    assert told[-1] == (len(BODY), len(BODY))
    assert [there for there, _ in told] == sorted(there for there, _ in told)


@pytest.mark.covers("R171")
def test_lists_of_segments(site: Site, tmp_path: Path) -> None:
    import gzip

    lines = b"crawl-data/CC-MAIN-2024-22/a.warc.gz\n\nhttps://example.org/b.warc.gz\r\n"
    expected = [f"{module.COMMON_CRAWL}crawl-data/CC-MAIN-2024-22/a.warc.gz", "https://example.org/b.warc.gz"]
    file = tmp_path / "warc.paths.gz"
    file.write_bytes(gzip.compress(lines))
    assert segment_urls(file) == expected
    assert segment_urls(site.add("/warc.paths.gz", gzip.compress(lines)), allow_private=True) == expected
    assert segment_urls(file, base="http://mirror/cc/")[0] == "http://mirror/cc/crawl-data/CC-MAIN-2024-22/a.warc.gz"

    file.write_bytes(gzip.compress(lines)[:-12])
    with pytest.raises(DataError, match="is not a list of addresses"):
        segment_urls(file)
