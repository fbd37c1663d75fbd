"""Where personal data may be: e-mail addresses, telephone, card and account numbers, network addresses.

A pattern only proposes; a validator decides. Every pattern is linear in the length of the text: runs are bounded or
possessive, and none can begin inside a run that another start has read already.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TypeAlias

import regex

from llm_trainer.corpus.privacy.secrets import Found
from llm_trainer.corpus.privacy.validators import (
    IBAN_LENGTHS,
    is_card_number,
    is_iban,
    is_international_number,
    is_public_ip,
    is_ssn,
)

Regions: TypeAlias = tuple[tuple[int, int], ...]
"""Stretches of a text, as (start, stop)."""

_DOMAIN = regex.compile(
    r"@(?:[\p{L}\p{N}](?:[\p{L}\p{N}-]{0,61}[\p{L}\p{N}])?\.){1,8}(?P<top>\p{L}{2,24}|xn--[a-z0-9]{2,59})(?![\w@])"
)
_LOCAL_END = regex.compile(r"(?r)(?<![\w@.%+/'-])[\p{L}\p{N}_](?:[\w.%+'-]{0,62}[\w+-])?\Z")
_SPELLED = regex.compile(
    r"(?i)(?<![\w.+-])[\w.+-]{1,64} ?(?:\(at\)|\[at\]|\{at\}) ?"
    r"(?:[\w-]{1,63} ?(?:\.|\(dot\)|\[dot\]|\{dot\}) ?){1,4}[a-z]{2,10}(?!\w)"
)
# ``icon@2x.png`` and ``package@next.tgz`` are file names.
_FILE_ENDINGS_TEXT = (
    "css dll exe gif gz htm html internal java jpeg jpg js json jsx lan local localhost map md mp3 mp4 pdf php "
    "png py rb service so socket svg tgz ts tsx txt webp xml yaml yml zip "
)
_FILE_ENDINGS = frozenset(_FILE_ENDINGS_TEXT.split())

_NUMBERS = regex.compile(r"(?<![\d+(])[\d+(][\d ().+/\u00a0\u2010-\u2013-]{6,}+")
_CARD = regex.compile(
    r"(?<![\d.,+-])(?:\d{13,19}|\d{4}([ .\u00a0\u2010-\u2013-])\d{4}\1\d{4}\1\d{1,7}"
    r"|\d{4}([ .\u00a0\u2010-\u2013-])\d{6}\2\d{4,5})(?![\d]|[.,-]\d)"
)
_SSN = regex.compile(r"(?<![\w.-])(\d{3})-(\d{2})-(\d{4})(?![\w-]|\.\d)")
_SSN_NAMED = regex.compile(
    r"(?i)(?:ssn|social security(?: number| no\.?)?)\W{0,5}"
    r"(\d{3})[ .\u2010-\u2013-]?(\d{2})[ .\u2010-\u2013-]?(\d{4})(?!\d)"
)
# Chinese, Japanese and Thai write no space around a number.
_LETTER = r"[\w--[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]]"
_IPV4 = regex.compile(rf"(?V1)(?<!{_LETTER}|[.-])(?:\d{{1,3}}\.){{3}}\d{{1,3}}(?!{_LETTER}|-|\.\d)")
_IPV6 = regex.compile(r"(?<![\w:.])[0-9A-Fa-f]{1,4}:[0-9A-Fa-f:]{2,35}(?:\.\d{1,3}){0,3}(?![\w:])")
# In small letters without spaces only: with them, it would be every sentence.
_IBAN = regex.compile(r"(?<![A-Za-z0-9])(?:[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,30}+|[a-z]{2}\d{2}[a-z0-9]{11,30}+)")
_VERSION_BEFORE = regex.compile(
    r"(?i)(?:\bv|versions?|release|section|§|build|firmware|rev\.?|oid"
    r"|firefox|chrome|chromium|safari|opera|edge|netscape|explorer|java|flash|driver|kernel|\bec)[ :./=]{0,2}$"
)

_SEPARATOR = r"[ .\u00a0\u2010-\u2013-]"
_PHONE = regex.compile(
    rf"""(?<![\w.,/$€£¥#:=+-]|[\d$€£¥]\ |[\d)]\()
    (?:
      (?P<international>(?:\+|(?<!\d)00\ ?(?=[2-9]|1[ -]?\(?[2-9]\d\d))
        \(?\d{{1,3}}\)?(?:{_SEPARATOR}?\(?\d{{1,5}}\)?){{2,6}})
    | (?P<american>(?:1{_SEPARATOR})?
        (?:\([2-9]\d{{2}}\)\ ?|[2-9]\d{{2}}/(?=\d{{3}}-)|[2-9]\d{{2}}(?P<s>[ .\u2010-\u2013-]))
        \d{{3}}(?(s)(?P=s)|[ .-])\d{{4}})
    | (?P<british>\(?0(?:20|23|24|28|29)\)?\ \d{{4}}\ \d{{4}}
        |\(?01\d{{2,3}}\)?[ -]\d{{3}}[ -]?\d{{3,4}}|07\d{{3}}[ -]?\d{{3}}[ -]?\d{{3}})
    | (?P<french>0[1-9](?P<f>[ .-])\d{{2}}(?:(?P=f)\d{{2}}){{3}})
    | (?P<german>\(?0[1-9]\d{{1,4}}\)?(?:\ ?/\ ?|\ ?-\ ?)\d{{3,4}}[ -]?\d{{2,5}}(?:[ -]\d{{1,4}})?
        |01[567]\d[ -/]\d{{7,8}})
    | (?P<russian>8[ -]?\(\d{{3,5}}\)[ -]?\d{{1,3}}-\d{{2}}-\d{{2}})
    | (?P<brazilian>\([1-9]{{2}}\)\ ?9\d{{4}}-\d{{4}})
    | (?P<turkish>0[2-5]\d{{2}}\ \d{{3}}\ \d{{2}}\ \d{{2}})
    | (?P<swiss>0[2-9]\d\ \d{{3}}\ \d{{2}}\ \d{{2}})
    | (?P<australian>\(0[2378]\)\ ?\d{{4}}\ \d{{4}}|04\d{{2}}\ \d{{3}}\ \d{{3}})
    )(?!\d|[.,/:-]\d|\ \d|\p{{L}}|[%°])""",
    regex.VERBOSE,
)
_PHONE_WORD = regex.compile(
    r"(?i)(?<!\p{L})(?:tel|tél|teléfono|telefono|telefon|telefoon|téléphone|telephone|phone|mobile|"
    r"mobil|móvil|cell|fax|call|whatsapp|sms|hotline|ph|handy|dial)"
    r"(?: us| me| number| no| nr| at| on| now| office| today)*[.:)]{0,2} ?[.:]? ?$"
    r"|(?:电话|電話|手机|手機|携帯|전화|โทร|(?<!\p{L})(?:тел|телефон|моб|факс))(?:号码|号|番号|번호)?[.:：)]{0,2} ?$"
)
_NAMED_NUMBER = regex.compile(r"[+(]{0,2}\d(?:[ .()/\u00a0\u2010-\u2013-]{0,3}\d){6,14}(?!\d)")
_DATE = regex.compile(
    r"(?:19|20)\d{2}[-/. ](?:0?[1-9]|1[0-2])[-/. ]\d{1,2}"
    r"|\d{1,2}[-/. ]\d{1,2}[-/. ](?:19|20)\d{2}|(?:19|20)\d{2} ?[-\u2013] ?(?:19|20)\d{2}"
)
_BOOK_NUMBER = regex.compile(r"97[89][ -]?\d|(?i:is[bs]n)")


def find_emails(text: str) -> Iterator[Found]:
    """Addresses, also those that are written ``name (at) host (dot) org``."""
    if "@" in text:
        for match in _DOMAIN.finditer(text):
            if match["top"].lower() in _FILE_ENDINGS:
                continue
            at = match.start()
            local = _LOCAL_END.search(text, max(0, at - 65), at)
            # git@host:path is the address of a repository.
            if local and not (local[0] == "git" and text[match.end() : match.end() + 1] in (":", "/")):
                yield Found(local.start(), match.end())
    if "(at)" in text or "[at]" in text or "(AT)" in text or "[AT]" in text or "{at}" in text:
        yield from (Found(*match.span()) for match in _SPELLED.finditer(text))


def find_ibans(text: str) -> Iterator[Found]:
    """Account numbers with their country's length and the right check digits."""
    for match in _IBAN.finditer(text):
        length = IBAN_LENGTHS.get(match[0][:2].upper())
        if length is None:
            continue
        # A word in capitals may follow the number; the country says where it ends.
        places = [place for place, letter in enumerate(match[0]) if letter.isalnum()]
        if len(places) < length:
            continue
        stop = places[length - 1] + 1
        after = text[match.start() + stop : match.start() + stop + 1]
        if not after.isalnum() and is_iban("".join(match[0][place] for place in places[:length]).upper()):
            yield Found(match.start(), match.start() + stop)


@lru_cache(maxsize=1)
def number_regions(text: str) -> tuple[tuple[int, int], ...]:
    """Stretches of digits, spaces and number punctuation with at least seven digits: where numbers can be.

    Three kinds ask for those of the same text one after the other, so the last answer is kept.
    """
    spans = (match.span() for match in _NUMBERS.finditer(text))
    return tuple(
        (start, stop) for start, stop in spans if stop - start > 40 or sum(map(str.isdigit, text[start:stop])) >= 7
    )


def find_cards(text: str, regions: Regions) -> Iterator[Found]:
    """Payment card numbers."""
    for start, stop in regions:
        for match in _CARD.finditer(text, start, min(len(text), stop + 1)):
            if is_card_number("".join(filter(str.isdigit, match[0]))):
                yield Found(*match.span())


def find_ssns(text: str, regions: Regions) -> Iterator[Found]:
    """Social security numbers of the United States."""
    for start, stop in regions:
        for match in _SSN.finditer(text, start, min(len(text), stop + 1)):
            if is_ssn(*match.groups()):
                yield Found(*match.span())
    if regions and ("SSN" in text or "ocial " in text or "ssn" in text):
        for match in _SSN_NAMED.finditer(text):
            if is_ssn(*match.groups()):
                yield Found(match.start(1), match.end())


def find_ips(text: str) -> Iterator[Found]:
    """Public addresses, versions 4 and 6."""
    for match in _IPV4.finditer(text):
        if is_public_ip(match[0]) and not _VERSION_BEFORE.search(text[max(0, match.start() - 12) : match.start()]):
            yield Found(*match.span())
    if ":" in text:
        for match in _IPV6.finditer(text):
            found = match[0].rstrip(":")
            if match[0].count(":") >= 3 and is_public_ip(found):
                yield Found(match.start(), match.start() + len(found))


def find_phones(text: str, regions: Regions) -> Iterator[Found]:
    """Telephone numbers: international ones, common national forms, and any after a word such as "phone"."""
    for start, stop in regions:
        named = None
        if _PHONE_WORD.search(text[max(0, start - 24) : start]):
            named = _NAMED_NUMBER.match(text, start, min(len(text), stop + 1))
            if named and not _DATE.match(text, start):
                yield Found(*named.span())
        for match in _PHONE.finditer(text, named.end() if named else start, min(len(text), stop + 1)):
            if _is_phone(text, match):
                yield Found(*match.span())


def _is_phone(text: str, match: regex.Match[str]) -> bool:
    found = match[0]
    digits = "".join(filter(str.isdigit, found))
    if _DATE.search(found):
        return False
    if match["international"] is not None:
        # "+1.12345679" is a signed fraction.
        fraction = found.count(".") == 1 and found[1:].replace(".", "").isdigit()
        balanced = found.count("(") == found.count(")")
        return not fraction and balanced and is_international_number(digits.removeprefix("00"))
    if not 9 <= len(digits) <= 13:
        return False
    return not _BOOK_NUMBER.search(text[max(0, match.start() - 8) : match.start()] + found[:5])
