"""Wikitext to plain text, at the speed of regular expressions.

A parser that builds a tree (mwparserfromhell) reads about half a megabyte a second, and a dump has twenty gigabytes.
Here every construct is removed or unwrapped by one pass over the whole text, in the order in which MediaWiki itself
expands them: comments and extension tags, templates, tables, links, and only then what is left on the lines
(https://www.mediawiki.org/wiki/Help:Formatting). Whatever can be nested is read with a stack, once from left to right,
so that no input, however hostile, costs more than time in proportion to its length.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable

from llm_trainer.corpus.sources.wikitext_names import DEFAULT_NAMES, WikiNames
from llm_trainer.corpus.sources.wikitext_tags import put_back, take_out_tags
from llm_trainer.corpus.sources.wikitext_templates import MARK, expand_templates
from llm_trainer.corpus.sources.wikitext_tidy import join_at_marks

_ARGUMENT = re.compile(r"\{\{\{([^{}|]*)(?:\|([^{}]*))?\}\}\}")
_TABLE = re.compile(r"\{\||\|\}(?!\})")
_BEFORE_TABLE = re.compile(r"[ \t:;*#\x04]*")
_PLAIN_LINK = re.compile(r"\[\[([^\[\]|:\n]+)\]\]")
_LABELLED_LINK = re.compile(r"\[\[[^\[\]|:\n]+\|([^\[\]|\n]+)\]\]")
_LINK_MARK = re.compile(r"\[\[|\]\]")
_LANGUAGE_LINK = re.compile(r"[a-z]{2,3}(?:-[a-z]{2,10}){0,2}|simple|commons", re.ASCII)
# (?=(...))\1 is a group that is never tried again shorter: an open bracket before a long line costs its length once.
_EXTERNAL_LINK = re.compile(
    r"\[(?:(?:https?|ftp|ftps|irc|news|gopher):)?(?://|mailto:)(?=([^\s\[\]]*))\1(?=([ \t]*))\2([^\[\]\n]{0,2000})\]",
    re.IGNORECASE,
)
_QUOTES = re.compile(r"'''''|'''|''")
_CONVERTER = re.compile(r"-\{([^{}]{0,2000})\}-")
_SWITCH = re.compile(r"__[A-ZÄÖÜÀ-Я]{3,40}__")
_BREAK = re.compile(r"<br\b[^<>]{0,200}>|</(?:p|div|li|tr|center|blockquote)\s{0,20}>", re.IGNORECASE)
_TAG = re.compile(
    r"</?(?:abbr|b|bdi|bdo|big|blockquote|caption|center|cite|data|dd|del|dfn|div|dl|dt|em|font|h[1-6]|hr|i|img|includeonly|"
    r"ins|kbd|li|mark|noinclude|nowiki|ol|onlyinclude|p|q|rb|ref|references|rp|rt|ruby|s|samp|section|small|span|strike|"
    r"strong|sub|sup|table|tbody|td|th|thead|time|tr|translate|tt|tvar|u|ul|var|wbr|poem|gallery)\b[^<>]{0,2000}>",
    re.IGNORECASE,
)
# A line is found by the "\n" before it: a literal to search for is three times as fast as "^".
_HEADING = re.compile(r"\n(=[^\n]*=)[ \t\x04]*(?=\n)")
_BULLET = re.compile(r"\n[*#][*#:;]*[ \t]*")
_INDENT = re.compile(r"\n(?:[:;]+[*#:;]*|-{4,})[ \t]*")
_EMPTY_BULLET = re.compile(r"\n- *(?=\n)")
_ODD_SPACES = re.compile("[\t\u00a0\u2002-\u200a\u202f\u3000]")


def clean_wikitext(text: str, names: WikiNames = DEFAULT_NAMES) -> str:
    """The prose of a wiki page.

    Kept: paragraphs, headings as lines of their own, list items as ``- item``, labels of links, code as it stands,
    formulas as ``$LaTeX$``, and the text of templates that only dress it (``{{lang|de|Haus}}``, ``{{convert|5|km}}``).
    Removed: all other templates, tables, references, comments, files, categories, links to other languages, galleries,
    and sections of references and links.

    Args:
        text: wikitext, with ``\\n`` line ends.
        names: the words of the wiki it is from.
    """
    kept: list[str] = []
    text = take_out_tags(text, kept)
    if "-{" in text:
        text = _CONVERTER.sub(_first_variant, text)
    if "{{" in text:
        if "{{{" in text:
            text = _ARGUMENT.sub(lambda match: match[2] or "", text)
        text = expand_templates(text)
    if "{|" in text:
        text = _without_tables(text)
    text = _unwrap_links(text, names)
    text = _EXTERNAL_LINK.sub(r"\3", text)
    text = _QUOTES.sub("", text)
    if "__" in text:
        text = _SWITCH.sub("", text)
    if "<" in text:
        text = _TAG.sub("", _BREAK.sub("\n", text))
    text = _without_sections(f"\n{text}\n", names.sections)
    text = _INDENT.sub("\n", _BULLET.sub("\n- ", text))
    text = join_at_marks(text) if MARK in text else text
    text = html.unescape(text) if "&" in text else text
    text = _single_spaces(_EMPTY_BULLET.sub("", text))
    text = put_back(text, kept)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text.strip()


def _single_spaces(text: str) -> str:
    text = _ODD_SPACES.sub(" ", text)
    while "  " in text:
        text = text.replace("  ", " ")
    return text.replace(" \n", "\n").replace("\n ", "\n")


def _first_variant(match: re.Match[str]) -> str:
    """Language converter (Chinese, Serbian): ``-{zh-hans:A;zh-hant:B}-`` is A; rules and titles show nothing."""
    flags, bar, body = match[1].rpartition("|")
    if bar and set(flags) & set("AHT-D"):
        return MARK
    first = body.split(";")[0]
    variant, colon, value = first.partition(":")
    return value if colon and re.fullmatch(r"[a-z-]{2,12}", variant.strip()) else first


def _without_tables(text: str) -> str:
    """Remove ``{| ... |}``, which may be nested. An open table ends with the next heading, not with the article."""
    pieces: list[str] = []
    depth, done, opened = 0, 0, 0
    for match in _TABLE.finditer(text):
        start = match.start()
        line = text.rfind("\n", max(start - 50, 0), start) + 1 if start else 0
        if (line == 0 and start > 50) or not _BEFORE_TABLE.fullmatch(text, line, start):
            continue  # in the middle of a line these are no marks of a table
        if text[start] == "{":
            if depth == 0:
                pieces.append(text[done:line])
                opened = start
            depth += 1
        elif depth:
            depth -= 1
            if depth == 0:
                done = match.end()
    if depth:
        heading = text.find("\n==", opened)
        done = heading if heading >= 0 else len(text)
    return MARK.join([*pieces, text[done:]])


def _unwrap_links(text: str, names: WikiNames) -> str:
    if "[[" not in text:
        return text
    # Nearly all links have no colon and nothing inside them; two passes without a callback take those.
    text = _LABELLED_LINK.sub(r"\1", _PLAIN_LINK.sub(r"\1", text))
    if "[[" not in text:
        return text
    return nested(text, _LINK_MARK, lambda content: _link(content, names))


def _link(content: str, names: WikiNames) -> str:
    target, bar, label = content.partition("|")
    prefix, colon, _ = target.partition(":")
    if colon and prefix.strip():
        space = prefix.strip().lower().replace(" ", "_")
        if space in names.files or space in names.categories:
            return MARK
        if not bar and _LANGUAGE_LINK.fullmatch(space):
            return MARK
    shown = label.rpartition("|")[2] if bar else ""
    return shown or (target[1:] if target.startswith(":") else target)


def nested(text: str, marks: re.Pattern[str], unwrap: Callable[[str], str], deepest: int = 30) -> str:
    """Replace what stands between an opening and a closing mark, innermost first, in one pass.

    Args:
        text: where to look.
        marks: matches both; an opening mark is one that begins with ``[`` or ``{``. A mark without its
            partner vanishes.
        unwrap: what is inside (already unwrapped) -> what to put in its place.
        deepest: what lies deeper is dropped, or a page of brackets would cost the square of its length.
    """
    stack: list[list[str]] = [[]]
    done = 0
    for match in marks.finditer(text):
        start = match.start()
        stack[-1].append(text[done:start])
        done = match.end()
        if text[start] in "[{":
            stack.append([])
        elif len(stack) > 1:
            content = stack.pop()
            stack[-1].append(unwrap("".join(content)) if len(stack) <= deepest else MARK)
    stack[-1].append(text[done:])
    return "".join(piece for pieces in stack for piece in pieces)


def _heading(line: str) -> tuple[int, str]:
    """``== Name ==`` -> level 2 and the name; as in MediaWiki, signs that have no partner belong to the name."""
    level = min(len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("=")), 6)
    return level, line[level : len(line) - level].replace(MARK, "").strip()


def _without_sections(text: str, dropped: Iterable[str]) -> str:
    """Headings as plain lines; sections of references and links, and those that nothing is left of, go."""
    headings = [(match, *_heading(match[1])) for match in _HEADING.finditer(text)]
    headings = [heading for heading in headings if heading[2]]
    if not headings:
        return text
    parts = [text[: headings[0][0].start()]]
    skipping = 7  # the level of the section that is being left out; 7 is none
    pending: list[tuple[int, str]] = []
    for (heading, level, title), following in zip(headings, [*headings[1:], None]):
        body = text[heading.end() : following[0].start() if following else len(text)]
        if level <= skipping:
            skipping = level if title.lower() in dropped else 7
        if skipping < 7:
            continue
        pending = [(above, name) for above, name in pending if above < level]
        pending.append((level, title))
        if body.replace(MARK, "").strip(" \n\t.,;:*#"):
            parts.extend(f"\n\n{name}\n\n" for _, name in pending)
            parts.append(body.lstrip("\n"))
            pending.clear()
    return "".join(parts)
