"""Personal data: what is found, what only looks like it, and what a text costs."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_trainer.common.errors import ConfigError
from llm_trainer.corpus.privacy import KINDS, Redaction
from llm_trainer.corpus.privacy.validators import (
    is_card_number,
    is_iban,
    is_international_number,
    is_public_ip,
    is_ssn,
    luhn,
)
from tests.corpus.quality.privacy_cases import NEGATIVE, POSITIVE


def redact(text: str, **options: object) -> str:
    return Redaction(**options).redact(text, Counter())


@pytest.mark.covers("R193")
def test_personal_data_is_replaced_by_its_kind():
    assert len(POSITIVE) >= 100
    wrong = [
        (kind, text, found)
        for kind, sentence, value in POSITIVE
        if (found := redact(text := sentence.replace("{}", value))) != sentence.replace("{}", f"<{kind.upper()}>")
    ]
    assert not wrong
    assert {kind for kind, _, _ in POSITIVE} == set(KINDS)


@pytest.mark.covers("R193")
def test_what_only_looks_like_it_stays():
    assert len(NEGATIVE) >= 200
    wrong = [(text, found) for text in NEGATIVE if (found := redact(text)) != text]
    assert not wrong


def test_everything_in_one_text_and_counted():
    text = " ".join(sentence.replace("{}", value) + "\n" for _, sentence, value in POSITIVE)
    counts: Counter[str] = Counter()
    redacted = Redaction().redact(text, counts)
    expected = Counter(f"redaction.{kind}" for kind, _, _ in POSITIVE)
    assert counts == expected
    assert not any(value in redacted for kind, _, value in POSITIVE if kind != "credentials")


def test_kinds_and_placeholders_can_be_chosen():
    text = "jane@harbourmail.org, 415-555-2671, 8.8.8.8"
    assert redact(text, kinds=["email"]) == "<EMAIL>, 415-555-2671, 8.8.8.8"
    assert redact(text, custom={"email": "[mail]"}) == "[mail], <PHONE>, <IP>"
    assert redact(text, placeholders="safe_values") == "email@example.com, 555-0100, 192.0.2.1"


@pytest.mark.parametrize("placeholders", ["names", "safe_values"])
def test_a_redacted_text_stays_as_it_is(placeholders):
    rule = Redaction(placeholders=placeholders)
    text = "\n".join(sentence.replace("{}", value) for _, sentence, value in POSITIVE)
    once = rule.redact(text, Counter())
    counts: Counter[str] = Counter()
    assert rule.redact(once, counts) == once
    assert not counts


_BASE64 = "MIIEowIBAAKCAQEA3Tz2mr7SZiAMfQyuvBjM9Oi8dRkC1vYsKqNwPzXe5LbTgHUa\n" * 12


@pytest.mark.parametrize(
    "lines",
    [
        _BASE64 + "q7Zx9w==",
        "Version: GnuPG v2\n\n" + _BASE64 + "=aB3d",
        "".join(f'  "{line}\\n" +\n' for line in _BASE64.splitlines()),
        "".join(f"> {line}\n" for line in _BASE64.splitlines()) + "> ",
        "".join(f"# {line}\r\n" for line in _BASE64.splitlines()),
    ],
    ids=["short last line", "check sum", "string constants", "quoted mail", "comment"],
)
def test_nothing_of_a_private_key_is_left(lines):
    text = f"before -----BEGIN RSA PRIVATE KEY-----\n{lines}\n-----END RSA PRIVATE KEY----- after"
    assert redact(text) == "before <KEY> after"


def test_a_key_that_is_cut_off_goes_and_what_follows_stays():
    begin = "-----BEGIN PRIVATE KEY-----\n"
    assert redact(begin + _BASE64 + "\nThat was it.").endswith("<KEY>\n\nThat was it.")
    two = f"{begin}{_BASE64}Some words.\n{begin}{_BASE64}-----END PRIVATE KEY-----\nEnd."
    assert redact(two) == "<KEY>\nSome words.\n<KEY>\nEnd."
    prose = f"It begins with {begin}and then come the bytes."
    assert redact(prose) == prose


def test_contradictory_settings_are_refused():
    with pytest.raises(ConfigError, match="not among the kinds"):
        Redaction(kinds=["email"], custom={"phone": "x"})
    with pytest.raises(ConfigError, match="itself be taken"):
        Redaction(custom={"email": "me@harbourmail.org"})
    with pytest.raises(ConfigError, match="kinds"):
        Redaction(kinds=["name"])


def test_check_digits():
    assert luhn("79927398713") and not luhn("79927398710")
    assert is_card_number("4111111111111111") and not is_card_number("4111111111111112")
    assert not is_card_number("9999999999999995")
    assert is_iban("GB82WEST12345698765432") and not is_iban("GB82WEST12345698765431")
    assert not is_iban("GB82WEST1234569876543")
    assert is_ssn("536", "22", "8145") and not is_ssn("666", "22", "8145")
    assert is_public_ip("8.8.8.8") and not is_public_ip("10.1.2.3") and not is_public_ip("08.8.8.8")
    assert is_public_ip("2001:4860:4860::8888") and not is_public_ip("2001:db8::1")
    assert is_international_number("493012345678") and not is_international_number("4930")


@given(text=st.text(alphabet="0123456789 -./()+:@abcXY=%_\n", max_size=80))
@settings(max_examples=300, deadline=None)
def test_any_text_gives_a_text_that_is_stable(text):
    once = redact(text)
    assert redact(once) == once


@pytest.mark.parametrize(
    "unit",
    ["1", "1 ", "12-", "(1", "+1", "1.", "1.1.", "a@", "@a.", "a.a@", "a.", "AB12", "A1 ", ":", "a:", "f:f", "://",
     "://a:", "key=", "password: a", "secret", "eyJa.", "eyJ", "sk-", "-----BEGIN PRIVATE KEY-----\n",
     "-----BEGIN RSA PRIVATE KEY-----AAAA",
     "(at)", "a (at) ", "a.(dot)", "4111 ", "00 ", "tel ", "+49 (0)", "x@x-", "GB82 ", "\\n", "ssn 1",
     "gb82a", "authorization: basic ", "://a@", "1:AA", "-----END PRIVATE KEY-----\n", "8(123)", "тел ",
     "-----BEGIN PRIVATE KEY----------END PRIVATE KEY-----"],
)  # fmt: skip
def test_time_grows_with_length_and_not_with_its_square(unit):
    text = unit * (200_000 // len(unit))
    start = time.process_time()
    redact(text)
    assert time.process_time() - start < 2.0


def test_novels_and_technical_prose_hold_hardly_any(shared_data):
    rule = Redaction()
    counts: Counter[str] = Counter()
    for path in sorted((shared_data / "rust_book").rglob("*.md"))[:60]:
        rule.redact(path.read_text(encoding="utf-8"), counts)
    assert sum(counts.values()) <= 3, counts
