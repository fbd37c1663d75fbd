"""Pages from the web: asked for politely, kept, and read again from the disk."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from llm_trainer.common.errors import ConfigError, DataError
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources import fetch
from llm_trainer.corpus.sources.fetch import KIND_WEB, WebOptions
from llm_trainer.corpus.sources.kinds import ReadRequest
from llm_trainer.corpus.sources.robots import parse_robots

from .conftest import Site

PAGE = (
    "<html><head><title>T</title></head><body><p>"
    + "Words that somebody wrote for readers. " * 10
    + "</p></body></html>"
)


def read(path: Path, losses: Losses | None = None, **options: object) -> list[Document]:
    values = {"allow_private": True, "seconds_between_requests": 0.0, **options}
    request = ReadRequest(options=WebOptions(**values))  # type: ignore[arg-type]
    return list(KIND_WEB.read(path, request, losses if losses is not None else Losses()))


@pytest.mark.covers("R180")
def test_pages_are_fetched_once_and_then_read_from_the_disk(site: Site, tmp_path: Path) -> None:
    urls = [site.add("/a", PAGE), site.add("/b", "plain text", content_type="text/plain"), f"{site.address}/none"]
    path = tmp_path / "pages.txt"
    path.write_text("# my pages\n" + "\n".join(urls) + "\n\nnonsense\n" + urls[0], encoding="utf-8")
    losses, again = Losses(), Losses()

    documents = read(path, losses)
    site.add("/a", "<p>changed</p>")
    requests = len(site.log)

    assert [document.id for document in documents] == urls[:2]
    assert documents[0].metadata["title"] == "T"
    assert documents[1].text == "plain text"
    assert losses.counts == {"http_status": 1, "not_a_url": 1, "duplicate_url": 1}
    assert read(path, again) == documents and again == losses
    assert len(site.log) == requests, "the second run asks no one"


@pytest.mark.covers("R180")
def test_robots_txt_is_obeyed_also_behind_a_redirect(site: Site, tmp_path: Path) -> None:
    site.add("/robots.txt", "User-agent: llm-trainer-data\nDisallow: /private\n\nUser-agent: *\nDisallow: /")
    path = tmp_path / "pages.txt"
    urls = [site.add("/a", PAGE), site.add("/private/x", PAGE), site.add("/go", location="/private/x")]
    path.write_text("\n".join(urls), encoding="utf-8")
    losses = Losses()

    assert [document.id for document in read(path, losses)] == urls[:1]
    assert losses.counts == {"robots": 2}
    assert site.asked("/robots.txt") == 1


def test_without_an_answer_about_robots_nothing_is_read(site: Site, tmp_path: Path) -> None:
    site.add("/robots.txt", status=[500] * 9)
    path = tmp_path / "pages.txt"
    path.write_text(site.add("/a", PAGE), encoding="utf-8")
    losses = Losses()
    assert read(path, losses) == []
    assert losses.counts == {"robots": 1}


def test_one_host_is_asked_slowly(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "pages.txt"
    path.write_text("\n".join(site.add(f"/{number}", PAGE) for number in range(3)), encoding="utf-8")
    begun = time.monotonic()
    assert len(read(path, seconds_between_requests=0.15)) == 3
    assert time.monotonic() - begun >= 0.45


@pytest.mark.covers("R180")
def test_pages_of_private_networks_are_not_fetched(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "pages.txt"
    path.write_text(site.add("/a", PAGE), encoding="utf-8")
    losses = Losses()
    assert read(path, losses, allow_private=False) == []
    assert losses.counts == {"refused_address": 1}
    assert site.log == []


def test_what_is_too_large_or_no_page_or_not_there_is_counted(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "pages.txt"
    urls = [site.add("/a", PAGE * 100), site.add("/b", b"\x89PNG", content_type="image/png"), "http://127.0.0.1:1/x"]
    path.write_text("\n".join([*urls, site.add("/busy", PAGE, status=[503])]), encoding="utf-8")
    losses = Losses()
    assert read(path, losses, max_page_bytes=10_000) == []
    assert losses.counts == {"too_large": 1, "not_html": 1, "unreachable": 2}
    assert [document.id for document in read(path, max_page_bytes=10_000)] == [f"{site.address}/busy"], "tried again"


def test_what_the_settings_refused_is_asked_for_when_they_change(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "pages.txt"
    path.write_text(site.add("/a", PAGE), encoding="utf-8")
    assert read(path, allow_private=False) == []
    assert read(path, max_page_bytes=100) == []
    requests = len(site.log)
    assert read(path, max_page_bytes=100) == []
    assert len(site.log) == requests, "with the same settings no one is asked"
    assert len(read(path)) == 1


def test_lists_as_people_write_them(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "pages.txt"
    urls = [site.add("/a", PAGE), site.add("/b", PAGE).replace("http:", "HTTP:")]
    path.write_text(f"\ufeff{urls[0]} # the first\r\n{urls[1]}\r\nhttp://[half\n", encoding="utf-8")
    losses = Losses()
    assert [document.id for document in read(path, losses)] == urls
    assert losses.counts == {"refused_address": 1}


def test_a_dead_host_is_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pages.txt"
    path.write_text("\n".join(f"http://127.0.0.1:1/{number}" for number in range(50)), encoding="utf-8")
    asked: list[str] = []
    real = fetch.open_url
    monkeypatch.setattr(fetch, "open_url", lambda url, **more: asked.append(url) or real(url, **more))
    losses = Losses()
    assert read(path, losses) == []
    assert losses.counts == {"unreachable": 50}
    assert asked == ["http://127.0.0.1:1/robots.txt"]


def test_half_a_page_is_none(site: Site, tmp_path: Path) -> None:
    site.add("/robots.txt", "")
    path = tmp_path / "pages.txt"
    path.write_text(site.add("/a", PAGE, break_after=[300]), encoding="utf-8")
    losses = Losses()
    assert read(path, losses) == []
    assert losses.counts == {"unreachable": 1}
    assert len(read(path)) == 1, "tried again"


@pytest.mark.parametrize("value", ["a\r\nX: y", "бот", "", "\n"])
def test_a_user_agent_that_is_no_header_is_an_error_at_once(value: str) -> None:
    with pytest.raises(ConfigError, match="user_agent"):
        WebOptions.from_dict({"user_agent": value})


def test_rules_for_a_name_with_a_version() -> None:
    text = "User-agent: MyBot/2.0\nDisallow: /\n\nUser-agent: *\nAllow: /"
    assert not parse_robots(text, "mybot/1.0 (+https://x.org)").allows("https://x.org/a")


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the list"):
        read(tmp_path / "gone.txt")


def test_the_description_names_the_better_way() -> None:
    assert "better way" in KIND_WEB.description
    assert KIND_WEB.suffixes == (), "no file in a folder makes us ask the web by itself"


@pytest.mark.parametrize(
    ("rule", "path", "allowed"),
    [
        ("Disallow: /a", "/a/b", False),
        ("Disallow: /a", "/b", True),
        ("Disallow:", "/a", True),
        ("Disallow: /\nAllow: /a", "/a", True),
        ("Allow: /a\nDisallow: /a/b", "/a/b/c", False),
        ("Allow: /a\nDisallow: /a", "/a", True),
        ("Disallow: /*.pdf$", "/x/y.pdf", False),
        ("Disallow: /*.pdf$", "/x/y.pdf?z", True),
        ("Disallow: /*?", "/x?y", False),
        ("Disallow: /*/c*d", "/a/b/c1d", False),
        ("Disallow: /%7Eme", "/~me/x", False),
        ("Disallow: /ü", "/%C3%BC", False),
        ("disallow : /a # why", "/a", False),
    ],
)
def test_rules_of_robots_txt(rule: str, path: str, allowed: bool) -> None:
    rules = parse_robots(f"User-Agent: *\n{rule}\n", "us")
    assert rules.allows(f"https://x.org{path}") is allowed


def test_groups_of_robots_txt() -> None:
    text = (
        "User-agent: a\nUser-agent: US\nDisallow: /x\nCrawl-delay: 2.5\n\n"
        "User-agent: *\nDisallow: /\nCrawl-delay: 1e9\n"
    )
    assert parse_robots(text, "us").allows("https://x.org/y")
    assert not parse_robots(text, "us").allows("https://x.org/x")
    assert parse_robots(text, "us").delay == 2.5
    assert not parse_robots(text, "other").allows("https://x.org/y")
    assert parse_robots(text, "other").delay == 300
    assert parse_robots("\0nonsense\n:::\nCrawl-delay: x", "us").allows("https://x.org/")


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    rules = parse_robots("User-agent: *\nDisallow: /" + "*a" * 10_000 + "$", "us")
    assert rules.allows("https://x.org/" + "a" * 5000)
