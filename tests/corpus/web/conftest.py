"""A small web server that can resume, break off, change its mind, redirect, and count what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class File:
    body: bytes
    etag: str | None = '"one"'
    content_type: str = "text/html; charset=utf-8"
    break_after: list[int] = field(default_factory=list)
    """Bytes after which the connection ends, for the first requests."""
    status: list[int] = field(default_factory=list)
    """What the first requests are answered with instead."""
    location: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    """Sent instead of the true ones; lower-case names."""
    obeys_if_range: bool = True


class Site:
    """Files by path, and the log of requests as ``(path, Range header)``."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.files: dict[str, File] = {}
        self.log: list[tuple[str, str | None]] = []

    def add(self, path: str, body: bytes | str = b"", **more: object) -> str:
        data = body.encode() if isinstance(body, str) else body
        self.files[path] = File(data, **more)  # type: ignore[arg-type]
        return self.address + path

    def asked(self, path: str) -> int:
        return sum(1 for asked, _ in self.log if asked == path)


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        instead: dict[str, str] = {}

        def send_header(self, keyword: str, value: str) -> None:
            super().send_header(keyword, self.instead.get(keyword.lower(), value))

        def do_GET(self) -> None:
            site.log.append((self.path, self.headers.get("Range")))
            file = site.files.get(self.path)
            if file is None:
                self.send_error(404)
                return
            self.instead = file.headers
            if file.location:
                self.send_response(302)
                self.send_header("Location", file.location)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if file.status:
                self.send_response(file.status.pop(0))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = 0
            wanted = self.headers.get("Range")
            if wanted and (not file.obeys_if_range or self.headers.get("If-Range", file.etag) == file.etag):
                start = int(wanted.removeprefix("bytes=").partition("-")[0])
                if start >= len(file.body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(file.body)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(file.body) - 1}/{len(file.body)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(file.body) - start))
            self.send_header("Content-Type", file.content_type)
            if file.etag:
                self.send_header("ETag", file.etag)
            self.end_headers()
            body = file.body[start:]
            if file.break_after:
                body = body[: file.break_after.pop(0)]
                self.close_connection = True
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def site() -> Iterator[Site]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    site = Site(f"http://127.0.0.1:{server.server_address[1]}")
    server.RequestHandlerClass = _handler(site)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield site
    server.shutdown()
    server.server_close()
