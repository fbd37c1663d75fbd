"""Pages straight from the web, by a list of their addresses: the last resort.

A crawl archive (``warc``) or a dump (``wikipedia``) holds the same pages, costs nobody's server anything and stays
what it is. What is fetched here is kept: every answer, also "not found" and "robots.txt says no", becomes a file in a
folder beside the list (``LIST.pages``), named by the hash of the address, and a second run reads those files and asks
no one. Only pages whose server did not answer are tried again, and those that the settings refused (a private address,
a page too large), when the settings change. To fetch anew, delete the folder.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from llm_trainer.common.errors import CorruptionError, DataError
from llm_trainer.common.files import write_bytes
from llm_trainer.common.hashing import hash_bytes
from llm_trainer.config.base import Int
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources.addresses import RefusedAddressError, UnreachableError, open_url, split_url
from llm_trainer.corpus.sources.html import HtmlOptions, charset_of, decode_page, page_document
from llm_trainer.corpus.sources.kinds import Kind, ReadRequest
from llm_trainer.corpus.sources.robots import ALLOW_ALL, ALLOW_NONE, MAX_BYTES, RobotsRules, parse_robots
from llm_trainer.corpus.sources.warc import domain_of
from llm_trainer.corpus.sources.warc_http import decode_body

_HTML = frozenset({"", "text/html", "application/xhtml+xml"})
_SLOWEST = 20
"""A page may take so many times the timeout; a server that sends a byte now and then would keep us for years."""

_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})


class WebOptions(HtmlOptions):
    """How pages are fetched."""

    user_agent: str = "llm-trainer-data"
    """The name in robots.txt that rules for us are under."""

    seconds_between_requests: float = 1.0
    """For one host; a longer ``Crawl-delay`` of the site wins."""

    max_page_bytes: Int = 8 << 20
    """Larger pages are lost with the reason ``too_large``."""

    timeout: float = 30.0
    """Seconds of silence after which a page is given up."""

    allow_private: bool = False
    """Fetch from private networks too."""

    pages: str | None = None
    """Folder of the pages that were fetched; beside the list when left out."""

    def contradictions(self) -> Iterable[str]:
        """A user agent that cannot stand in a header; times that are none."""
        if not (self.user_agent.isascii() and self.user_agent.isprintable() and self.user_agent.strip()):
            yield "user_agent: one line of ASCII letters and signs"
        if not self.timeout > 0:
            yield "timeout: more than 0 seconds"


@dataclass
class _Site:
    """One host: its rules, and when it was last asked."""

    rules: RobotsRules
    asked: float


@dataclass
class _Page:
    """An answer, as it is kept. ``reason`` is why it is no page, ``""`` for a page."""

    url: str
    reason: str = ""
    detail: str = ""
    content_type: str = ""
    date: str = ""
    body: bytes = b""

    def to_bytes(self) -> bytes:
        described = {key: value for key, value in vars(self).items() if key != "body"}
        return json.dumps(described).encode("ascii") + b"\n" + self.body

    @classmethod
    def from_bytes(cls, data: bytes) -> _Page:
        described, _, body = data.partition(b"\n")
        return cls(**json.loads(described), body=body)


@dataclass
class _Fetcher:
    options: WebOptions
    folder: Path
    sites: dict[str, _Site] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)  # sites that did not answer, and what was wrong

    def page(self, url: str) -> _Page:
        """The page from the folder, or from the web into the folder.

        Raises:
            UnreachableError: no answer; nothing is kept.
        """
        kept = self.folder / f"{hash_bytes(url.encode('utf-8'))}.page"
        if kept.exists():
            try:
                page = _Page.from_bytes(kept.read_bytes())
                if page.reason != "too_large" or page.detail == self._limit():
                    return page
            except (ValueError, TypeError):
                raise CorruptionError(f"{kept} is damaged", hint="delete it, and the page is fetched anew") from None
        page = self._fetch(url)
        if page.reason != "refused_address":  # nobody was asked, and settings change
            write_bytes(kept, page.to_bytes())
        return page

    def _limit(self) -> str:
        return f"more than {self.options.max_page_bytes} bytes"

    def _fetch(self, url: str) -> _Page:
        try:
            site = self._site(url)
            if not site.rules.allows(url):
                return _Page(url, "robots", "robots.txt asks programs to leave it alone")
            self._wait(site)
            return self._get(url)
        except RefusedAddressError as error:
            return _Page(url, "refused_address", error.message)

    def _get(self, url: str) -> _Page:
        status, final, headers, body = self._read(url, self.options.max_page_bytes)
        if status in _TEMPORARY:
            raise UnreachableError(f"{url} answers with status {status}")
        if final != url:
            site = self._site(final)  # a redirect must not lead round the rules
            if not site.rules.allows(final):
                return _Page(url, "robots", f"it leads to {final}, which robots.txt asks programs to leave alone")
        if not 200 <= status < 300:
            return _Page(url, "http_status", str(status))
        content_type = headers.get("content-type", "")
        mime = content_type.partition(";")[0].strip().lower()
        if mime not in _HTML and mime != "text/plain":
            return _Page(url, "not_html", mime)
        if len(body) > self.options.max_page_bytes:
            return _Page(url, "too_large", self._limit())
        coding = {"content-encoding": headers.get("content-encoding", "")}
        body, problem = decode_body(body, coding, self.options.max_page_bytes)
        detail = self._limit() if problem == "too_large" else ""
        return _Page(final, problem, detail, content_type, headers.get("date", ""), body)

    def _read(self, url: str, limit: int) -> tuple[int, str, dict[str, str], bytes]:
        agent = {"User-Agent": self.options.user_agent}
        pieces, total = [], 0
        deadline = time.monotonic() + _SLOWEST * self.options.timeout
        try:
            with open_url(
                url, headers=agent, allow_private=self.options.allow_private, timeout=self.options.timeout
            ) as response:
                while total <= limit and (block := response.read(min(1 << 16, limit + 1 - total))):
                    pieces.append(block)
                    total += len(block)
                    if time.monotonic() > deadline:
                        raise UnreachableError(f"{url} comes too slowly")
                announced = response.headers.get("content-length", "")
                if total <= limit and announced.isdecimal() and len(announced) < 19 and total < int(announced):
                    raise UnreachableError(f"{url} broke off after {total} of {announced} bytes")
                return response.status, response.url, response.headers, b"".join(pieces)
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(f"{url} broke off: {error}") from None

    def _site(self, url: str) -> _Site:
        scheme, host, port, _ = split_url(url)
        name = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        if name in self.silent:  # each page of a dead host would wait for it again
            raise UnreachableError(self.silent[name])
        if name not in self.sites:
            try:
                self.sites[name] = _Site(self._robots(f"{name}/robots.txt"), time.monotonic())
            except UnreachableError as error:
                self.silent[name] = error.message
                raise
        return self.sites[name]

    def _robots(self, url: str) -> RobotsRules:
        """As the standard wants it: no robots.txt allows everything, one that cannot be had now allows nothing."""
        status, _, _, body = self._read(url, MAX_BYTES)
        if 200 <= status < 300:
            return parse_robots(body[:MAX_BYTES].decode("utf-8", "replace"), self.options.user_agent)
        return ALLOW_ALL if 400 <= status < 500 and status != 429 else ALLOW_NONE

    def _wait(self, site: _Site) -> None:
        pause = max(self.options.seconds_between_requests, site.rules.delay or 0.0)
        remaining = site.asked + pause - time.monotonic()
        if remaining > 0:
            time.sleep(remaining)
        site.asked = time.monotonic()


def read_web(path: Path, request: ReadRequest, losses: Losses) -> Iterator[Document]:
    """The pages whose addresses a text file lists, one a line. Implements :data:`kinds.Read`.

    Reasons of losses: ``robots``, ``refused_address``, ``unreachable``, ``http_status``, ``not_html``,
    ``duplicate_url``, ``not_a_url``, and those of :func:`html.read_html`.

    Raises:
        DataError: the list cannot be read.
    """
    options = request.options if isinstance(request.options, WebOptions) else WebOptions()
    fetcher = _Fetcher(options, Path(options.pages) if options.pages else path.with_name(f"{path.name}.pages"))
    try:
        lines = path.read_text(encoding=request.encoding).split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list of addresses {path}: {error}") from None
    seen: set[str] = set()
    for number, line in enumerate(lines, start=1):
        url = line.removeprefix("\ufeff").partition("#")[0].strip()
        if not url:
            continue
        place = f"{path.name}:{number}"
        if url in seen:
            losses.add("duplicate_url", place, url)
            continue
        seen.add(url)
        if not url.lower().startswith(("http://", "https://")):
            losses.add("not_a_url", place, url[:200])
            continue
        try:
            page = fetcher.page(url)
        except UnreachableError as error:
            losses.add("unreachable", place, error.message)
            continue
        if page.reason:
            losses.add(page.reason, place, f"{url} {page.detail}".strip())
            continue
        document = _document(page, url, place, options, request.max_document_chars, losses)
        if document:
            yield document


def _document(
    page: _Page, url: str, place: str, options: WebOptions, max_chars: int, losses: Losses
) -> Document | None:
    metadata = {"url": page.url, "domain": domain_of(page.url)} | ({"date": page.date} if page.date else {})
    charset = charset_of(page.content_type)
    if page.content_type.lower().startswith("text/plain"):
        text = decode_page(page.body, charset).replace("\r\n", "\n").strip()
        if not text or len(text) > max_chars:
            losses.add("too_large" if text else "no_text", place, url)
            return None
        return Document(text, url, metadata=metadata)
    found = page_document(page.body, url, place, options, max_chars, losses, url=page.url, charset=charset)
    return Document(found.text, url, metadata={**metadata, **found.metadata}) if found else None


KIND_WEB = Kind(
    name="web",
    description="a text file of page addresses, fetched one by one and kept (obeys robots.txt, one request a second; "
    "a crawl archive or a dump of the site is the better way)",
    read=read_web,
    options=WebOptions,
)
