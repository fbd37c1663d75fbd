"""Which addresses of the internet may be asked, and a connection to exactly the address that was checked.

A list of URLs can come from anyone, and the machine that reads it may stand inside a network whose routers, cloud
metadata and databases trust it. So a host is resolved once, every address it resolves to is checked, and the
connection is made to one of those, not to the name again: a name that answers differently the second time (DNS
rebinding) gains nothing. Redirects are followed here, each checked like the first address. ``http://2130706433`` and
``http://0177.1`` are spellings of 127.0.0.1; the resolver reads them, and its answer is what is checked. Proxies from
the environment are not used: behind one, nobody could say which address is asked.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

from llm_trainer.common.errors import DataError

USER_AGENT = "llm-trainer-data (reads pages for training text; obeys robots.txt)"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# All of IPv6 that has been given to the internet, and the stretch of it that is for examples
# (https://www.iana.org/assignments/ipv6-unicast-address-assignments, RFC 9637). fec0::/10, the private addresses of
# 1998, passes for public with ``ipaddress``.
_IPV6_INTERNET = ipaddress.ip_network("2000::/3")
_IPV6_EXAMPLES = ipaddress.ip_network("3fff::/20")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class RefusedAddressError(DataError):
    """An address that is not asked: private, or not of the web."""


class UnreachableError(DataError):
    """A host that cannot be found or does not answer."""


class UnknownHostError(UnreachableError):
    """A host's name that has no address, or no network to ask in."""


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet: not private, loopback, link-local, multicast or reserved.

    IPv6 addresses that carry an IPv4 address (mapped, 6to4, Teredo, NAT64) are judged by that one.
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
        if address not in _IPV6_INTERNET or address in _IPV6_EXAMPLES:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def check_address(url: str, *, allow_private: bool = False) -> list[str]:
    """Refuse a URL that is not ``http`` or ``https``, or whose host is not on the public internet.

    Args:
        url: what somebody wants to read.
        allow_private: accept hosts of private networks (an intranet; tests).

    Returns:
        The numeric addresses of the host, in the order in which to try them.

    Raises:
        RefusedAddressError: see above; also when only one of several addresses is private.
        UnknownHostError: the host's name is not known.
    """
    _, host, port, _ = split_url(url)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UnknownHostError(
            f"the host of {url} is not known: {reason}", hint="is the address right, and the network there?"
        ) from None
    addresses = list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))
    for address in addresses:
        if not allow_private and not is_public(ipaddress.ip_address(address)):
            raise RefusedAddressError(
                f"{url} is not read: its host is {address}, an address of a private or reserved network",
                hint="if it is meant (an intranet), allow private addresses for this source",
            )
    return addresses


def split_url(url: str) -> tuple[str, str, int, str]:
    """``(scheme, host, port, path with query)`` of an http or https URL; the host in the letters of DNS (IDNA).

    Raises:
        RefusedAddressError: it is none, has no host, or holds a name and password.
    """
    if "@" in url.partition("//")[2].partition("/")[0]:
        raise RefusedAddressError("a URL must not hold a name and password; they would end up in reports")
    try:
        parts = urllib.parse.urlsplit(url.strip())
        host, port = parts.hostname, parts.port
        host = host if host is None or host.isascii() else host.encode("idna").decode("ascii")
    except ValueError as error:
        raise RefusedAddressError(f"{url!r} is not a URL: {error}") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise RefusedAddressError(f"{url!r} is not an http:// or https:// address")
    if parts.username or parts.password:
        raise RefusedAddressError("a URL must not hold a name and password; they would end up in reports")
    path = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = f"?{urllib.parse.quote(parts.query, safe='/%:@!$&()*+,;=~-._?')}" if parts.query else ""
    return parts.scheme, host, port or (443 if parts.scheme == "https" else 80), path + query


@dataclass
class Response:
    """An open answer; use it in a ``with`` block.

    Attributes:
        url: where it came from, after redirects.
        status: HTTP status.
        headers: lower-case names.
    """

    url: str
    status: int
    headers: dict[str, str]
    _stream: http.client.HTTPResponse
    _connection: http.client.HTTPConnection

    def read(self, count: int) -> bytes:
        """Up to ``count`` bytes, as soon as there are some; ``b""`` at the end.

        It does not wait until there are ``count``: what has come would be lost when the connection breaks.

        Raises:
            OSError, http.client.HTTPException: the connection broke.
        """
        return self._stream.read1(count)

    def __enter__(self) -> Response:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        self._connection.close()


def open_url(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    allow_private: bool = False,
    timeout: float = 60.0,
    max_redirects: int = 5,
) -> Response:
    """Ask for a page or file; every address on the way is checked.

    Args:
        url: http or https.
        headers: sent besides the user agent.
        allow_private: as :func:`check_address`.
        timeout: seconds without an answer after which the connection is given up.
        max_redirects: how many are followed.

    Raises:
        RefusedAddressError: this address, or one it leads to, is refused.
        UnreachableError: no answer, or too many redirects.
    """
    first = url
    for _ in range(max_redirects + 1):
        response = _ask(url, dict(headers or {}), allow_private, timeout)
        target = response.headers.get("location")
        if response.status not in _REDIRECTS or not target:
            return response
        with response:
            url = _join(response.url, target)
    raise UnreachableError(f"{first} leads from one address to the next without end")


def _join(url: str, target: str) -> str:
    """Where a redirect leads. Headers are read as Latin-1, but servers write UTF-8."""
    with contextlib.suppress(UnicodeError):  # else it is Latin-1
        target = target.encode("latin-1").decode("utf-8")
    try:
        return urllib.parse.urljoin(url, target)
    except ValueError as error:
        raise RefusedAddressError(f"{url} leads to {target[:200]!r}, which is not a URL: {error}") from None


def _ask(url: str, headers: dict[str, str], allow_private: bool, timeout: float) -> Response:
    scheme, host, port, path = split_url(url)
    failure: Exception | None = None
    for address in check_address(url, allow_private=allow_private):
        connection = _Connection(scheme, host, address, port, timeout)
        shown = f"[{host}]" if ":" in host else host
        usual = {"http": 80, "https": 443}[scheme]
        asked = {
            "Host": shown if port == usual else f"{shown}:{port}",
            "User-Agent": USER_AGENT,
            "Accept-Encoding": "identity",
            **headers,
        }
        try:
            connection.request("GET", path, headers=asked)
            stream = connection.getresponse()
        except ssl.SSLCertVerificationError as error:
            connection.close()
            raise RefusedAddressError(f"the certificate of {url} is not valid: {error.verify_message}") from None
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            failure = error
            continue
        answered = {name.lower(): value for name, value in stream.getheaders()}
        return Response(url, stream.status, answered, stream, connection)
    raise UnreachableError(f"{url} does not answer: {failure}", hint="try again later") from None


class _Connection(http.client.HTTPConnection):
    """A connection to a numeric address; certificates are checked against the name."""

    def __init__(self, scheme: str, host: str, address: str, port: int, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout)
        self._address = address
        self._context = ssl.create_default_context() if scheme == "https" else None

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), self.timeout)
        if self._context is not None:
            self.sock = self._context.wrap_socket(self.sock, server_hostname=self.host)
