"""The cleaner that removes C4's lines, and its agreement with the filter."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_trainer.corpus.cleaning.c4_lines import C4Lines
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.filters.base import Batch, Tags
from llm_trainer.corpus.filters.c4 import C4


def clean(text: str, **settings: object) -> tuple[str, Counter[str]]:
    counts: Counter[str] = Counter()
    return C4Lines(**settings).clean(Document(text, "0"), counts), counts


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("A sentence without its end", "no_sentence_end"),
        ("This goes on and on...", "no_sentence_end"),
        ("Two words.", "few_words"),
        (f"A word like {'x' * 1001} is none.", "long_word"),
        ("Please switch on JavaScript now.", "javascript"),
        ("Read our Privacy Policy before you go.", "policy"),
        ("This site uses cookies for everything.", "policy"),
        ("Three words stay.", ""),
        ('"Is it?" she said, "it is"', ""),
        (f"A word like {'x' * 1000} is one.", ""),
    ],
)
@pytest.mark.covers("R190")
def test_lines(line: str, reason: str) -> None:
    text, counts = clean(f"Before it was this.\n  {line}\t\nAfter it came that.")
    assert counts == (Counter({f"c4_lines.{reason}": 1}) if reason else Counter())
    kept = ["Before it was this.", *([] if reason else [line]), "After it came that."]
    assert text == "\n".join(kept)


def test_citations_go() -> None:
    assert clean("It was so.[1] And so[citation needed] it is.[]")[0] == "It was so. And so it is."
    assert clean("It was so.[1]", remove_citations=False)[0] == ""


def test_every_rule_can_be_switched_off() -> None:
    text = "Menu\nUse JavaScript now.\nOur privacy policy is this.[2]"
    off = dict.fromkeys(("sentences_only", "remove_javascript", "remove_policy", "remove_citations"), False)
    assert clean(text, **off, min_line_words=0)[0] == text


lines = st.lists(
    st.sampled_from(
        [
            "A b c.",
            "Menu",
            "Lorem ipsum is here.",
            "if { this.",
            "Do use javascript { here.",
            "One. Two! Three?",
            "A[1] b c.",
            "",
        ]
    ),
    max_size=8,
)


@given(lines)
def test_the_filter_decides_the_same_before_and_after(parts: list[str]) -> None:
    before = "\n".join(parts)
    tags: list[Tags] = [{}, {}]
    C4().tag(Batch([Document(before, "0"), Document(clean(before)[0], "1")]), tags)
    assert tags[0] == tags[1]
