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
        ("eyJ", r"eyJ[A-Za-z0-9_-]{10,4096}\.eyJ[A-Za-z0-9_-]{10,4096}\.[A-Za-z0-9_-]{10,1024}"),
    )
)

_PEM_BEGIN = regex.compile(r"-----BEGIN ((?:[A-Z0-9]{2,12} ){0,3})PRIVATE KEY(?: BLOCK)?-----")
_PEM_BODY = regex.compile(r"(?:[\s\\nr]*+(?:[A-Za-z0-9+/=]{16,}|[A-Za-z-]+: [^\n]*))*+")
_PEM_END = regex.compile(r"\s*+-----END [A-Z0-9 ]{0,50}PRIVATE KEY(?: BLOCK)?-----")

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

_CREDENTIALS = regex.compile(r"://(?P<value>[^\s/:@\"'<>]{1,100}:[^\s/@\"'<>]{1,200})@(?=[\w\[])")


def find_tokens(text: str) -> Iterator[Found]:
    """Tokens whose shape names the service, and PEM blocks of private keys."""
    for literal, pattern in _TOKENS:
        if literal in text:
            yield from (Found(*match.span()) for match in pattern.finditer(text))
    if "PRIVATE KEY" in text:
        for begin in _PEM_BEGIN.finditer(text):
            body = _PEM_BODY.match(text, begin.end())
            stop = body.end() if body else begin.end()
            end = _PEM_END.match(text, stop)
            # A header alone is a sentence about keys; it is a key when something follows.
            if end or stop > begin.end() + 16:
                yield Found(begin.start(), end.end() if end else stop)


def find_assigned(text: str) -> Iterator[Found]:
    """Values that are given to names such as ``api_key`` and ``password`` and look random enough to be real."""
    if not ("=" in text or ":" in text):
        return
    lowered = text.lower()
    if len(lowered) != len(text):  # a few capitals become two letters, and the places would shift
        lowered = text
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
