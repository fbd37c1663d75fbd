"""Left-over markup: HTML tags and entities, BBCode, Markdown. The text in it stays.

What only looks like markup stays too: ``a < b and c > d`` (a tag has a known name and proper attributes), ``a[i]`` (a
BBCode tag has a closing one), ``2*x*y`` and ``snake_case`` (emphasis begins and ends at the edges of words). Code
(fenced, indented, between backticks or ``<pre>``) and formulas (between dollar signs, ``\\(``, ``\\[`` or
``\\begin{align}``) are not touched. Numbers in ``<sup>`` become raised digits: ``10<sup>6</sup>`` is ``10⁶``.
"""

from __future__ import annotations

import html
from collections import Counter
from html.entities import html5
from typing import ClassVar

import regex

from llm_trainer.corpus.cleaning.base import Cleaner
from llm_trainer.corpus.cleaning.code import is_code
from llm_trainer.corpus.document import Document

_BLOCK_TAGS = (
    "address article aside blockquote body br caption center dd div dl dt fieldset figcaption figure footer form "
    "h1 h2 h3 h4 h5 h6 head header hr html legend li main nav noscript ol optgroup option p section select table "
    "tbody tfoot thead title tr ul "
)
_INLINE_TAGS = (
    "a abbr acronym area audio b base bdi bdo big button canvas cite col colgroup data datalist del dfn em embed "
    "font i iframe img input ins kbd label link map mark meta meter nobr object output param picture progress q "
    "rp rt ruby s samp small source span strike strong sub sup svg path td textarea th time track tt u var video "
    "wbr "
)
_BLOCK = frozenset(_BLOCK_TAGS.split())
_CELLS = frozenset({"td", "th"})
# May stand alone. Any other name without attributes is a tag only if it is closed somewhere: manuals write <input> for
# what the reader has to fill in, and List<a> is a type.
_UNCLOSED = frozenset({"p", "br", "hr", "li", "td", "th", "tr", "dt", "dd", "wbr"})
_ATTRIBUTE = (
    r"\s++[A-Za-z_:@][\w:.-]{0,40}+(?:\s*+=\s*+(?:\"[^\"<>]{0,2000}+\"|'[^'<>]{0,2000}+'|[^\s\"'<>=`]{1,2000}+))"
)
_FLAG = r"\s++(?:checked|disabled|selected|readonly|required|hidden|async|defer|controls|autoplay|loop|muted|nowrap)\b"
# Longer names first, so that <article> is not <a>.
_NAMES = "|".join(sorted((_BLOCK_TAGS + _INLINE_TAGS).split(), key=lambda name: (-len(name), name)))
_TAG = regex.compile(rf"<(?P<close>/?)(?P<name>{_NAMES})\b(?:{_ATTRIBUTE}|{_FLAG}){{0,30}}+\s*+/?>", regex.IGNORECASE)
_CLOSING = regex.compile(r"</([A-Za-z][A-Za-z0-9]{0,12})\s{0,3}>")
_DOCTYPE = regex.compile(r"<!DOCTYPE[^<>]{0,300}+>", regex.IGNORECASE)
_RAISED = regex.compile(
    r"<sup\b[^<>]{0,200}+>[ \t]*+(?P<sign>[-\u2212\u2013+]?)(?P<digits>[0-9]{1,4}|n)[ \t]*+</sup\s*>", regex.IGNORECASE
)
_SUPERSCRIPTS = str.maketrans("0123456789-\u2212\u2013+n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁻⁻⁺ⁿ")
_ENTITY = regex.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_AMPERSANDS = regex.compile(r"&(?:(?:amp|#38|#0*38|#x26);)++")

_BB_NAMES = (
    "b|i|u|s|url|img|quote|color|colour|size|font|center|left|right|list|email|spoiler|youtube|video|table|tr|td|sup|"
    "sub"
)
_BB_CLOSE = regex.compile(rf"\[/({_BB_NAMES})\]", regex.IGNORECASE)

_INLINE_CODE = regex.compile(r"(?<!`)(`{1,3}+)[^`\n]{1,1000}+\1(?!`)")
# In a line, as pandoc has it: no space inside the dollar signs and no digit behind them, or "$5 and $6" would be one.
_MATH_NAMES = (
    "align|aligned|alignat|array|[pbvBV]?matrix|cases|displaymath|eqnarray|equation|flalign|gather|gathered|math|"
    "multline|split|lstlisting|tikzpicture|verbatim"
)
_MATH = regex.compile(
    rf"\$\$[^$]{{1,4000}}+\$\$|\$(?=[^\s$])(?:[^$\n<]|<(?![A-Za-z/])){{1,200}}+(?<=\S)\$(?!\d)"
    rf"|\\\([^\n]{{1,200}}?\\\)|\\\[(?:[^\\]|\\[^\[\]]){{1,4000}}+\\\]"
    rf"|\\begin\{{(?P<name>(?:{_MATH_NAMES})\*?)\}}(?:[^\\]|\\(?!(?:begin|end)\{{(?P=name)\}})){{1,8000}}+"
    r"\\end\{(?P=name)\}"
)
_IMAGE = regex.compile(r"!\[([^\[\]\n]{0,300}+)\]\([^()\s]{0,2000}+(?:\s\"[^\"\n]{0,200}+\")?\)")
_TITLE = r"(?:\s\"[^\"\n]{0,200}+\")?"
# A bracket right behind a word or bracket is an index (``a[i](x)``, ``matrix[i][j]``) unless an address follows; two
# numbers are notes (``[1][2]``).
_LINK = regex.compile(
    r"(?<![!\w\])])\[(?P<text>[^\[\]\n]{1,250}+(?:\n(?!\n)[^\[\]\n]{1,250}+)?)\]"
    rf"\((?:<[^<>\n]{{0,2000}}+>|(?:[^()\s]|\([^()\s]{{0,200}}+\)){{1,2000}}+){_TITLE}\)"
    r"|(?<![!\w\])])\[(?!\d+\])(?P<text>[^\[\]\n]{2,250}+(?:\n(?!\n)[^\[\]\n]{1,250}+)?)\]\[[\w -]{0,80}+\]"
    r"|(?<=[\w\])])\[(?P<text>[^\[\]\n]{1,500}+)\]"
    rf"\((?:https?://|www\.|mailto:|\.{{0,2}}/|#)(?:[^()\s]|\([^()\s]{{0,200}}+\)){{1,2000}}+{_TITLE}\)"
)
_STRONG = regex.compile(r"(?<![\w*\\])(\*\*|__)(?=[^\s*_])([^*_\n]{0,500}[^\s*_])\1(?![\w*])")
# Not in paths (``/_next_/``), nor in formulas not known as such (``\\hat{x}_{i} + \\hat{y}_{j}``, ``(G^*) = (H^*)``).
_EMPHASIS = regex.compile(r"(?<![\w*_\\/}^])([*_])(?=[^\s*_])([^*_\n]{0,500}[^\s*_])\1(?![\w*_{])")
_HEADING = regex.compile(r"(?m)(?<=\A|\n\n)#{1,6}[ \t]++(\S[^\n]*+)")
_RULE = regex.compile(
    r"(?m)(?<=\A|\n)(?:(?:\*[ \t]?){3,40}+|(?:-[ \t]?){3,40}+|(?:_[ \t]?){3,40}+|={3,200}+|-{3,200}+)(?=\n|\Z)"
)
_FENCE = regex.compile(r" {0,3}(```|~~~)")
_BLANKS = regex.compile(r"\n{3,}")
_PASSES = 6
_OPEN, _CLOSE = "\U000f5a00", "\U000f5a01"


class Markup(Cleaner):
    """Take the marks out and leave the text.

    Counts ``markup.tags``, ``markup.elements`` (scripts, styles, comments), ``markup.entities``, ``markup.bbcode`` and
    ``markup.markdown``.
    """

    name: ClassVar[str] = "markup"

    html: bool = True
    """Remove HTML tags and turn entities into characters."""
    bbcode: bool = True
    """Remove the tags of forum posts."""
    markdown: bool = True
    """Remove headings' marks, emphasis, links and rules of Markdown; lists and quotations keep their marks."""

    def clean(self, document: Document, counts: Counter[str]) -> str:
        """The text without markup; programs are returned as they are."""
        text = document.text
        if is_code(document):
            return text
        # An entity may hide a tag, a tag an entity: repeat until nothing changes. Two rounds are usual.
        for _ in range(_PASSES):
            cleaned = "".join(
                part if protected else self._clean_prose(part, counts) for part, protected in _split_code(text)
            )
            if cleaned == text:
                break
            text = cleaned.strip("\n")
        return text if text.strip() else document.text

    def _clean_prose(self, text: str, counts: Counter[str]) -> str:
        before = text
        if _OPEN in text:
            # Nothing that a person wrote; marks of ours could not be told from these.
            return text
        spans: list[str] = []
        if "`" in text:
            text = _INLINE_CODE.sub(lambda match: _hide(match[0], spans), text)
        if self.html and "<" in text:
            # Before formulas are looked for: scripts are full of dollar signs.
            text = _cut_elements(text, counts)
        if "$" in text or "\\(" in text or "\\[" in text or "\\begin{" in text:
            text = _MATH.sub(lambda match: _hide(match[0], spans), text)
        if self.html:
            text = _strip_html(text, counts)
        if self.bbcode and "[/" in text:
            text = _strip_bbcode(text, counts)
        if self.markdown:
            text = _strip_markdown(text, counts)
        if spans:
            text = _show(text, spans)
        return _BLANKS.sub("\n\n", text) if text != before else before


def _hide(found: str, spans: list[str]) -> str:
    """Put a mark in the place of code: its number between two characters that Unicode leaves to private use."""
    spans.append(found)
    return f"{_OPEN}{len(spans) - 1}{_CLOSE}"


def _show(text: str, spans: list[str]) -> str:
    def original(match: regex.Match[str]) -> str:
        # A formula may hold code that was hidden before it.
        hidden = spans[int(match[1])]
        return _show(hidden, spans) if _OPEN in hidden else hidden

    shown: str = regex.sub(f"{_OPEN}(\\d{{1,9}}){_CLOSE}", original, text)
    return shown


def _split_code(text: str) -> list[tuple[str, bool]]:
    """Stretches of a text with whether each is a block of code: fenced, indented after a blank line, or ``<pre>``."""
    if not ("```" in text or "~~~" in text or "\n    " in text or "\n\t" in text or "<pre" in text):
        return [(text, False)]
    parts: list[tuple[list[str], bool]] = []
    fence, pre, blank, indented = "", False, False, False
    for line in text.splitlines(keepends=True):
        protected = True
        opening = _FENCE.match(line)
        if pre:
            pre = "</pre" not in line.lower()
        elif fence:
            fence = "" if opening and opening[1] == fence else fence
        elif opening:
            fence = opening[1]
        elif "<pre" in line.lower() and ("<pre>" in line.lower() or "<pre " in line.lower()):
            pre = "</pre" not in line.lower()
        else:
            indented = (blank or indented) and line.startswith(("    ", "\t"))
            protected = indented and bool(line.strip())
        blank = not line.strip()
        if not parts or parts[-1][1] != protected:
            parts.append(([], protected))
        parts[-1][0].append(line)
    return [("".join(lines), protected) for lines, protected in parts]


def _cut_elements(text: str, counts: Counter[str]) -> str:
    """Without scripts, styles and comments, and what is in them; each is looked for from where the last one ended."""
    for opening, closing in (("<!--", "-->"), ("<script", "</script>"), ("<style", "</style>")):
        # The one letter that becomes two in lower case would shift all places.
        lowered = text.replace("\u0130", "I").lower()
        if opening not in lowered:
            continue
        parts, at = [], 0
        while (start := lowered.find(opening, at)) >= 0:
            end = lowered.find(closing, start + len(opening))
            follows = lowered[start + len(opening) : start + len(opening) + 1]
            if end < 0:
                break
            if opening != "<!--" and follows not in (">", " ", "\n"):
                parts.append(text[at : start + len(opening)])
                at = start + len(opening)
                continue
            # A comment is nothing at all, also in the middle of a sentence.
            parts += [text[at:start], "" if opening == "<!--" else "\n"]
            at = end + len(closing)
            counts["markup.elements"] += 1
        text = "".join([*parts, text[at:]])
    return text


def _strip_html(text: str, counts: Counter[str]) -> str:
    if "&" in text:
        text = _AMPERSANDS.sub("&", text) if "&amp;" in text or "&#" in text else text
        text = _ENTITY.sub(lambda match: _counted(match, _unescape(match), counts, "markup.entities"), text)
    if "<" in text:
        text = _DOCTYPE.sub("", text)
        if "<sup" in text or "<SUP" in text:
            # "10<sup>6</sup>" is not 106.
            text = _RAISED.sub(lambda match: _counted(match, _raised(match), counts, "markup.tags"), text)
        closed = frozenset(name.lower() for name in _CLOSING.findall(text))
        text = _TAG.sub(lambda match: _counted(match, _text_of_tag(match, closed), counts, "markup.tags"), text)
    return text


def _raised(match: regex.Match[str]) -> str:
    raised: str = (match["sign"] + match["digits"].lower()).translate(_SUPERSCRIPTS)
    return raised


def _counted(match: regex.Match[str], new: str, counts: Counter[str], what: str) -> str:
    if new != match[0]:
        counts[what] += 1
    return new


def _unescape(match: regex.Match[str]) -> str:
    # html.unescape knows "&not" without a semicolon, and would make "&notes;" of it.
    character = html.unescape(match[0]) if match[0][1] == "#" else html5.get(match[0][1:], match[0])
    # A non-breaking space is a space; control characters and unknown names stay what they are.
    return " " if character == "\u00a0" else character if character.isprintable() else match[0]


def _text_of_tag(match: regex.Match[str], closed: frozenset[str]) -> str:
    name = match["name"].lower()
    bare = not match["close"] and match[0][1:-1].lower() == name
    if bare and name not in _UNCLOSED and name not in closed:
        found: str = match[0]
        return found
    if name in _CELLS:
        # A space between two cells, none before the first or behind the last one of a row.
        after = match.string[match.end() : match.end() + 3].lower()
        return " " if match["close"] and after in ("<td", "<th") else ""
    return "\n" if name in _BLOCK else ""


def _strip_bbcode(text: str, counts: Counter[str]) -> str:
    names = sorted({name.lower() for name in _BB_CLOSE.findall(text)})
    if not names:
        return text
    opening = regex.compile(rf"\[(?:{'|'.join(names)})(?:=[^\[\]\n]{{0,300}}+)?\]", regex.IGNORECASE)
    text, number = opening.subn("", text)
    if number:
        counts["markup.bbcode"] += number
        text = _BB_CLOSE.sub("", text)
    return text


def _text_of_strong(match: regex.Match[str]) -> str:
    # One word between double underscores is a name of Python's more often than emphasis.
    found: str = match[0] if match[1] == "__" and " " not in match[2] else match[2]
    return found


def _text_of_heading(match: regex.Match[str]) -> str:
    line: str = match[1].rstrip()
    # "# Title #" may close; "# About C#" does not.
    bare = line.rstrip("#")
    return bare.rstrip() if bare[-1:] in (" ", "\t") else line


def _strip_markdown(text: str, counts: Counter[str]) -> str:
    total = 0
    if "](" in text or "][" in text:
        text, number = _IMAGE.subn(r"\1", text)
        text, links = _LINK.subn(r"\g<text>", text)
        total += number + links
    if "**" in text or "__" in text:
        text, number = _STRONG.subn(_text_of_strong, text)
        total += number
    if "*" in text or "_" in text:
        text, number = _EMPHASIS.subn(r"\2", text)
        total += number
    if "#" in text:
        text, number = _HEADING.subn(_text_of_heading, text)
        total += number
    if "---" in text or "***" in text or "___" in text or "===" in text or "- -" in text or "* *" in text:
        text, number = _RULE.subn("", text)
        total += number
    if total:
        counts["markup.markdown"] += total
    return text
