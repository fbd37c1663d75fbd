"""Every rule at its published threshold, from both sides."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_trainer.common.errors import ConfigError
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.filters.base import Batch, Filter, Tags
from llm_trainer.corpus.filters.c4 import C4, sentences
from llm_trainer.corpus.filters.fineweb import FineWeb
from llm_trainer.corpus.filters.gopher_quality import GopherQuality
from llm_trainer.corpus.filters.gopher_repetition import GopherRepetition
from llm_trainer.corpus.filters.length import Length

FAMILIES: tuple[Callable[[], Filter], ...] = (Length, GopherQuality, GopherRepetition, C4, FineWeb)


def tagged(found: Filter, texts: list[str]) -> list[Tags]:
    tags: list[Tags] = [{} for _ in texts]
    found.tag(Batch([Document(text, str(number)) for number, text in enumerate(texts)]), tags)
    return tags


def reasons(found: Filter, text: str) -> list[str]:
    return list(found.reasons(tagged(found, [text])[0]))


def numbered(count: int, start: int = 0) -> list[str]:
    """Different words of four characters, ``waaa``, ``waab`` ..."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [f"w{letters[n // 676 % 26]}{letters[n // 26 % 26]}{letters[n % 26]}" for n in range(start, start + count)]


@pytest.mark.covers("R189")
@pytest.mark.parametrize(
    ("length", "expected"),
    [(0, ["length.too_short"]), (99, ["length.too_short"]), (100, []), (100_000, []), (100_001, ["length.too_long"])],
)
def test_length(length: int, expected: list[str]) -> None:
    assert reasons(Length(), "x" * length) == expected


@pytest.mark.covers("R189")
def test_length_counts_characters_not_bytes() -> None:
    assert reasons(Length(), "é" * 100_000) == []


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="above max_characters"):
        Length(min_characters=10, max_characters=9)
    with pytest.raises(ConfigError, match="above max_words"):
        GopherQuality(min_words=10, max_words=9)


# One line for each rule of Gopher's quality: the code, a text that just breaks it, one that just does not.
QUALITY = {
    "few_words": (" ".join(numbered(49)) + " . ! ?", " ".join(numbered(50))),
    "many_words": ("a " * 100_001, "a " * 100_000 + ". " * 5),
    "short_words": ("aa " * 51 + "aaaa " * 50, "aa " * 50 + "aaaa " * 50),
    "long_words": ("b" * 10 + " " + "c" * 11, "b" * 10 + " " + "c" * 10),
    "hashes": ("# # " + "word " * 17, "# # " + "word " * 18),
    "ellipses": ("word… " * 1 + "word " * 7, "word… " + "word " * 8),
    "bullet_lines": ("- a\n" * 10 + " • b\n" * 9 + "c\n" * 2, "- a\n" * 9 + " • b\n" * 9 + "c\n" * 2),
    "ellipsis_lines": ("a...\n" * 2 + "b… \n" * 2 + "c\n" * 9, "a...\n" * 2 + "b…\n" + "c\n" * 7),
    "few_letters": ("word " * 79 + "1 " * 21, "word " * 80 + "1 " * 20),
    "few_stop_words": ("the the word", "the of word"),
}


@pytest.mark.covers("R190")
@pytest.mark.parametrize("code", QUALITY)
def test_gopher_quality(code: str) -> None:
    broken, kept = QUALITY[code]
    assert f"gopher_quality.{code}" in reasons(GopherQuality(), broken)
    assert f"gopher_quality.{code}" not in reasons(GopherQuality(), kept)


def test_a_rule_that_is_switched_off_keeps_everything() -> None:
    names = [name for name in GopherQuality.model_fields if name != "stop_words"]
    off = GopherQuality(**dict.fromkeys(names))
    for broken, _ in QUALITY.values():
        assert reasons(off, broken) == []


def test_stop_words_are_a_matter_of_the_language() -> None:
    text = "der Hund und die Katze " * 20
    assert "gopher_quality.few_stop_words" in reasons(GopherQuality(), text)
    assert "gopher_quality.few_stop_words" not in reasons(GopherQuality(stop_words=["der", "und", "die"]), text)


def test_thresholds_can_be_changed_without_reading_again() -> None:
    tags = tagged(GopherQuality(), ["the quick brown fox of the house"])[0]
    tags = json.loads(json.dumps(tags))
    assert "gopher_quality.few_words" in list(GopherQuality().reasons(tags))
    assert list(GopherQuality(min_words=7).reasons(tags)) == []
    assert GopherQuality().tag_identity() == GopherQuality(min_words=7).tag_identity()
    assert GopherQuality().tag_identity() != GopherQuality(stop_words=["und"]).tag_identity()


def repeated_words(size: int, copies: int, others: int) -> str:
    """One run of ``size`` words of four letters ``copies`` times, between ``others`` other words of four letters."""
    run, fill = " ".join(numbered(size, 9000)), numbered(others)
    parts = []
    for copy in range(copies):
        parts += [run, *fill[copy * others // copies : (copy + 1) * others // copies]]
    return " ".join(parts)


@pytest.mark.covers("R190")
@pytest.mark.parametrize(("size", "limit"), [(2, 0.20), (3, 0.18), (4, 0.16)])
def test_top_ngrams(size: int, limit: float) -> None:
    shares = {}
    for others in range(20, 400):
        text = repeated_words(size, 10, others)
        share = 10 * (5 * size - 1) / len(text)
        shares[share > limit] = f"gopher_repetition.top_{size}_gram" in reasons(GopherRepetition(), text)
        if not share > limit:
            break
    assert shares == {True: True, False: False}


@pytest.mark.covers("R190")
@pytest.mark.parametrize("size", [5, 6, 7, 8, 9, 10])
def test_duplicate_ngrams(size: int) -> None:
    limit = (20 - size) / 100
    shares = {}
    for others in range(60, 1200, 5):
        text = repeated_words(size, 11, others)
        share = 10 * 4 * size / len(text)
        shares[share > limit] = f"gopher_repetition.duplicate_{size}_grams" in reasons(GopherRepetition(), text)
        if not share > limit:
            break
    assert shares == {True: True, False: False}


@pytest.mark.covers("R190")
@pytest.mark.parametrize(
    ("code", "broken", "kept"),
    [
        ("duplicate_lines", "a\na\na\na\na" + "\nb\nc\nd\ne\nf\ng\nh\ni", "a\na\na\na" + "\nb\nc\nd\ne\nf\ng"),
        ("duplicate_paragraphs", "a\n\na\n\na\n\nb", "a\n\na\n\na\n\na\n\nb\n\nc\n\nd\n\ne\n\nf\n\ng"),
        ("duplicate_line_characters", f"{'a' * 21}\n{'a' * 21}\n{'b' * 60}", f"{'a' * 20}\n{'a' * 20}\n{'b' * 60}"),
        (
            "duplicate_paragraph_characters",
            f"{'a' * 22}\n\n{'a' * 22}\n\n{'b' * 60}",
            f"{'a' * 20}\n\n{'a' * 20}\n\n{'b' * 60}",
        ),
    ],
)
def test_duplicate_lines_and_paragraphs(code: str, broken: str, kept: str) -> None:
    assert f"gopher_repetition.{code}" in reasons(GopherRepetition(), broken)
    assert f"gopher_repetition.{code}" not in reasons(GopherRepetition(), kept)


@pytest.mark.covers("R190")
@pytest.mark.parametrize(
    ("code", "broken", "kept"),
    [
        ("empty", " \n\t\n", "a"),
        ("few_punctuated_lines", "a.\n" * 11 + "b\n" * 89, "a.\n" * 6 + "क।\n" * 6 + "b\n" * 88),
        (
            "short_lines",
            ("a" * 30 + "\n") * 68 + ("b" * 31 + "\n") * 32,
            ("a" * 30 + "\n") * 67 + ("b" * 31 + "\n") * 33,
        ),
        ("duplicate_lines", "ab\nab\n" + "c" * 195, "ab\nab\n" + "c" * 196),
        ("line_breaks", "a b c\n" * 10 + "\n", "a b c d\n" * 10 + "\n" * 2),
    ],
)
def test_fineweb(code: str, broken: str, kept: str) -> None:
    assert f"fineweb.{code}" in reasons(FineWeb(), broken)
    assert f"fineweb.{code}" not in reasons(FineWeb(), kept)


@pytest.mark.covers("R190")
@pytest.mark.parametrize(
    ("code", "broken", "kept"),
    [
        (
            "few_sentences",
            "One is here. Two is here.\nThree is here. Four is here.",
            "See the cat. See it run.\nHere it is. There it goes! Will it stop?",
        ),
        ("lorem_ipsum", "Here is some Lorem Ipsum text.", "Lorem ipsum without an end\nThis is a line."),
        ("curly_bracket", "This line has { in it.", "if (x) {\nThis is a line."),
    ],
)
def test_c4(code: str, broken: str, kept: str) -> None:
    assert f"c4.{code}" in reasons(C4(), broken)
    assert f"c4.{code}" not in reasons(C4(), kept)


def test_c4_rules_can_be_switched_off() -> None:
    found = C4(min_sentences=None, drop_lorem_ipsum=False, drop_curly_bracket=False)
    assert reasons(found, "A lorem ipsum { here.") == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", 0),
        ("word", 1),
        ("One. Two.", 2),
        ('He said "Go!" and went.', 2),
        ("Wait... what?", 1),
        ("No.1 is e.g. this.", 1),
    ],
)
def test_sentences(line: str, expected: int) -> None:
    assert sentences([line]).tolist() == [expected]
    assert sentences(["First. Second", line, "Third"]).tolist() == [2, expected, 1]


texts = st.lists(
    st.text(alphabet="abt. \n-#…!{•", max_size=80) | st.sampled_from(["the end of it. " * 9, "x\n\nx\n\nx", "", "\n"]),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60)
@given(texts)
def test_tags_do_not_depend_on_the_batch(batch: list[str]) -> None:
    for family in FAMILIES:
        together = tagged(family(), batch)
        assert together == [tagged(family(), [text])[0] for text in batch]
        assert json.loads(json.dumps(together)) == together
        for tags in together:
            assert all(reason.startswith(f"{family().name}.") for reason in family().reasons(tags))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_hundred_documents_are_tagged_like_one(family: Callable[[], Filter]) -> None:
    batch = [" ".join(numbered(number * 3)) + ".\n" * (number % 7) for number in range(100)]
    assert tagged(family(), batch) == [tagged(family(), [text])[0] for text in batch]


def test_families_use_different_tags() -> None:
    names = [name for family in FAMILIES for name in tagged(family(), ["text"])[0]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("text", ["", " ", "\n", "\n\n", "\t\n \n", ".", "\x00", "\ud800", "…"])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_to_read_is_no_error(family: Callable[[], Filter], text: str) -> None:
    reasons(family(), text)
