"""Nothing is fetched from private networks, however the address is written and whoever leads there."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from llm_trainer.corpus.sources import addresses
from llm_trainer.corpus.sources.addresses import RefusedAddressError, UnreachableError, check_address, open_url

from .conftest import Site


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "2130706433", "0177.0.0.1", "0x7f.1", "127.1", "0.0.0.0", "10.1.2.3", "172.16.0.1",
        "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "[::1]", "[::]",
        "[fe80::1]", "[fc00::1]", "[ff02::1]", "[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]", "[2002:7f00:1::]",
        "[64:ff9b::7f00:1]", "[2001:db8::1]",
        "[fec0::1]", "[3fff::1]", "[64:ff9b:1::7f00:1]", "[::7f00:1]", "[4000::1]", "ⓛocalhost", "127。0。0。1",
    ],
)  # fmt: skip
@pytest.mark.covers("R180")
def test_private_and_reserved_addresses_are_refused(host: str) -> None:
    with pytest.raises(RefusedAddressError, match=r"private or reserved|not a URL"):
        check_address(f"http://{host}/x")


@pytest.mark.parametrize("host", ["8.8.8.8", "[2606:4700:4700::1111]"])
def test_public_addresses_pass(host: str) -> None:
    assert check_address(f"https://{host}/") == [host.strip("[]")]


@pytest.mark.parametrize("url", ["ftp://8.8.8.8/x", "file:///etc/passwd", "gopher://x", "//x", "http://", "http://[1"])
def test_only_the_web_is_asked(url: str) -> None:
    with pytest.raises(RefusedAddressError):
        check_address(url)


def test_passwords_in_addresses_are_refused() -> None:
    for url in ("http://me:secret@8.8.8.8/", "http://me:secret@8.8.8.8:x/", "http://me:secret@[1/"):
        with pytest.raises(RefusedAddressError, match="name and password") as raised:
            check_address(url)
        assert "secret" not in str(raised.value)


def _resolver(monkeypatch: pytest.MonkeyPatch, answers: list[list[str]]) -> list[str]:
    """Make ``public.example`` resolve to each of the answers in turn; returns the log of names asked."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, *rest: Any, **more: Any) -> list[Any]:
        asked.append(host)
        found = answers[min(len(asked) - 1, len(answers) - 1)] if host == "public.example" else [host]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(addresses.socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.covers("R180")
def test_a_name_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _resolver(monkeypatch, [["8.8.8.8", "10.0.0.1"]])
    with pytest.raises(RefusedAddressError, match=r"its host is 10\.0\.0\.1"):
        check_address("http://public.example/")


@pytest.mark.covers("R180")
def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _resolver(monkeypatch, [["93.184.216.34"], ["127.0.0.1"]])  # DNS rebinding
    reached: list[str] = []

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        reached.append(address[0])
        raise ConnectionRefusedError("no")

    monkeypatch.setattr(addresses.socket, "create_connection", connect)
    with pytest.raises(UnreachableError):
        open_url("http://public.example/")
    assert reached == ["93.184.216.34"]
    assert asked == ["public.example"]


@pytest.mark.covers("R180")
def test_a_redirect_into_a_private_network_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.add("/go", location="http://169.254.169.254/latest/meta-data/")
    port = int(site.address.rpartition(":")[2])
    real = addresses.check_address

    def first_is_public(url: str, *, allow_private: bool = False) -> list[str]:
        return ["127.0.0.1"] if "public.example" in url else real(url, allow_private=allow_private)

    monkeypatch.setattr(addresses, "check_address", first_is_public)
    with pytest.raises(RefusedAddressError, match=r"169\.254\.169\.254"):
        open_url(f"http://public.example:{port}/go")


def test_a_circle_of_redirects_ends(site: Site) -> None:
    url = site.add("/a", location="/b")
    site.add("/b", location="/a")
    with pytest.raises(UnreachableError, match="without end"):
        open_url(url, allow_private=True)


def test_a_redirect_is_followed(site: Site) -> None:
    url = site.add("/a", location="/b")
    site.add("/b", "there")
    with open_url(url, allow_private=True) as response:
        assert response.read(100) == b"there"
        assert response.url.endswith("/b")


def test_a_host_in_other_letters_is_asked_under_its_name_in_dns(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(site.address.rpartition(":")[2])
    monkeypatch.setattr(addresses, "check_address", lambda *_, **__: ["127.0.0.1"])
    site.add("/a", "there")
    with open_url(f"http://пример.bg:{port}/a") as response:
        assert response.read(100) == b"there"
    assert addresses.split_url("http://пример.bg/")[1] == "xn--e1afmkfd.bg"
    with pytest.raises(RefusedAddressError, match="not a URL"):
        addresses.split_url("http://" + "я" * 70 + ".bg/")


@pytest.mark.parametrize(
    "target", ["http://[", "http://x:99999/", "file:///etc/passwd", "gopher://x/", "http://me:pw@x/"]
)
def test_a_redirect_to_nowhere_is_refused(site: Site, target: str) -> None:
    with pytest.raises(RefusedAddressError):
        open_url(site.add("/a", location=target), allow_private=True)


def test_a_redirect_in_utf8_is_followed(site: Site) -> None:
    url = site.add("/a", location="/ж".encode().decode("latin-1"))
    site.add("/%D0%B6", "there")
    with open_url(url, allow_private=True) as response:
        assert response.read(100) == b"there"
