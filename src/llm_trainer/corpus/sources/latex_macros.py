"""Macros that authors define for themselves, expanded as far as they are simple."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial

_DEFINITION = re.compile(
    r"\\(?:(?P<command>(?:re)?newcommand|providecommand|DeclareRobustCommand)\*?\s*(?:\{\s*\\(?P<braced>[A-Za-z@]+)\s*\}"
    r"|\\(?P<bare>[A-Za-z@]+))\s*(?:\[(?P<count>\d)\])?(?P<default>\s*\[)?"
    r"|(?P<def>[gex]?def)\s*\\(?P<name>[A-Za-z@]+)(?P<parameters>(?:#\d)*)\s*(?=\{))"
)
_USE = re.compile(r"\\([A-Za-z@]+)")
# A body that decides, loops or looks ahead is a program; running it needs TeX, expanding it blindly explodes.
_PROGRAM = re.compile(
    r"\\(?:@|if(?!f\b)|else\b|fi\b|futurelet|let\b|csname|expandafter|mathchoice|loop|def\b|edef|gdef)"
)
_PARAMETER = re.compile(r"#(\d)")
_DEEPEST = 50
_MOST_EXPANSIONS = 200_000


class MacroBombError(Exception):
    """Macros that would grow the text without end."""


@dataclass(frozen=True)
class Macro:
    """A user's command: how many arguments, the default of the first if that is optional, and what it stands for."""

    arguments: int
    default: str | None
    body: str


def brace_ends(text: str) -> dict[int, int]:
    """The place of every ``{`` that is closed, and of the ``}`` that closes it; one pass, however deep they are."""
    ends: dict[int, int] = {}
    open_braces: list[int] = []
    for match in _BRACES.finditer(text):
        token = match[0]
        if token == "{":
            open_braces.append(match.start())
        elif token == "}" and open_braces:
            ends[open_braces.pop()] = match.start()
    return ends


_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)


def bracket_end(text: str, position: int, limit: int = 300) -> int:
    """The place of the ``]`` for the ``[`` at ``position``, braces skipped; -1 if there is none near."""
    depth = 0
    stop = min(len(text), position + limit)
    index = position + 1
    while index < stop:
        character = text[index]
        if character == "\\":
            index += 1
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
        elif character == "]" and depth <= 0:
            return index
        index += 1
    return -1


def take_definitions(text: str) -> tuple[str, dict[str, Macro]]:
    """Cut the definitions of macros out of a text.

    Returns:
        The text without them, and the macros by name. What is no simple definition stays in the text.
    """
    macros: dict[str, Macro] = {}
    pieces: list[str] = []
    position = 0
    ends = brace_ends(text)
    for match in _DEFINITION.finditer(text):
        if match.start() < position:
            continue
        body_start = match.end()
        default = None
        if match["default"] is not None:
            closing = bracket_end(text, match.end() - 1)
            if closing < 0:
                continue
            default, body_start = text[match.end() : closing], closing + 1
        while body_start < len(text) and text[body_start].isspace():
            body_start += 1
        end = ends.get(body_start, -1)
        if end < 0:
            continue
        name = match["braced"] or match["bare"] or match["name"]
        count = int(match["count"] or 0) if match["command"] else len(match["parameters"]) // 2
        body = text[body_start + 1 : end]
        if not _PROGRAM.search(body):
            macros[name] = Macro(count, default, body)
        pieces.append(text[position : match.start()])
        position = end + 1
    pieces.append(text[position:])
    return "".join(pieces), macros


class Expander:
    """Puts the bodies of macros in the place of their names.

    Args:
        macros: by name.
        limit: characters that expansion may produce in all.
    """

    def __init__(self, macros: dict[str, Macro], limit: int) -> None:
        self._macros, self._left, self._expansions = macros, limit, 0
        self._active: list[str] = []

    def expand(self, text: str) -> str:
        """The text with its macros expanded.

        Raises:
            MacroBombError: they grow too much.
        """
        if not self._macros or len(self._active) >= _DEEPEST:
            return text
        pieces: list[str] = []
        position = 0
        ends: dict[int, int] | None = None
        for match in _USE.finditer(text):
            macro = self._macros.get(match[1])
            # A macro inside its own body is an older definition of that name, or a loop that TeX would end by a test.
            if macro is None or match.start() < position or match[1] in self._active:
                continue
            ends = brace_ends(text) if ends is None else ends
            found = _read_arguments(text, match.end(), macro, ends)
            if found is None:
                continue
            arguments, end = found
            body = _PARAMETER.sub(partial(_pick, arguments), macro.body)
            self._spend(len(body))
            pieces.append(text[position : match.start()])
            self._active.append(match[1])
            pieces.append(self.expand(body))
            self._active.pop()
            position = end
        pieces.append(text[position:])
        return "".join(pieces)

    def _spend(self, size: int) -> None:
        self._left -= size
        self._expansions += 1
        if self._left < 0 or self._expansions > _MOST_EXPANSIONS:
            raise MacroBombError(f"macros expand without end ({self._expansions:,} so far)")


def _pick(arguments: list[str], number: re.Match[str]) -> str:
    index = int(number[1]) - 1
    return arguments[index] if 0 <= index < len(arguments) else ""


def _read_arguments(text: str, position: int, macro: Macro, ends: dict[int, int]) -> tuple[list[str], int] | None:
    arguments: list[str] = []
    if macro.default is not None:
        if text[position : position + 1] == "[" and (end := bracket_end(text, position)) > 0:
            arguments.append(text[position + 1 : end])
            position = end + 1
        else:
            arguments.append(macro.default)
    while len(arguments) < macro.arguments:
        while position < len(text) and text[position].isspace():
            position += 1
        if position >= len(text):
            return None
        if text[position] == "{":
            end = ends.get(position, -1)
            if end < 0:
                return None
            arguments.append(text[position + 1 : end])
            position = end + 1
        elif match := _USE.match(text, position):
            arguments.append(match[0])
            position = match.end()
        else:
            arguments.append(text[position])
            position += 1
    return arguments, position
