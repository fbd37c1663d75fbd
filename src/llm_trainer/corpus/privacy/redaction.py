"""Replace personal data and secrets in texts by placeholders.

Regular expressions with validators find what has a shape: they miss names, street addresses and whatever is written in
words, so a redacted text is not an anonymous one. Redaction belongs before deduplication, so that two copies of a page
that differ in an address become equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

from pydantic import Field

from llm_trainer.config.base import Settings
from llm_trainer.corpus.privacy import patterns, secrets
from llm_trainer.corpus.privacy.secrets import Found

Kind: TypeAlias = Literal["key", "credentials", "email", "iban", "card", "ssn", "ip", "phone"]

KINDS: tuple[Kind, ...] = ("key", "credentials", "email", "iban", "card", "ssn", "ip", "phone")
"""All kinds, in the order in which they are looked for: the ones with the surest shape first."""

# Values that are reserved for documentation, so that they are nobody's: RFC 2606, RFC 5737, the North American block
# of fictional numbers, a number from the never issued range, and the test numbers of card and bank associations.
SAFE_VALUES: dict[Kind, str] = {
    "key": "REDACTED_KEY",
    "credentials": "user:***",
    "email": "email@example.com",
    "iban": "GB00TEST00000000000000",
    "card": "0000 0000 0000 0000",
    "ssn": "000-00-0000",
    "ip": "192.0.2.1",
    "phone": "555-0100",
}


class Redaction(Settings):
    """What is replaced, and by what.

    ``Redaction().redact(text, counts)`` is idempotent, and adds ``"redaction.<kind>"`` to the counts.
    """

    kinds: list[Kind] = Field(default=list(KINDS))
    """Which kinds to replace."""
    placeholders: Literal["names", "safe_values"] = "names"
    """``names`` writes ``<EMAIL>``, ``safe_values`` a value of the same form that is reserved for documentation."""
    custom: dict[Kind, str] = Field(default={})
    """Placeholders of one's own by kind."""

    def contradictions(self) -> Iterable[str]:
        """Placeholders for kinds that are not replaced, and placeholders that would be replaced again."""
        for kind, value in self.custom.items():
            if kind not in self.kinds:
                yield f"custom: {kind!r} is not among the kinds to replace"
            elif any(_FINDERS[other](value) for other in self.kinds):
                yield f"custom: {value!r} would itself be taken for personal data"

    def placeholder(self, kind: Kind) -> str:
        """What is written in place of a kind."""
        if kind in self.custom:
            return self.custom[kind]
        return SAFE_VALUES[kind] if self.placeholders == "safe_values" else f"<{kind.upper()}>"

    def redact(self, text: str, counts: Counter[str]) -> str:
        """The text with everything of the chosen kinds replaced.

        Args:
            text: any text.
            counts: ``"redaction.email"`` and so on are added to.
        """
        for kind in KINDS:
            if kind not in self.kinds:
                continue
            found = _FINDERS[kind](text)
            if found:
                value = self.placeholder(kind)
                text, number = _replace(text, found, value)
                if number:
                    counts[f"redaction.{kind}"] += number
        return text


def _replace(text: str, found: list[Found], value: str) -> tuple[str, int]:
    """Put ``value`` in the place of everything found; what overlaps an earlier find is part of it."""
    parts, at, number = [], 0, 0
    for item in sorted(found, key=lambda item: (item.start, -item.stop)):
        if item.start < at or text[item.start : item.stop] == value:
            continue
        parts += [text[at : item.start], value]
        at, number = item.stop, number + 1
    return "".join([*parts, text[at:]]), number


def _keys(text: str) -> list[Found]:
    return [*secrets.find_tokens(text), *secrets.find_assigned(text)]


def _numbers(find: Callable[[str, patterns.Regions], Iterable[Found]]) -> Callable[[str], list[Found]]:
    return lambda text: list(find(text, regions)) if (regions := patterns.number_regions(text)) else []


_FINDERS: dict[Kind, Callable[[str], list[Found]]] = {
    "key": _keys,
    "credentials": lambda text: list(secrets.find_url_credentials(text)),
    "email": lambda text: list(patterns.find_emails(text)),
    "iban": lambda text: list(patterns.find_ibans(text)),
    "card": _numbers(patterns.find_cards),
    "ssn": _numbers(patterns.find_ssns),
    "ip": lambda text: list(patterns.find_ips(text)),
    "phone": _numbers(patterns.find_phones),
}
