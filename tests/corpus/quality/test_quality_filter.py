"""The one-object interface."""

from __future__ import annotations

import codecs
import json
import random

import pytest

from llm_trainer.corpus.quality import QualityFilter
from tests.corpus.quality.language_samples import SENTENCES

pytest.importorskip("py3langid")

_TEXT_OF_WORDS = """
the of and to in a was that he it his with as for had on at by not her but from which she they were been this
have their one all would there when who what more some could time about into than other them like out made then
over only first little after now before great through where much your how upon such any see long down day old
man did under should own way never know might thought house water place night hand light morning river garden
letter window summer road friend mother father story table evening country village people children walked
carried opened looked found left told asked answered remembered watched followed waited turned stood slowly
quietly often always almost nearly perhaps wooden heavy empty bright narrow distant silent warm cold green white
early late another between against without
"""
_WORDS = _TEXT_OF_WORDS.split()


def english(length: int) -> str:
    """Text of English words, exactly that many characters, the same in every run."""
    chooser = random.Random(11)
    sentences, size = [], 0
    while size < length:
        words = chooser.choices(_WORDS, k=chooser.randint(6, 16))
        sentences.append(" ".join(words).capitalize() + ". ")
        size += len(sentences[-1])
    return "".join(sentences)[:length]


@pytest.mark.covers("R186")
def test_the_call_of_the_documentation():
    quality_filter = QualityFilter()
    assert quality_filter.filter_text(english(500)) is True
    assert quality_filter.filter_text("too short") is False
    assert quality_filter.is_english(english(300)) is True
    assert quality_filter.language_detector.detect(english(300))[0] == "en"
    assert quality_filter.profanity_filter.contains(codecs.decode("bu fuvg", "rot13"))


@pytest.mark.covers("R189")
@pytest.mark.parametrize(("length", "kept"), [(99, False), (100, True), (100_000, True), (100_001, False)])
def test_the_limits_of_length_are_inclusive(length, kept):
    assert QualityFilter().filter_text(english(length)) is kept


@pytest.mark.covers("R187")
@pytest.mark.parametrize("code", ["de", "fr", "ru", "zh"])
def test_other_languages_are_refused(code):
    text = " ".join(SENTENCES[code]) * 3
    assert not QualityFilter().filter_text(text)
    assert "not_english" in QualityFilter().reasons(text)


@pytest.mark.covers("R190")
@pytest.mark.parametrize(
    ("sign", "text"),
    [
        ("symbols", english(200) + " ### *** === ~~~ ||| ^^^ <<< >>> ### *** === ~~~ ||| ^^^ <<< >>>" * 2),
        (
            "few_letters",
            english(100) + " 1234 5678 9012 3456 7890 12.5 33.7 88.1 90.2 11.4 15.0 77.2 18.9 20.1 55.5 60.7",
        ),
        ("capitals", english(300).upper()),
        ("repetition", "The quick brown fox jumps over the lazy dog. " * 30),
        ("repetition", "\n".join(["Buy now and save money on everything in our shop", english(60)] * 8)),
        (
            "boilerplate",
            f"{english(120)}\nRead more\nShare this post\nAll rights reserved\nLog in\nFollow us on Twitter",
        ),
        ("word_length", "x y z a b c d e f g h i j k l m n o p q r s t u v w " * 3),
        (
            "placeholder",
            "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore.",
        ),
        ("profanity", codecs.decode("Guvf shpxvat cntr vf shyy bs fuvg naq abguvat ohg shpxvat fuvg.", "rot13")),
    ],
)
def test_signs_of_low_quality(sign, text):
    assert sign in QualityFilter().low_quality_indicators(text)
    assert not QualityFilter().filter_text(text)


@pytest.mark.covers("R190")
def test_good_prose_has_no_signs_and_an_empty_text_does():
    assert not QualityFilter().low_quality_indicators(english(3000))
    assert QualityFilter().low_quality_indicators("   \n ")


def test_the_reasons_say_what_the_answer_is():
    quality = QualityFilter()
    texts = [english(500), english(50), english(400).upper(), " ".join(SENTENCES["fi"]), "", "!!!" * 100]
    assert [not quality.reasons(text) for text in texts] == [quality.filter_text(text) for text in texts]


def test_parts_can_be_replaced():
    class Finnish:
        def detect(self, text: str) -> tuple[str, float]:
            return "fi", 1.0

    quality = QualityFilter(min_chars=10, max_chars=50, language_detector=Finnish())
    assert quality.reasons(english(60)) == ["too_long", "not_english"]


def test_most_pages_of_a_filtered_crawl_and_all_of_a_novel_pass(shared_data):
    quality = QualityFilter()
    lines = (shared_data / "c4_wiki_demo" / "c4_demo.jsonl").read_text(encoding="utf-8").splitlines()
    pages = [json.loads(line)["text"] for line in lines[:100]]
    assert sum(map(quality.filter_text, pages)) >= 94
    novel = next((shared_data / "gutenberg").rglob("*.txt")).read_text(encoding="utf-8", errors="replace")
    pieces = [novel[start : start + 5000] for start in range(5000, 105_000, 10_000)]
    assert all(map(quality.filter_text, pieces))
