"""LaTeX source to readable text: mathematics and code to the letter, commands replaced by what they mean.

No TeX is run. One pass protects mathematics and code, one expands the author's macros, and one loop with a stack of
open braces turns commands into text, so that neither deep nesting nor a missing brace can hurt.
"""

from __future__ import annotations

import re

from llm_trainer.corpus.sources.latex_macros import Expander, brace_ends, bracket_end, take_definitions
from llm_trainer.corpus.sources.latex_tables import (
    ACCENT_NAMES,
    DROPPED,
    DROPPED_ENVIRONMENTS,
    ENVIRONMENT_ARGUMENTS,
    FIRST_DROPPED,
    FULL_NAMES,
    HEADINGS,
    MATH_ENVIRONMENTS,
    SIGNS,
    SYMBOLS,
    TITLED_ENVIRONMENTS,
    VERBATIM_ENVIRONMENTS,
    accented,
)

# Private characters for what must survive the reflowing of lines; they are taken out of the source first.
_OPEN, _BREAK, _CLOSE = "\ue000", "\ue001", "\ue002"
_PRIVATE = re.compile("[\ue000-\ue002]")
_HELD = re.compile(f"{_OPEN}(\\d+){_CLOSE}")
_BEGIN_DOCUMENT = re.compile(r"\\begin\s*\{document\}")
_END_DOCUMENT = re.compile(r"\\end\s*\{document\}|\\endinput\b")
_COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%[^\n]*(?:\n[ \t]*(?!\n))?")
_PROTECTED = re.compile(
    r"(?P<url>\\(?:url|nolinkurl|path|href)\s*\{(?![^{}\n]*#\d)(?P<address>[^{}\n]*)\})|"
    r"(?P<escape>\\[%$\\](?!\())|(?P<comment>%)|\\begin\s*\{(?P<environment>[A-Za-z]+\*?)\}|"
    r"(?P<verb>\\(?:verb|lstinline)\*?(?P<mark>[^A-Za-z\s*{]))|(?P<display>\$\$)|(?P<inline>\$)|(?P<round>\\\()|(?P<square>\\\[)"
)
_INLINE_END = re.compile(r"\\.|\$|\n[ \t]*\n", re.DOTALL)
_LABEL = re.compile(r"\\label\s*\{[^{}]*\}[ \t]*")
_TOKEN = re.compile(r"\\(?:([A-Za-z@]+)(\*?)|(.)|$)|[{}~]|\[(?=\s*\])|``|''|---?|\bhttps?://[^\s{}\\]+", re.DOTALL)
_ENVIRONMENT_NAME = re.compile(r"\s*\{([^{}\n]{1,60})\}")
# An unknown command with several one-word arguments files something; text has spaces.
_LABELS = re.compile(r"(?:\{[\w:.-]*\}){2,}")
_CONDITIONAL = re.compile(r"\\newif\s*\\if[A-Za-z]+|\\(fi|else|if(?!f\b|thenelse\b)[A-Za-z]*)\b[ \t]*(0\b)?")
_ENSURED = re.compile(r"\\ensuremath\s*\{((?:[^{}$]|\{[^{}$]*\})*)\}")
_TITLE = re.compile(r"\\title\b\s*(?:\[[^\]]*\])?\s*(?=\{)")
_SPACE = re.compile(r"[ \t\n]*")


def latex_to_text(source: str) -> str:
    """Convert a LaTeX document, or a part of one.

    Comments, preamble, bibliography, figures and tables go; sections become ``## headings``, list items ``- lines``;
    ``\\cite`` and ``\\ref`` go with their arguments; other commands leave the text of theirs. Mathematics and verbatim
    text stay as they are written.

    Args:
        source: the text of the file, ``\\n`` line ends.

    Raises:
        MacroBombError: macros expand without end.
    """
    source = _PRIVATE.sub("", source)
    begin = _BEGIN_DOCUMENT.search(source)
    preamble, body = (source[: begin.start()], source[begin.end() :]) if begin else ("", source)
    end = _END_DOCUMENT.search(body)
    if end:
        body = body[: end.start()]
    # Macros are looked for without comments; the body is protected first, so that its mathematics stays to the letter.
    _, macros = take_definitions(_COMMENT.sub(r"\1", preamble))
    held: list[str] = []
    body, own = take_definitions(_protect(body, held))
    body = Expander(macros | own, limit=16 * len(source) + (1 << 20)).expand(body)
    body = _ENSURED.sub(lambda match: f"${match[1]}$", body)
    body = _decide_conditionals(_protect(body, held))  # mathematics that came out of a macro
    return _finish(_Converter(_drop_environments(body)).convert(), held)


def latex_title(source: str) -> str:
    """The argument of ``\\title`` as text; empty if there is none."""
    match = _TITLE.search(_COMMENT.sub(r"\1", source[:200_000]))
    if not match:
        return ""
    text = match.string
    end = brace_ends(text).get(match.end(), -1)
    if end < 0 or end - match.end() > 2000:
        return ""
    held: list[str] = []
    title = _finish(_Converter(_protect(text[match.end() + 1 : end], held)).convert(), held)
    return " ".join(title.split())


def _protect(text: str, held: list[str]) -> str:
    """Take out mathematics and code, leaving marks, and drop comments; from left to right, as TeX reads."""
    pieces: list[str] = []
    position = search = 0
    missing: set[str] = set()  # closings that do not come any more: looked for once, not once for each opening
    while match := _PROTECTED.search(text, search):
        search = match.end()
        kind = match.lastgroup if match.lastgroup != "mark" else "verb"
        if kind == "escape":
            continue
        if kind == "comment":
            comment = _COMMENT.match(text, match.start())
            end = comment.end() if comment else match.end()
            pieces.append(text[position : match.start()])
            position = search = end
            continue
        if kind == "url" or kind == "address":  # a % in it is no comment
            pieces.append(text[position : match.start()])
            if not match[0].startswith("\\href"):
                held.append(re.sub(r"\\([%#&_~])", r"\1", match["address"]))
                pieces.append(f"{_OPEN}{len(held) - 1}{_CLOSE}")
            position = search = match.end()
            continue
        end, display = _protected_end(text, match, missing)
        if end < 0:
            continue
        content = text[match.start() : end]
        pieces.append(text[position : match.start()])
        if content.startswith("\\begin") and match["environment"] in VERBATIM_ENVIRONMENTS:
            content = _code(content)
        elif match["verb"]:
            content = content[match.end() - match.start() : -1]
        else:
            content = _LABEL.sub("", _COMMENT.sub(r"\1", content))
        held.append(content)
        mark = f"{_OPEN}{len(held) - 1}{_CLOSE}"
        pieces.append(f"{_BREAK}{mark}{_BREAK}" if display else mark)
        position = search = end
    pieces.append(text[position:])
    return "".join(pieces)


def _protected_end(text: str, match: re.Match[str], missing: set[str]) -> tuple[int, bool]:
    """Where a protected stretch ends (-1: it is none), and whether it stands on lines of its own."""
    environment = match["environment"]
    if environment is not None:
        if environment not in MATH_ENVIRONMENTS and environment not in VERBATIM_ENVIRONMENTS:
            return -1, False
        closing = f"\\end{{{environment}}}"
    elif match["inline"]:
        for found in _INLINE_END.finditer(text, match.end()):
            if found[0] == "$":
                return found.end(), False
            if found[0].startswith("\n"):
                break
        return -1, False
    elif match["verb"]:
        line_end = text.find("\n", match.end())
        end = text.find(match["mark"], match.end(), line_end if line_end >= 0 else len(text))
        return (end + 1 if end >= 0 else -1), False
    else:
        closing = "$$" if match["display"] else "\\)" if match["round"] else "\\]"
    if closing in missing:
        return -1, False
    end = text.find(closing, match.end())
    if end < 0:
        missing.add(closing)
        return -1, False
    return end + len(closing), closing != "\\)"


def _code(content: str) -> str:
    """The lines of a verbatim environment without its ``\\begin`` and ``\\end``."""
    inner = content[content.index("}") + 1 : content.rindex("\\end")]
    inner = re.sub(r"\A(?:[ \t]*\[[^\]\n]*\])?(?:[ \t]*\{[^{}\n]*\})?[ \t]*\n", "", inner)
    return f"```\n{inner.rstrip()}\n```"


def _decide_conditionals(text: str) -> str:
    """Keep the branch that is taken of ``\\iffalse``, ``\\if0`` and ``\\iftrue``; of other conditions, both."""
    pieces: list[str] = []
    position = 0
    # For every open condition: whether it is decided here, and whether its present branch is kept.
    open_conditions: list[tuple[bool, bool]] = []
    for match in _CONDITIONAL.finditer(text):
        if all(kept for _, kept in open_conditions):
            pieces.append(text[position : match.start()])
        position = match.end()
        word = match[1]
        if word is None:
            continue
        if word == "fi":
            if open_conditions:
                open_conditions.pop()
        elif word == "else":
            if open_conditions and open_conditions[-1][0]:
                open_conditions[-1] = (True, not open_conditions[-1][1])
        else:
            decided = word in ("iffalse", "iftrue") or match[2] == "0"
            open_conditions.append((decided, word == "iftrue" or not decided))
    if all(kept for _, kept in open_conditions):
        pieces.append(text[position:])
    return "".join(pieces)


def _drop_environments(text: str) -> str:
    """Cut out what is no running text, with what is nested in it; an environment without an end goes up to its line."""
    pieces: list[str] = []
    position = 0
    open_name, depth = "", 0
    endless: set[str] = set()
    for match in re.finditer(r"\\(begin|end)\s*\{([A-Za-z0-9]+\*?)\}", text):
        name = match[2]
        if depth:
            if name == open_name:
                depth += 1 if match[1] == "begin" else -1
                if depth == 0:
                    position = match.end()
        elif match[1] == "begin" and name in DROPPED_ENVIRONMENTS and match.start() >= position:
            if name in endless or text.find(f"\\end{{{name}}}", match.end()) < 0:
                endless.add(name)
                continue
            pieces.append(text[position : match.start()] + "\n\n")
            open_name, depth, position = name, 1, match.start()
    if not depth:
        pieces.append(text[position:])
    return "".join(pieces)


class _Converter:
    """Commands to text. ``_closers`` holds, for every open brace, what to write when it closes."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._ends = brace_ends(text)
        self._position = 0
        self._out: list[str] = []
        self._closers: list[str] = []
        self._next_closer: list[str] = []

    def convert(self) -> str:
        """The text, with line ends of the source still in it."""
        text = self._text
        while match := _TOKEN.search(text, self._position):
            self._out.append(text[self._position : match.start()])
            self._position = match.end()
            token = match[0]
            if match[1]:
                self._command(match[1])
            elif match[3] is not None:
                self._sign(match[3])
            elif token == "{":
                self._closers.append(self._next_closer.pop() if self._next_closer else "")
                self._next_closer.clear()
            elif token == "}":
                self._out.append(self._closers.pop() if self._closers else "")
            else:
                self._out.append({"~": " ", "``": "“", "''": "”", "--": "–", "---": "—"}.get(token, token))
        self._out.append(text[self._position :])
        return "".join(self._out)

    def _command(self, name: str) -> None:
        if name in ("begin", "end"):
            self._environment(name == "begin")
        elif name in HEADINGS or name.endswith("section"):
            self._skip_options()
            self._out.append("\n\n" + HEADINGS.get(name, "## "))
            self._next_closer = ["\n\n"]
        elif name in ACCENT_NAMES:
            self._accent(name)
        elif name in SYMBOLS:
            self._out.append(SYMBOLS[name])
            self._skip_space_after_word()
        elif name in DROPPED:
            self._skip_arguments(DROPPED[name])
        elif name in FIRST_DROPPED:
            self._skip_arguments(FIRST_DROPPED[name])
            self._skip_options()
        elif name == "texorpdfstring":
            self._first_of_two()
        elif name == "item":
            self._item()
        elif name == "footnote":
            self._skip_options()
            self._out.append(" (")
            self._next_closer = [")"]
        elif name in ("par", "newpage", "clearpage", "bigskip", "medskip", "smallskip", "maketitle"):
            self._out.append("\n\n")
        elif name in ("newline", "linebreak", "hfill"):
            self._out.append(_BREAK)
        else:
            self._skip_options()
            if labels := _LABELS.match(self._text, self._position):
                self._position = labels.end()
            else:
                self._skip_space_after_word()

    def _sign(self, sign: str) -> None:
        if sign in ACCENT_NAMES:
            self._accent(sign)
            return
        self._out.append(SIGNS.get(sign, ""))
        if sign == "\\":
            self._skip_options()

    def _accent(self, command: str) -> None:
        text = self._text
        start = _SPACE.match(text, self._position).end() if command.isalpha() else self._position  # type: ignore[union-attr]
        if text[start : start + 1] == "{":
            end = self._ends.get(start, -1)
            letter = text[start + 1 : end] if 0 <= end - start <= 12 else ""
            if "\\" in letter and letter.strip() not in ("\\i", "\\j"):  # an accent on an accented letter
                letter = _Converter(letter).convert()
            if len(letter) <= 7 and (letter.strip()[:1].isalpha() or letter.strip() in ("\\i", "\\j")):
                self._out.append(accented(command, letter))
                self._position = end + 1
            return
        if text[start : start + 2] in ("\\i", "\\j"):
            self._out.append(accented(command, text[start : start + 2]))
            self._position = start + 2
        elif text[start : start + 1].isalpha():
            self._out.append(accented(command, text[start]))
            self._position = start + 1

    def _environment(self, begins: bool) -> None:
        match = _ENVIRONMENT_NAME.match(self._text, self._position)
        if not match:
            return
        self._position = match.end()
        name = match[1].removesuffix("*")
        if not begins:
            self._out.append("\n\n")
            return
        title = self._option()
        self._skip_arguments(ENVIRONMENT_ARGUMENTS.get(name, 0))
        self._out.append("\n\n")
        if name in TITLED_ENVIRONMENTS:
            shown = FULL_NAMES.get(name, name).capitalize()
            title = _Converter(title).convert().strip() if title else ""
            self._out.append(f"{shown} ({title}). " if title and "=" not in title else f"{shown}. ")
        elif name == "abstract":
            self._out.append("## Abstract\n\n")

    def _first_of_two(self) -> None:
        """Keep the first argument, which is the printed one, and skip the second."""
        end = self._ends.get(self._position, -1)
        if end < 0:
            return
        inner, self._position = self._text[self._position + 1 : end], end + 1
        self._skip_arguments(1)
        self._out.append(inner)

    def _item(self) -> None:
        option = self._option()
        self._out.append(f"{_BREAK}- ")
        if option and option.strip():
            self._out.append(_Converter(option).convert().strip() + " ")

    def _option(self) -> str | None:
        start = _SPACE.match(self._text, self._position).end()  # type: ignore[union-attr]
        if self._text[start : start + 1] != "[":
            return None
        end = bracket_end(self._text, start)
        if end < 0:
            return None
        self._position = end + 1
        return self._text[start + 1 : end]

    def _skip_options(self) -> None:
        """Skip ``[...]``, but only right behind the command: a bracket after a space is text."""
        while self._text[self._position : self._position + 1] == "[" and self._option() is not None:
            continue

    def _skip_arguments(self, count: int) -> None:
        for _ in range(count):
            self._skip_options()
            start = _SPACE.match(self._text, self._position).end()  # type: ignore[union-attr]
            if self._text[start : start + 1] != "{":
                return
            if start not in self._ends:
                return
            self._position = self._ends[start] + 1

    def _skip_space_after_word(self) -> None:
        """TeX eats the space behind a command of letters: ``\\ae quator``."""
        if self._text[self._position : self._position + 2] == "{}":
            self._position += 2
        elif self._text[self._position : self._position + 1] == " ":
            self._position += 1


def _finish(text: str, held: list[str]) -> str:
    """Reflow lines, tidy what dropped commands leave behind, and put mathematics and code back."""
    text = re.sub(r"[ \t]+", " ", text)
    text = re.sub(r" ?\n ?\n\s*", f"{_BREAK}{_BREAK}", text)
    text = re.sub(r"\s+", " ", text)
    # What is left of "(see \cite{a})" and "Theorem~\ref{b}, ...".
    text = re.sub(r"\(\s*(?:(?:see|cf\.?|e\.g\.,?|and|[;,&\s])\s*)*\)|\[[\s,;]*\]", "", text)
    text = re.sub(r",(?:\s*,)+", ",", text)
    text = re.sub(r",\s*([.;])(?=\s|$)", r"\1", text)
    text = re.sub(r" +([,.;:!?)])(?=\s|$|[\ue000-\ue002)])", r"\1", text)
    text = re.sub(f" *{_BREAK} *", _BREAK, text)
    text = re.sub(f"{_BREAK}{{3,}}", _BREAK * 2, text)
    text = text.replace(_BREAK, "\n")
    for _ in range(3):  # code inside mathematics inside a macro
        if _OPEN not in text:
            break
        text = _HELD.sub(lambda match: held[int(match[1])] if int(match[1]) < len(held) else "", text)
    return text.strip()
