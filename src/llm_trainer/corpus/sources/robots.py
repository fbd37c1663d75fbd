"""robots.txt: what a site asks programs to leave alone (RFC 9309)."""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass

MAX_BYTES = 500 << 10
"""The standard asks for at least so much to be read; what follows is ignored."""

_LONGEST_DELAY = 300.0


@dataclass(frozen=True)
class RobotsRules:
    """The rules of one site for one program.

    Attributes:
        rules: ``(pattern, allowed)``.
        delay: seconds between two requests that the site asks for, or None.
    """

    rules: tuple[tuple[str, bool], ...] = ()
    delay: float | None = None

    def allows(self, url: str) -> bool:
        """Whether the page may be read: the longest pattern that fits decides, of equals the one that allows."""
        parts = urllib.parse.urlsplit(url)
        path = _normal((parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        fitting = [(len(pattern), allowed) for pattern, allowed in self.rules if _fits(pattern, path)]
        return max(fitting)[1] if fitting else True


ALLOW_ALL = RobotsRules()
ALLOW_NONE = RobotsRules((("/", False),))


def parse_robots(text: str, agent: str) -> RobotsRules:
    """Read the rules for a program.

    Args:
        text: of robots.txt.
        agent: the program's name; groups that name it count, else those for ``*``. Of ``bot/1.0 (...)``, here and
            there, the name is ``bot`` (RFC 9309, 2.2.1).
    """
    groups: dict[str, list[tuple[str, bool]]] = {}
    delays: dict[str, float] = {}
    names: list[str] = []
    in_rules = False
    for line in text.removeprefix("\ufeff").splitlines():
        key, colon, value = line.partition("#")[0].partition(":")
        key, value = key.strip().lower(), value.strip()
        if not colon:
            continue
        if key == "user-agent":
            name = _product(value)
            names = [name] if in_rules else [*names, name]
            in_rules = False
            groups.setdefault(name, [])
        elif key in {"allow", "disallow", "crawl-delay"}:
            in_rules = True
            for name in names:
                if key != "crawl-delay":
                    if value:
                        groups[name].append((_normal(value), key == "allow"))
                elif (delay := _seconds(value)) is not None:
                    delays[name] = delay
    own = _product(agent)
    chosen = own if own in groups else "*"
    return RobotsRules(tuple(groups.get(chosen, [])), delays.get(chosen))


def _product(agent: str) -> str:
    """``Bot-x/1.0 (+https://...)`` -> ``bot-x``; ``*`` and names with digits stay."""
    return agent.lower().partition("/")[0].partition("(")[0].strip()


def _seconds(value: str) -> float | None:
    try:
        seconds = float(value)
    except ValueError:
        return None
    return min(seconds, _LONGEST_DELAY) if seconds >= 0 else None


def _normal(path: str) -> str:
    """One spelling for ``%7E`` and ``~``, ``ü`` and ``%C3%BC``."""
    return urllib.parse.quote(urllib.parse.unquote(path), safe="/*$?&=:;,+!~@'()[]%-._")


def _fits(pattern: str, path: str) -> bool:
    """``*`` is any text, ``$`` at the end is the end; without it the pattern is a beginning. Linear."""
    to_end = pattern.endswith("$")
    first, *others = (pattern[:-1] if to_end else pattern).split("*")
    if not path.startswith(first):
        return False
    if not others:
        return not to_end or path == first
    position = len(first)
    *middle, last = others
    for piece in middle:
        found = path.find(piece, position)
        if found < 0:
            return False
        position = found + len(piece)
    if to_end:
        return len(path) - len(last) >= position and path.endswith(last)
    return path.find(last, position) >= 0
