"""Templates of wikitext: most are boxes and notices and go; those that only dress a word leave the word.

The templates themselves are pages of the wiki that a dump of articles does not hold, so they cannot be run. The table
here knows those that stand inside sentences of many articles; without them "a wall {{convert|3|m}} high" would read
"a wall high".
"""

from __future__ import annotations

import re
from collections.abc import Callable

MARK = "\x04"
"""Left where something was removed, until the text around it has been tidied."""

_BRACES = re.compile(r"\{\{|\}\}")
_DEEPEST = 30
_NAMED = re.compile(r"\s*[\w -]{1,40}=")

_SIGNS = {
    "!": "|", "=": "=", "'": "'", "nbsp": " ", "snd": " – ", "spnd": " – ", "spaced ndash": " – ", "ndash": "–",
    "mdash": "—", "emdash": "—", "endash": "–", "spaced en dash": " – ", "dash": " – ", "–": " – ", "—": "—",
    "*": " • ", "•": " • ", "·": " · ", "dot": " · ", "bullet": " • ", "middot": " · ", "c.": "c. ", "circa": "c. ",
    "ca": "c. ", "'s": "'s", "-": "", "zwsp": "", "shy": "", "pi": "π", "sqrt": "√", "times": "×", "x": "×",
    "-'": "'", "'-": "'", "en dash": "–", "em dash": "—", "euro": "€", "pound": "£", "yen": "¥", "¥": "¥", "£": "£",
    "€": "€", "usd": "US$", "inr": "₹", "flat": "♭", "sharp": "♯", "minus": "−", "degree": "°", "deg": "°", "bc": "BC",
}  # fmt: skip
# Which argument is the text, counted from 1; -1 is the last.
_ARGUMENT_OF = {
    "lang": 2, "langue": 2, "transl": -1, "transliteration": -1, "nowrap": 1, "nobr": 1, "small": 1,
    "smaller": 1, "big": 1, "larger": 1, "nobold": 1, "bold": 1, "italic": 1, "em": 1, "strong": 1,
    "underline": 1, "sc": 1, "smallcaps": 1, "sup": 1, "sub": 1, "abbr": 1, "abbrlink": 1, "tooltip": 1,
    "quote": 1, "blockquote": 1, "cquote": 1, "bquote": 1, "quotation": 1, "zitat": 1, "citation bloc": 1,
    "cita": 1, "math": 1, "mvar": 1, "var": 1, "code": 1, "kbd": 1, "mono": 1, "tt": 1, "linktext": -1,
    "ill": 1, "interlanguage link": 1, "lien": 1, "as of": 1, "since": 1, "angbr": 1, "angle bracket": 1,
    "unicode": 1, "script": -1, "big2": 1, "color": 2, "colour": 2, "font color": 2, "j": 1, "val": 1, "num": 1,
    "formatnum": 1, "nts": 1, "visible anchor": 1, "vanchor": 1, "wikt-lang": 2, "mp": 1, "chem": -2, "date": 1,
    "hlist": -3, "plainlist": 1, "unbulleted list": -3, "ubl": -3, "poem": 1, "poemquote": 1, "not a typo": 1,
    "sic": 1, "lc": 1, "uc": 1, "ucfirst": 1, "lcfirst": 1, "w": -1, "link": -1, "langx": 2, "anchor text": 1,
    "proper name": 1, "ship": -4, "uss": -5, "hms": -5, "ss": -5, "rms": -5, "sms": -5, "iw": -1, "iw2": 1,
    "не переведено": 1, "oldid": 1, "zh-tw": 1, "nihongo2": 1, "le": -1, "s": 1,
}  # fmt: skip
_ALL_PIECES, _LIST, _SHIP, _NAMED_SHIP = -2, -3, -4, -5
_UNITS = frozenset({"convert", "cvt", "unité", "unit", "nombre"})


def expand_templates(text: str) -> str:
    """Every ``{{...}}`` becomes the text it shows, as far as known, or a :data:`MARK`; braces without partners vanish.

    One pass with a stack: the cost is in proportion to the length, whatever the nesting.
    """
    stack: list[list[str]] = [[]]
    done = 0
    for match in _BRACES.finditer(text):
        start = match.start()
        stack[-1].append(text[done:start])
        done = start + 2
        if text[start] == "{":
            stack.append([])
        elif len(stack) > 1:
            content = stack.pop()
            stack[-1].append(_shown("".join(content)) if len(stack) <= _DEEPEST else MARK)
    stack[-1].append(text[done:])
    return "".join(piece for pieces in stack for piece in pieces)


def _shown(content: str) -> str:
    name, bar, rest = content.partition("|")
    name = name.strip().lower().replace("_", " ")
    if len(name) > 30:
        return MARK
    if name in _SIGNS and not (bar and name in {"circa", "c.", "ca", "times", "x", "sqrt", "inr", "usd", "euro"}):
        return _SIGNS[name]
    if name in _SIGNS:
        return _SIGNS[name] + _positional(rest)[0]
    if name in _ARGUMENT_OF:
        return _pick(_positional(rest), _ARGUMENT_OF[name], name) or MARK
    if name in _UNITS:
        return " ".join(_measure(_positional(rest))) or MARK
    special = _SPECIAL.get(name)
    if special is not None:
        return special(_positional(rest)) or MARK
    if name.startswith("lang-"):
        return _positional(rest)[0] or MARK
    if name.startswith(("formatnum:", "lc:", "uc:", "ucfirst:", "lcfirst:")):
        return name.partition(":")[2]
    return MARK


def _positional(rest: str) -> list[str]:
    """The arguments without a name (and ``1=...``), at least one."""
    pieces = rest.split("|")
    plain = []
    for piece in pieces:
        if "=" in piece and _NAMED.match(piece):
            key, _, value = piece.partition("=")
            if not key.strip().isdigit():
                continue
            piece = value
        plain.append(piece.strip())
    return plain or [""]


def _pick(arguments: list[str], which: int, name: str) -> str:
    if which == _ALL_PIECES:
        return "".join(arguments)
    if which == _LIST:
        return ", ".join(filter(None, arguments))
    if which == _SHIP:
        return " ".join(filter(None, arguments[:2]))
    if which == _NAMED_SHIP:
        return f"{name.upper()} {arguments[0]}".strip()
    if which == -1:
        return arguments[-1]
    return arguments[which - 1] if 0 < which <= len(arguments) else ""


_SEPARATORS = {"-": "–", "–": "–", "to": " to ", "and": " and ", "or": " or ", "by": " by ", "x": " × ", "×": " × "}


_UNIT_NAMES = {
    "sqmi": "sq mi", "sqft": "sq ft", "km2": "km²", "m2": "m²", "ft2": "sq ft", "mi2": "sq mi", "km3": "km³",
    "m3": "m³", "C": "°C", "F": "°F", "acre": "acres", "e6acre": "million acres", "ha": "hectares",
}  # fmt: skip
_POWERS = {"e3": "thousand ", "e6": "million ", "e9": "billion "}


def _measure(arguments: list[str]) -> list[str]:
    """``2413|m|ft`` -> 2,413 m; ``3|to|5|m`` -> 3 to 5 m."""
    if len(arguments) >= 4 and arguments[1] in _SEPARATORS:
        both = _SEPARATORS[arguments[1]].join([_number(arguments[0]), _number(arguments[2])])
        return [both, _unit(arguments[3])]
    return [_number(arguments[0]), *map(_unit, filter(None, arguments[1:2]))]


def _number(digits: str) -> str:
    return f"{int(digits):,}" if digits.isascii() and digits.isdigit() and 4 <= len(digits) <= 30 else digits


def _unit(name: str) -> str:
    if name in _UNIT_NAMES:
        return _UNIT_NAMES[name]
    return _POWERS[name[:2]] + _UNIT_NAMES.get(name[2:], name[2:]) if name[:2] in _POWERS else name


def _fraction(arguments: list[str]) -> str:
    if len(arguments) == 1:
        return f"1/{arguments[0]}" if arguments[0] else ""
    if len(arguments) == 2:
        return "/".join(arguments)
    return f"{arguments[0]} {arguments[1]}/{arguments[2]}"


def _chosen_date(arguments: list[str]) -> str:
    return "-".join(argument.zfill(2) for argument in arguments[:3] if argument.isdigit())


_SPECIAL: dict[str, Callable[[list[str]], str]] = {
    "frac": _fraction,
    "fraction": _fraction,
    "sfrac": _fraction,
    "start date": _chosen_date,
    "birth date": _chosen_date,
    "e": lambda arguments: f"×10^{arguments[0]}",
    "su": lambda arguments: arguments[0],
    "nihongo": lambda arguments: arguments[0],
    "reign": lambda arguments: "r. " + "–".join(arguments[:2]),
    "r.": lambda arguments: "r. " + "–".join(arguments[:2]),
    "age": lambda arguments: "",
    "us$": lambda arguments: f"US${arguments[0]}",
    "gbp": lambda arguments: f"£{arguments[0]}",
    "eur": lambda arguments: f"€{arguments[0]}",
    "music": lambda arguments: {"flat": "♭", "sharp": "♯", "natural": "♮"}.get(arguments[0], ""),
    "sortname": lambda arguments: " ".join(arguments[:2]),
    "coord": lambda arguments: "",
}
