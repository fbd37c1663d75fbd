"""Wikitext becomes prose: what a reader of the page sees, without what only the wiki needs."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_trainer.corpus.sources.wikitext import clean_wikitext


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("'''Bold''' and ''italic'' and '''''both'''''", "Bold and italic and both"),
        ("a [[House|houses]] and [[tree]]s", "a houses and trees"),
        ("[[:Category:Towns]] and [[w:en:X|x]]", "Category:Towns and x"),
        ("Text[[Category:Towns|*]] [[de:Haus]]", "Text"),
        ("[[File:A.jpg|thumb|left|A [[small]] house]]Text", "Text"),
        ("[[Datei:A.jpg|mini|Ein [[Haus|kleines ''Haus'']]]]Text", "Text"),
        ("See [http://a.org/x the site] or [https://b.org]", "See the site or"),
        ("{{Infobox\n| name = X\n| text = {{nowrap|a {{b}}}}\n}}\nText", "Text"),
        ("one<!-- hidden [[ -->two", "onetwo"),
        ('A fact.<ref name="x">Book, {{cite|p=1}}</ref> Next<ref name=x /> one', "A fact. Next one"),
        ("{| class=x\n! a\n|-\n| b\n{|\n| c\n|}\n|}\nText", "Text"),
        ("== Head ==\nText", "Head\n\nText"),
        ("* a\n** b\n# c\n: d\n; e", "- a\n- b\n- c\nd\ne"),
        ("x<br />y<sub>2</sub><div class=a>z</div>", "x\ny2z"),
        ("a&nbsp;b &lt;tag&gt; &amp; &eacute;", "a b <tag> & é"),
        ("<nowiki>[[not a link]] '''x'''</nowiki>", "[[not a link]] '''x'''"),
        ("<math>a_{1} < b</math>", "$a_{1} < b$"),
        ('<syntaxhighlight lang="c">\nint a[1] = {{0}};\n  x();\n</syntaxhighlight>', "int a[1] = {{0}};\n  x();"),
        ("__NOTOC__\nText __FORCETOC__", "Text"),
        ("<gallery>\nA.jpg|x\n</gallery>\nText", "Text"),
        ("-{zh-hans:计算机; zh-hant:電腦;}- and -{plain}- and -{H|zh:x}-.", "计算机 and plain and."),
        ("in {{lang|de|''Haus''}}, {{convert|5|km|mi}} away {{ndash}} {{as of|2015}}", "in Haus, 5 km away – 2015"),
        ("{{convert|3|to|5|m}} {{frac|1|2}} {{circa|1900}} {{nbsp}}x", "3 to 5 m 1/2 c. 1900 x"),
        ("{{convert|52419|sqmi|km2}}, {{cvt|22|e6acre}}, {{convert|5|C}}", "52,419 sq mi, 22 million acres, 5 °C"),
        ("[[Link|label with {{lang|fr|mot}}]]", "label with mot"),
        ("----\nText", "Text"),
        ("if a < b and c > d", "if a < b and c > d"),
        ("{{{1|default}}} {{{2}}}x", "default x"),
    ],
)
@pytest.mark.covers("R172")
def test_markup_becomes_text(markup: str, text: str) -> None:
    assert clean_wikitext(markup) == text


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("'''Ann''' ({{IPA|x}}; born 1970) is", "Ann (born 1970) is"),
        ("'''Ann''' (born 1970; {{tl}}) is", "Ann (born 1970) is"),
        ("'''Ann''' ({{tl}}, {{tm}}) is", "Ann is"),
        ("red, {{tl}}, blue", "red, blue"),
        ("word {{tl}}, more", "word, more"),
        ("word{{tl}} more", "word more"),
        ("end {{citation needed}}. Next", "end. Next"),
        ("* {{tl}}\n* kept", "- kept"),
        ("call main() and f( )", "call main() and f( )"),
    ],
)
@pytest.mark.covers("R172")
def test_what_removed_templates_leave_is_tidied_and_nothing_else(markup: str, text: str) -> None:
    assert clean_wikitext(markup) == text


def test_sections_of_references_and_empty_ones_go() -> None:
    references = "== References ==\n* x\n=== Sub ===\ny\n"
    markup = "Intro\n== A ==\n{{box}}\n=== B ===\ntext\n== Empty ==\n" + references + "== C ==\nend"
    assert clean_wikitext(markup) == "Intro\n\nA\n\nB\n\ntext\n\nC\n\nend"


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("before {{never closed [[ text", "before never closed text"),
        ("before {{tl}} }} after", "before after"),
        ("a <ref>open text", "a open text"),
        ("{| open table\n| x\n== Next ==\nkept", "Next\n\nkept"),
        ("a <!-- open", "a"),
    ],
)
def test_broken_markup_costs_no_article(markup: str, text: str) -> None:
    assert clean_wikitext(markup) == text


HOSTILE = [
    "{{" * 200_000, "}}" * 200_000, "[[" * 200_000, "{{a|" * 100_000 + "}}" * 100_000,
    "[[a|" * 100_000 + "]]" * 100_000,
    "<!--" * 200_000, "<ref>" * 100_000, "<nowiki>" * 80_000, "'" * 400_000, "{|\n" * 130_000, "=" * 400_000,
    "=\n" * 200_000, "{{{" * 130_000, "-{" * 200_000, "[http://" * 50_000, "&" * 400_000, "<" * 400_000,
    "(\x04" * 100_000,
    "{{x}} " * 70_000, "({{x}}," * 60_000, " " * 400_000, "\n" * 400_000, "[[A:" * 100_000, "<div " * 80_000,
    "*" * 400_000, "[http://" + "a" * 300_000, "[http://a" + " " * 300_000, "\n= a" + " " * 300_000 + "x",
    "\n" + "= " * 200_000, "{{convert|" + " " * 300_000, "-{" + "a" * 300_000, "\n=" + "a=" * 200_000,
    "{{lang|x|" * 50_000 + "y" + "}}" * 50_000, "=a" * 200_000, "\n==" * 100_000, "[" * 400_000, "__A" * 130_000,
    "<REF>a</ref>" * 83_000, "<nowiki></NOWIKI>" * 59_000, "<ref>a</Ref >" * 77_000 + "</ref>",
]  # fmt: skip


@pytest.mark.parametrize("markup", HOSTILE, ids=[repr(markup[:12]) for markup in HOSTILE])
def test_no_input_takes_more_than_linear_time(markup: str) -> None:
    begun = time.process_time()
    clean_wikitext(markup)
    assert time.process_time() - begun < 5


MARKS = [
    "{{", "}}", "[[", "]]", "|", "a", " ", "\n", "==", "{|", "|}", "(", ")", ",", "<ref>", "</ref>", "'''", ":", "*",
    "&amp;", "<nowiki>", "</nowiki>", "File:", "lang", "x", "\n* ",
]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(MARKS), max_size=40).map("".join))
def test_any_mixture_of_marks_is_read_and_leaves_no_marker(markup: str) -> None:
    text = clean_wikitext(markup)
    assert not set(text) & set("\x02\x03\x04\x05")
