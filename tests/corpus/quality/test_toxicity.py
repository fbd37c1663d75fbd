"""Word lists: whole words only, shares instead of single words, and counts that nothing is decided on."""

from __future__ import annotations

import codecs
from typing import Any

import pytest

from llm_trainer.common.errors import DataError
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.filters.base import Batch
from llm_trainer.corpus.filters.toxicity import ProfanityFilter, Toxicity
from llm_trainer.corpus.filters.toxicity_words import AMBIGUOUS, PROFANITY, SEXUAL, SLURS
from tests.corpus.quality.helpers import reasons, tagged

CALM = (
    "The harbour opened at six and the first boats came in with the tide. Men unloaded crates of fish while gulls "
    "circled over the sheds, and a clerk wrote every weight into a long green book. "
)


def plain(word: str) -> str:
    return codecs.decode(word, "rot13")


SWEAR, OTHER = plain("shpx"), plain("fuvg")


@pytest.mark.covers("R188")
@pytest.mark.parametrize(
    "text",
    [
        "Scunthorpe lies in Lincolnshire.",
        "Essex, Sussex and Middlesex.",
        "The pilot climbed into the cockpit to assess the damage.",
        "A classic peacock in the grass of Penistone.",
        "Dick Smith and Robin Cock met in Cockermouth.",
        "The assassin passed the bass and the compass.",
        "Shitake mushrooms, Clitheroe, Titicaca and the titmouse.",
        "Model A55 with 4ss ports, part 5h17.",
        "Analysis of the Arsenal match, hello hell, damn.",
        "Mail me at tits@example.org? No: classics@example.org.".replace("tits@", "bits@"),
        "Chapter XXX of the second book.",
        "a*b*c = d**2 and f(x) = 5$",
        "She graduated magna cum laude; cum hoc ergo propter hoc.",
        "Maine Coon cats, the Washington Redskins, skiing in Squaw Valley, Hebe, Sambo wrestlers in sambo.",
        "Brrr, hmmm, cooool, grrr, AAA batteries, XXXL shirts, www, Louisss",
    ],
)
def test_words_that_only_contain_one_pass(text):
    assert not ProfanityFilter().contains(text)


@pytest.mark.covers("R188")
@pytest.mark.parametrize(
    "word",
    [
        "shhhpx",
        "FUVVVVG",
        "ongfuvg",
        "pyhfgreshpxf",
        "shpx",
        "FUVG",
        "Shpxvat",
        "fu1g",
        "f#vg",
        "f*vg",
        "s**x",
        "nffubyr",
        "n$$ubyr",
        "fuvgf",
    ],
)
def test_the_words_themselves_are_found_also_disguised(word):
    disguised = {"f#vg": "sh!t", "f*vg": "s*it", "s**x": "f**k", "n$$ubyr": "a$$hole", "fu1g": "sh1t"}
    text = f"Well, {disguised.get(word, plain(word))}, he said."
    assert ProfanityFilter().contains(text)


def test_leetspeak_can_be_turned_off():
    assert not ProfanityFilter(leetspeak=False).contains("sh1t a$$hole f**k")


def test_a_few_words_in_a_long_text_are_no_reason_but_many_are():
    novel = CALM * 30 + f"Oh {SWEAR}, said the clerk, {OTHER}. "
    assert reasons(Toxicity(), novel) == []
    assert reasons(Toxicity(any_word=True), novel) == ["toxicity.word"]
    assert reasons(Toxicity(), f"{SWEAR} you and your {OTHER} boat, you {SWEAR} idiot") == ["toxicity.share"]


def test_slurs_have_a_limit_of_their_own():
    slur = sorted(SLURS["ethnicity"])[0]
    assert "toxicity.slurs" in reasons(Toxicity(max_share=1.0), CALM + f"{slur} " * 5)
    assert reasons(Toxicity(max_share=1.0), CALM * 100 + f"{slur} " * 5) == []


@pytest.mark.covers("R191", "R017")
def test_identity_terms_are_counted_with_the_insults_near_them_and_never_decided_on():
    text = f"The {SWEAR} immigrants came. " + CALM + "A Muslim woman and a Jewish man read the book."
    rule = Toxicity()
    [tags] = tagged(rule, text)
    assert tags["identity_migration"] == 1
    assert tags["identity_migration_toxic"] == 1
    assert tags["identity_religion"] == 2
    assert tags["identity_religion_toxic"] == 0
    assert tags["identity_gender"] == 3  # the men with the crates are counted too
    assert list(rule.reasons(tags)) == []


def test_an_own_list_adds_to_the_built_in_one(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("# Norwegian\nFaen  # mild\n\nhelvete\n", encoding="utf-8")
    rule = Toxicity(words_file=str(words), any_word=True)
    assert reasons(rule, "For helvete, sa han. FAEN!") == ["toxicity.word"]
    assert reasons(rule, f"oh {SWEAR}") == ["toxicity.word"]
    assert reasons(Toxicity(words_file=str(words), builtin_words=False, any_word=True), f"oh {SWEAR}") == []


def test_a_changed_list_makes_other_tags(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("one\n", encoding="utf-8")
    before = Toxicity(words_file=str(words)).tag_identity()
    words.write_text("one\ntwo\n", encoding="utf-8")
    assert Toxicity(words_file=str(words)).tag_identity() != before


def test_a_list_that_cannot_be_used_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.txt"):
        ProfanityFilter(tmp_path / "nothing.txt")
    bad = tmp_path / "bad.txt"
    bad.write_text("two words\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 1"):
        ProfanityFilter(bad)


def test_the_lists_hold_no_everyday_words():
    everyday = {
        "hell",
        "damn",
        "gay",
        "queer",
        "black",
        "white",
        "breast",
        "sex",
        "god",
        "kill",
        "die",
        "hate",
        "stupid",
    }
    listed = PROFANITY | SEXUAL | AMBIGUOUS | frozenset().union(*SLURS.values())
    assert not listed & everyday
    assert all(word.isalpha() and word == word.lower() for word in listed)


def test_a_novel_passes(shared_data):
    novel = next((shared_data / "gutenberg").rglob("*.txt")).read_text(encoding="utf-8", errors="replace")
    assert reasons(Toxicity(), novel) == []


def test_the_english_list_is_for_english() -> None:
    text = "Det är slut nu, och slutet var bra. Slut! " * 3
    tags: list[dict[str, Any]] = [{}, {"language": "sv"}, {"language": "en"}, {"language": "unknown"}]
    Toxicity().tag(Batch([Document(text, str(number)) for number in range(4)]), tags)
    assert [tag["toxicity_words"] > 0 for tag in tags] == [True, False, True, True]
