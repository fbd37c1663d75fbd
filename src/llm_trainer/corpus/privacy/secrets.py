"""Keys, tokens, passwords and private keys: what a service would accept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import regex

from llm_trainer.corpus.privacy.validators import entropy


@dataclass(frozen=True, slots=True)
class Found:
    """Something to replace: ``text[start:stop]``."""

    start: int
    stop: int


# (what has to be in the text for the pattern to be worth trying, the pattern). The shapes are those that the services
# document, or that they register for secret scanning.
_TOKENS: tuple[tuple[str, regex.Pattern[str]], ...] = tuple(
    (literal, regex.compile(r"(?<![A-Za-z0-9_-])" + pattern + r"(?![A-Za-z0-9_-])"))
    for literal, pattern in (
        ("AKIA", r"AKIA[0-9A-Z]{16}"),
        ("ASIA", r"ASIA[0-9A-Z]{16}"),
        ("ghp_", r"ghp_[A-Za-z0-9]{36,255}"),
        ("gho_", r"gho_[A-Za-z0-9]{36,255}"),
        ("ghu_", r"ghu_[A-Za-z0-9]{36,255}"),
        ("ghs_", r"ghs_[A-Za-z0-9]{36,255}"),
        ("ghr_", r"ghr_[A-Za-z0-9]{36,255}"),
        ("github_pat_", r"github_pat_[A-Za-z0-9_]{22,255}"),
        ("glpat-", r"glpat-[A-Za-z0-9_-]{20,64}"),
        ("xox", r"xox[abeoprs]-[A-Za-z0-9-]{10,255}"),
        ("AIza", r"AIza[0-9A-Za-z_-]{35}"),
        ("sk-", r"sk-(?:proj-|ant-|or-|svcacct-)?(?=[A-Za-z_-]{0,60}\d)[A-Za-z0-9_-]{20,255}"),
        ("k_live_", r"[prs]k_live_[A-Za-z0-9]{16,255}"),
        ("k_test_", r"[prs]k_test_[A-Za-z0-9]{16,255}"),
        ("hf_", r"hf_[A-Za-z0-9]{30,64}"),
        ("npm_", r"npm_[A-Za-z0-9]{36}"),
        ("pypi-", r"pypi-[A-Za-z0-9_-]{50,255}"),
        ("SG.", r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"),
        ("ya29.", r"ya29\.[A-Za-z0-9_-]{20,1024}"),
        ("hooks.slack.com/", r"(?:https://)?hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/]{20,120}"),
        ("dop_v1_", r"do[por]_v1_[a-f0-9]{64}"),
        ("shp", r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}"),
        ("AGE-SECRET-KEY-1", r"AGE-SECRET-KEY-1[A-Z0-9]{58}"),
        (":AA", r"\d{8,10}:AA[A-Za-z0-9_-]{33}"),
        ("eyJ", r"eyJ[A-Za-z0-9_-]{10,4096}\.eyJ[A-Za-z0-9_-]{10,4096}\.[A-Za-z0-9_-]{10,1024}"),
    )
)

_PEM_BEGIN = regex.compile(r"-----BEGIN ((?:[A-Z0-9]{2,12} ){0,3})PRIVATE KEY(?: BLOCK)?-----")
_PEM_BODY = regex.compile(r"(?:[\s\\nr]*+(?:[A-Za-z0-9+/=]{16,}|[A-Za-z-]+: [^\n]*))*+")
_PEM_END = regex.compile(r"-----END (?:[A-Z0-9]{2,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_PEM_CHARS = 20_000
"""Longest key: 16,384 bits of RSA take 13,000 characters."""

# What a client sends: the value decides here too, "Basic understanding" is no password.
_HEADER = regex.compile(
    r"(?i)\bauthorization[\"']?\s{0,3}[:=]\s{0,3}[\"']?(?:bearer|basic|token)\s{1,3}(?P<value>[A-Za-z0-9_+/=.~-]{12,4096})"
)
_BASE64_PAIR = regex.compile(r"[A-Za-z0-9+/]{12,}={0,2}\Z")

# What follows a name that says secret, in any assignment; the value decides.
_SECRET_NAMES = ("key", "secret", "token", "passw", "pwd", "credential")
_KEY_OF = regex.compile(r"(?:api|access|auth|private|secret|encryption|account|service|client|app)[_ -]?\Z")
_ASSIGNED = regex.compile(
    r"[\w-]{0,24}[\"']?\s{0,3}(?::=|=>|[:=])\s{0,3}[\"']?(?P<value>[A-Za-z0-9_+/=.~!@#$%^&*-]{12,200})"
)
_NOT_A_VALUE = regex.compile(
    r"(?i)your|example|change|placeholder|dummy|sample|insert|replace|xxx|\*\*\*|\.\.\.|123456|"
    r"^(?:[a-z]+[._-])+[a-z]+$|^[\w]+\.\w+(?:\.\w+)*$|^\$|%[sd]"
)

# The user may be missing (Redis) or an address of his own (mail); a token may stand alone (Git).
_CREDENTIALS = regex.compile(r"://(?P<value>[^\s/:\"'<>]{0,100}:[^\s/@\"'<>]{1,200})@(?=[\w\[])")
_TOKEN_USER = regex.compile(r"://(?P<value>[A-Za-z0-9_-]{16,255})@(?=\w)")


def find_tokens(text: str) -> Iterator[Found]:
    """Tokens whose shape names the service, and PEM blocks of private keys."""
    for literal, pattern in _TOKENS:
        if literal in text:
            yield from (Found(*match.span()) for match in pattern.finditer(text))
    if "PRIVATE KEY" in text:
        yield from _find_pem(text)


def _find_pem(text: str) -> Iterator[Found]:
    begins = [match.span() for match in _PEM_BEGIN.finditer(text)]
    ends = [match.span() for match in _PEM_END.finditer(text)] if begins else []
    at = 0
    for number, (start, stop) in enumerate(begins):
        # Up to its own end, however its lines are quoted, numbered or commented out.
        while at < len(ends) and ends[at][0] < stop:
            at += 1
        following = begins[number + 1][0] if number + 1 < len(begins) else len(text)
        if at < len(ends) and ends[at][0] < following and ends[at][0] - stop <= _PEM_CHARS:
            yield Found(start, ends[at][1])
            continue
        # Cut off: what still looks like a key. A header alone is a sentence about keys.
        body = _PEM_BODY.match(text, stop)
        if body and body.end() > stop + 16:
            yield Found(start, body.end())


def find_assigned(text: str) -> Iterator[Found]:
    """Values that are given to names such as ``api_key`` and ``password`` and look random enough to be real."""
    if not ("=" in text or ":" in text):
        return
    for match in _HEADER.finditer(text):
        value = match["value"].rstrip(".")
        if looks_random(value) or (_BASE64_PAIR.match(value) and entropy(value) >= 3.2 and not value.isalpha()):
            yield Found(match.start("value"), match.start("value") + len(value))
    # The one letter that becomes two in lower case would shift all places.
    lowered = text.replace("\u0130", "I").lower()
    for name in _SECRET_NAMES:
        at = lowered.find(name)
        while at >= 0:
            # A bare "key" is a dictionary's more often than a lock's.
            named = name != "key" or _KEY_OF.search(lowered, max(0, at - 12), at)
            match = _ASSIGNED.match(text, at) if named else None
            if match and looks_random(match["value"].rstrip(".,;")):
                start = match.start("value")
                yield Found(start, start + len(match["value"].rstrip(".,;")))
            at = lowered.find(name, at + len(name))


def looks_random(value: str) -> bool:
    """Whether a value could be a real secret: letters and digits, few repeats, not a name, path or placeholder."""
    if len(value) < 12 or _NOT_A_VALUE.search(value):
        return False
    mixed = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
    # Random hexadecimal of 32 has 3.6 bits a character on average, English words run together about 3.2.
    return mixed and entropy(value) >= 3.2


def find_url_credentials(text: str) -> Iterator[Found]:
    """``user:password`` in addresses."""
    if "://" in text and "@" in text:
        yield from (Found(*match.span("value")) for match in _CREDENTIALS.finditer(text))
        for match in _TOKEN_USER.finditer(text):
            if looks_random(match["value"]):
                yield Found(*match.span("value"))
