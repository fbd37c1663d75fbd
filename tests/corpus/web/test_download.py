"""Downloads go on where they were interrupted, never mix two versions of a file, and are whole or absent."""

from __future__ import annotations

import hashlib
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
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


@pytest.mark.parametrize("new", [b"new" * 1_000_000, BODY[::-1]])
@pytest.mark.covers("R185")
def test_a_server_that_has_not_heard_of_if_range_cannot_mix_two_files(site: Site, tmp_path: Path, new: bytes) -> None:
    url = site.add("/a.bin", BODY, break_after=[1_000_000])
    with pytest.raises(DataError, match="cannot be downloaded"):
        fetch(url, tmp_path, retries=0)
    site.add("/a.bin", new, etag='"two"', obeys_if_range=False)

    assert fetch(url, tmp_path).read_bytes() == new


@pytest.mark.parametrize(
    "headers",
    [
        {"content-length": "²"},
        {"content-length": "9" * 5000},
        {"content-range": "bytes 1000000-²/" + "9" * 5000},
        {"content-range": "bytes 1000000-1999999/1500000"},
        {"content-range": "nonsense"},
    ],
)
def test_a_server_that_lies_about_lengths_gives_the_file_or_an_error(
    site: Site, tmp_path: Path, headers: dict[str, str]
) -> None:
    body = BODY[:2_000_000]
    url = site.add("/a.bin", body, break_after=[1_000_000], headers=headers)
    digest = hashlib.sha256(body).hexdigest()
    try:
        assert fetch(url, tmp_path, checksum=digest, retries=2).read_bytes() == body
    except DataError:
        assert not (tmp_path / "a.bin").exists()


def test_what_came_before_a_connection_was_torn_is_kept(tmp_path: Path) -> None:
    """One that is torn, not closed, after each 300 KB: the block that was waited for must not be lost."""
    body = BODY[:2_000_000]
    listener = socket.create_server(("127.0.0.1", 0))
    starts: list[int] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            asked = connection.recv(65536).decode()
            start = int(asked.partition("bytes=")[2].partition("-")[0] or 0)
            starts.append(start)
            status = f"206 P\r\nContent-Range: bytes {start}-{len(body) - 1}/{len(body)}" if start else "200 OK"
            head = f'HTTP/1.1 {status}\r\nContent-Length: {len(body) - start}\r\nETag: "x"\r\n\r\n'
            connection.sendall(head.encode() + body[start : start + 300_000])
            time.sleep(0.2)
            if start + 300_000 < len(body):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

    threading.Thread(target=serve, daemon=True).start()
    try:
        path = fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/a.bin", tmp_path, retries=1)
        assert path.read_bytes() == body
        assert len(starts) == 7
    finally:
        listener.close()


@pytest.mark.covers("R185")
def test_of_several_who_want_a_file_one_fetches_it(site: Site, tmp_path: Path) -> None:
    url = site.add("/a.bin", BODY, etag=None)
    together = threading.Barrier(3)

    def want(_: int) -> bytes:
        together.wait()
        return fetch(url, tmp_path, progress=lambda *_: time.sleep(0.01)).read_bytes()

    with ThreadPoolExecutor(3) as pool:
        assert all(found == BODY for found in pool.map(want, range(3)))
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]
    assert site.asked("/a.bin") == 1


def test_a_long_name_in_other_letters_fits_the_file_system(site: Site, tmp_path: Path) -> None:
    path = fetch(site.add("/" + urllib.parse.quote("ж" * 200 + ".txt"), b"text"), tmp_path)
    assert path.name.endswith("ж.txt")


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


def test_a_list_names_no_files_of_this_machine_and_no_nonsense(site: Site, tmp_path: Path) -> None:
    url = site.add("/warc.paths", b"file:///etc/hostname\n")
    with pytest.raises(RefusedAddressError, match="not allowed"):
        segment_urls(url, allow_private=True)
    own = tmp_path / "warc.paths"
    own.write_bytes(b"file:///etc/hostname\n")
    assert segment_urls(own, allow_files=True) == ["file:///etc/hostname"]
    own.write_bytes(b"http://[half\n")
    with pytest.raises(DataError, match="is not a list of addresses"):
        segment_urls(own)
