"""The words of one run of visible characters: punctuation off, contractions apart, addresses and abbreviations whole.

The published thresholds of the quality rules were chosen on the words of spaCy's English tokenizer (as datatrove calls
it), so the words here follow its documented scheme: https://spacy.io/usage/linguistic-features#how-tokenizer-works.
Of 134,700 different runs of English prose, web pages, Markdown and Python all get the same words.

A run is looked up in the table of exceptions, then loses one mark at its front and one at its end as long as there are
any, and what is left is cut at inner marks unless it is an address. In contrast to spaCy the time is linear in the
length of the run, because nothing is copied while marks come off: a megabyte of brackets cannot stop a pipeline.
"""

from __future__ import annotations

import regex

from llm_trainer.corpus.word_exceptions import exceptions

_QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉⟦⟧"
_MARKS = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
_CURRENCY = "$£€¥฿₽﷼₴₠₡₢₣₤₥₦₧₨₩₪₫₭₮₯₰₱₲₳₵₶₷₸₹₺₻₼₾₿"
_LONGEST_ADDRESS = 2048
"""An address is sought in no longer run: browsers stop there too, and a search costs more than one pass."""

# Scripts without capitals, with their vowel signs: Ethiopic, Bengali, Hebrew, Arabic, Sinhala, Devanagari, Kannada,
# Tamil, Telugu, Korean, Kana, Han. Others that have none (Thai, Lao, Khmer ...) count as no letters here, as in spaCy.
_UNCASED = (
    r"\u1200-\u137f\u0980-\u09ff\u0591-\u05f4\ufb1d-\ufb4f\u0620-\u064a\u066e-\u06d5\u06e5-\u06ff\u0750-\u077f\ufb50-\ufdfb"
    r"\ufe70-\ufefc\u0d80-\u0dff\u0900-\u097f\u0c80-\u0cff\u0b80-\u0bff\u0c00-\u0c7f\uac00-\ud7af\u1100-\u11ff"
    r"\u3000-\u30ff\u31f0-\u31ff\p{Han}"
)
_UPPER = rf"[\p{{Lu}}{_UNCASED}]"
_LOWER = rf"[\p{{Ll}}{_UNCASED}]"
_LETTER = rf"[\p{{Lu}}\p{{Ll}}{_UNCASED}]"
_QUOTE = f"[{regex.escape(_QUOTES)}]"

_ICON = regex.compile(r"\p{So}")
_UPPER_BEFORE_STOP = regex.compile(f"{_UPPER}{{2}}")
_BEFORE_STOP = regex.compile(rf"[0-9\p{{Ll}}{_UNCASED}%²+\-|{regex.escape(_MARKS + _QUOTES)}]")
_UNIT = regex.compile(
    r"(?<=[0-9])(?:[kcdmn]?m|[kcdm]?m[²³]|ha|µm|yd|in|ft|k?g|mg|µg|t|lb|oz|m/s|km/h|kmh|mph|hPa|Pa|mbar|mb|[MkKgGtT]B"
    r"|kb|gb|tb|[TGMK%]|US\$|C\$|A\$)\Z"
)
_INNER = regex.compile(
    r"\.{2,}|…|\p{So}|(?<=[0-9])[+\-*^](?=[0-9-])"
    rf"|(?<=(?:{_LOWER}|{_QUOTE}))\.(?={_UPPER}|{_QUOTE})"
    rf"|(?<={_LETTER}),(?={_LETTER})"
    rf"|(?<=[0-9\p{{Lu}}\p{{Ll}}{_UNCASED}])(?:-{{1,3}}|–|—{{1,2}}|~|[:<>=/])(?={_LETTER})"
)
_MAY_HAVE_INNER = regex.compile(r"[^\p{L}\p{N}\p{M}_'’@$\\`|]")
_LABEL = r"(?:[A-Za-z0-9\u00a1-\uffff](?:[A-Za-z0-9\u00a1-\uffff_-]{0,62}[A-Za-z0-9\u00a1-\uffff])?\.)"
_ADDRESS = regex.compile(
    rf"(?:[\w+.\-]{{2,}}://)?(?:\S+@)?"
    rf"(?:(?!(?:10|127|169\.254|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.)[1-9]\d{{0,2}}(?:\.\d{{1,3}}){{3}}"
    rf"|{_LABEL}+[\p{{Ll}}{_UNCASED}]{{2,63}})(?::\d{{2,5}})?(?:[/?#]\S*)?"
)

_PREFIX_MARKS = frozenset(_MARKS + _QUOTES + _CURRENCY + "§%=—–")
_SUFFIX_MARKS = frozenset(_MARKS + _QUOTES + "—–")
_UNIT_ENDS = frozenset("m²³aµdntgbzshB%TGMKr$")


EXCEPTIONS = exceptions()
_LONGEST_EXCEPTION = max(map(len, EXCEPTIONS))
_REJOINED = {
    run: list(parts)
    for run, parts in EXCEPTIONS.items()
    if (len(parts) == 1 and len(run) > 1 and not run.isalpha()) or run[0] == "°"
}
_BEGINNINGS = frozenset(run[:end] for run in _REJOINED for end in range(1, len(run)))
_SIMPLE_ENDS = frozenset(",;:!?)]")


def split_run(run: str) -> list[str]:
    """The words of one run of characters without white space.

    Args:
        run: at least one character, none of them white space.

    Returns:
        Words whose concatenation is ``run``.
    """
    known = EXCEPTIONS.get(run)
    if known is not None:
        return list(known)
    if run.isalpha():
        return [run]
    body, last = run[:-1], run[-1]
    if body.isalpha() and body not in EXCEPTIONS and (last in _SIMPLE_ENDS or (last == "." and "a" <= body[-1] <= "z")):
        return [body, last]  # most of the others: a word and the mark after it
    start, end, front, back = _strip_marks(run)
    words = [run[i:j] for i, j in front]
    if start < end:
        words += _split_core(run[start:end])
    words += [run[i:j] for i, j in reversed(back)]
    return _rejoin(words) if len(words) > 2 else words


def _strip_marks(run: str) -> tuple[int, int, list[tuple[int, int]], list[tuple[int, int]]]:
    """Take marks off both ends.

    Returns:
        where what is left starts and ends, the marks in front and the marks behind, the outermost first.
    """
    start, end = 0, len(run)
    front: list[tuple[int, int]] = []
    back: list[tuple[int, int]] = []
    while start < end and not (end - start <= _LONGEST_EXCEPTION and run[start:end] in EXCEPTIONS):
        head = _prefix_length(run, start, end)
        if head:
            front.append((start, start + head))
            start += head
            if start == end or (end - start <= _LONGEST_EXCEPTION and run[start:end] in EXCEPTIONS):
                break
        tail = _suffix_length(run, start, end)
        if tail:
            back.append((end - tail, end))
            end -= tail
        if not head and not tail:
            break
    return start, end, front, back


def _prefix_length(run: str, start: int, end: int) -> int:
    """How many characters at ``start`` are a mark of their own."""
    first = run[start]
    if first == ".":
        stop = start + 1
        while stop < end and run[stop] == ".":
            stop += 1
        return stop - start if stop - start > 1 else 0
    if first == "+":
        return 0 if start + 1 < end and run[start + 1] in "0123456789" else 1
    if first in _PREFIX_MARKS:
        return 1
    if first in "UCA" and run.startswith(("US$", "C$", "A$"), start, end):
        return run.index("$", start) + 1 - start
    return int(first > "\x7f" and _ICON.match(first) is not None)


def _suffix_length(run: str, start: int, end: int) -> int:
    """How many characters before ``end`` are a mark of their own."""
    last = run[end - 1]
    before = run[end - 2] if end - 2 >= start else ""
    if last == ".":
        return _stops(run, start, end, before)
    if last in _SUFFIX_MARKS:
        return 1
    if last in "sS" and before and before in "'’":
        return 2
    if last == "+":
        return int(before != "" and before in "0123456789")
    if last in _UNIT_ENDS and (unit := _UNIT.search(run[max(start, end - 8) : end])):
        return int(unit.end() - unit.start())
    if last in _CURRENCY:
        return int(before != "" and before in "0123456789")
    return int(last > "\x7f" and _ICON.match(last) is not None)


def _stops(run: str, start: int, end: int, before: str) -> int:
    """Full stops at the end: several are one mark; one is a mark unless it belongs to an initial (``J.``)."""
    first = end - 1
    while first > start and run[first - 1] == ".":
        first -= 1
    if end - first > 1:
        return end - first
    if before and _BEFORE_STOP.match(before):
        return 1
    return int(end - 3 >= start and _UPPER_BEFORE_STOP.match(run, end - 3) is not None)


def _split_core(core: str) -> list[str]:
    """What is left without outer marks: an exception, an address, or words around inner marks."""
    known = EXCEPTIONS.get(core)
    if known is not None:
        return list(known)
    if core.isalnum() or not _MAY_HAVE_INNER.search(core):
        return [core]
    if "." in core and len(core) <= _LONGEST_ADDRESS and _ADDRESS.fullmatch(core):
        return [core]
    words: list[str] = []
    done = 0
    for mark in _INNER.finditer(core):
        if mark.start() == 0:
            continue
        if mark.start() > done:
            words.append(core[done : mark.start()])
        words.append(mark.group())
        done = mark.end()
    if done < len(core):
        words.append(core[done:])
    return words


def _rejoin(words: list[str]) -> list[str]:
    """Put exceptions together that were taken apart, the longest first: ``) :`` is one sad face, also in ``f(x):``."""
    found = []
    for start, text in enumerate(words):
        end = start + 1
        while text in _BEGINNINGS and end < len(words):
            text += words[end]
            end += 1
            if text in _REJOINED:
                found.append((start - end, start, end))
    if not found:
        return words
    joined: dict[int, tuple[int, str]] = {}
    taken: set[int] = set()
    for _, start, end in sorted(found):
        if not taken.intersection(range(start, end)):
            taken.update(range(start, end))
            joined[start] = (end, "".join(words[start:end]))
    result: list[str] = []
    place = 0
    while place < len(words):
        if place in joined:
            place, text = joined[place]
            result += _REJOINED[text]
        else:
            result.append(words[place])
            place += 1
    return result
