"""Repairs: what they change, what they leave alone, and that a second time changes nothing."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_trainer.corpus.cleaning.base import Cleaner
from llm_trainer.corpus.cleaning.boilerplate import Boilerplate
from llm_trainer.corpus.cleaning.markup import Markup
from llm_trainer.corpus.cleaning.spelling import Spelling
from llm_trainer.corpus.cleaning.spelling_tables import british_to_american, misspellings
from llm_trainer.corpus.cleaning.unicode import Unicode
from tests.corpus.quality.helpers import clean

pytest.importorskip("ftfy")

CLEANERS: list[Cleaner] = [
    Unicode(),
    Unicode(straight_quotes=True),
    Boilerplate(),
    Markup(),
    Spelling(),
    Spelling(variant="american"),
    Spelling(variant="british"),
]
PROSE = (
    "The harbour master counted the boats at dusk, and every one of them had come home before the storm.\n"
    "In the morning the sea was calm again, and the children ran along the wall to look at the wreck.\n"
)

# --- characters ---------------------------------------------------------------------------------------------------


@pytest.mark.covers("R192")
@pytest.mark.parametrize(
    ("broken", "repaired"),
    [
        ("cafÃ© crÃ¨me", "café crème"),
        ("Itâ€™s â€œfineâ€\x9d", "It’s “fine”"),
        ("schÃ¶n und groÃŸ", "schön und groß"),
        ("cafe\u0301", "café"),
        ("a\u00a0b\u2009c\u3000d", "a b c d"),
        ("one\r\ntwo\rthree\u2028four", "one\ntwo\nthree\nfour"),
        ("soft\u00adhyphen zero\u200bwidth \ufeffmark", "softhyphen zerowidth mark"),
        ("bell\x07 null\x00 escape\x1b[0m", "bell null escape[0m"),
        ("ﬁne ﬂow oﬃce", "fine flow office"),
        ("a  \n\n\n\n\nb\t", "a\n\nb"),
        ("broken \ud800 half", "broken  half"),
        ("ไทย\u200b zero\u200bคำ", "ไทย zeroคำ"),
        ("right\u200f to \u202aleft\u202c", "right to left"),
    ],
)
def test_characters_are_repaired(broken, repaired):
    assert clean(Unicode(), broken) == repaired


@pytest.mark.parametrize(
    "text",
    [
        "x² + y³ ≠ ½",
        "नमस्‍ते क्‍ष",
        "می‌خواهم",
        "👩‍🚀 and 👨‍👩‍👧",
        "“quotes” — and… dots",
        "naïve Ångström façade",
        "def f(x):\n\treturn x\n\n    # comment",
        "汉字　".strip() + " 日本語",
        "Ã is a letter of Portuguese: MANHÃ, IRMÃ",
        "ខ្មែរ\u200bពាក្យ ไทย\u200bคำ",
        "ᠮᠣᠩᠭᠣᠯ\u202fᠤᠨ",
        "ꦏ\u200dꦏ",
    ],
)
def test_good_characters_stay(text):
    assert clean(Unicode(), text) == text


def test_curly_quotes_are_straightened_on_request():
    assert clean(Unicode(straight_quotes=True), "“It’s”") == '"It\'s"'


def test_what_was_done_is_counted():
    counts: Counter[str] = Counter()
    clean(Unicode(), "cafÃ©\n\x07two\u200b\u00a0", counts)
    assert counts == {
        "unicode.mojibake": 1,
        "unicode.control_characters": 1,
        "unicode.invisible_characters": 1,
        "unicode.spaces": 1,
    }


# --- boilerplate --------------------------------------------------------------------------------------------------


@pytest.mark.covers("R192", "R190")
@pytest.mark.parametrize(
    "line",
    [
        "This website uses cookies to give you the best experience. Accept",
        "We use cookies to personalise content.",
        "By continuing to use this site you agree to our use of cookies.",
        "Please enable JavaScript to view the comments.",
        "Share this post on Facebook, Twitter or LinkedIn",
        "Read more »",
        "Continue reading →",
        "Skip to main content",
        "Copyright © 2019 Example Ltd.",
        "© 2021 The Harbour Times. All rights reserved.",
        "Subscribe to our weekly newsletter for updates!",
        "You must be logged in to post a comment.",
        "Follow us on Twitter",
        "Home | About | News | Contact us | Help",
        "Powered by WordPress",
        "Your email address will not be published.",
        "Diese Webseite verwendet Cookies.",
        "Ce site utilise des cookies pour mesurer l'audience.",
        "Este sitio utiliza cookies propias.",
        "Questo sito utilizza cookie tecnici.",
        "Deze website gebruikt cookies.",
        "Alle Rechte vorbehalten.",
    ],
)
def test_furniture_of_web_pages_goes(line):
    counts: Counter[str] = Counter()
    assert clean(Boilerplate(), f"{PROSE}\n{line}\n\n{PROSE}", counts) == f"{PROSE}\n{PROSE}".strip("\n")
    assert sum(counts.values()) == 1


@pytest.mark.parametrize(
    "line",
    [
        "Cookies are small files, and this chapter explains who reads them.",
        "He could read more in a week than others in a year.",
        "Share the bread among twelve.",
        "The copyright of 1886 was the first of its kind.",
        "Home",
        "O Captain! my Captain!",
        "2 eggs",
        "a | b",
        "| x | y | z | w | v |",
        "They follow us on foot.",
        "log in the fire, cabin in the woods",
        "Subscribe to a theory, said he, and you will be its servant.",
    ],
)
def test_sentences_about_such_things_stay(line):
    text = f"{PROSE}\n{line}\n\n{PROSE}"
    assert clean(Boilerplate(), text) == text


def test_a_phrase_in_the_middle_of_a_paragraph_stays():
    text = f"{PROSE}and so that nobody misses an issue, you can\nsubscribe to our newsletter, which is free.\n{PROSE}"
    assert clean(Boilerplate(), text) == text


def test_menus_go_from_the_edges_only():
    menu = "Home\nProducts\nOur team\nNews\nJobs\nContact\nImprint\n"
    assert clean(Boilerplate(), menu + PROSE + menu) == PROSE.strip("\n")
    poem = f"{PROSE}\n{menu}\n{PROSE}"
    assert clean(Boilerplate(), poem) == poem
    assert clean(Boilerplate(), menu) == menu


@pytest.mark.parametrize(
    "lines",
    [
        "John Lennon\nPaul McCartney\nGeorge Harrison\nRingo Starr\nPete Best\nStuart Sutcliffe",
        "Ingredients\nFlour\nSugar\nButter\nBaking Powder\nMilk\nVanilla Extract",
        "Dreams\n\nHold fast\nTo dreams\nFor if dreams\ndie\nLife is\nA broken bird\nThat cannot fly",
        "床前明月光\n疑是地上霜\n举头望明月\n低头思故乡\n春眠不觉晓\n处处闻啼鸟",
    ],
)
def test_a_list_of_names_and_a_poem_are_no_menu(lines):
    text = f"{PROSE}\n{lines}"
    assert clean(Boilerplate(), text) == text
    text = f"{lines}\n\n{PROSE}".rstrip("\n")
    assert clean(Boilerplate(), text) == text


def test_a_text_of_nothing_else_is_left_to_the_filters():
    counts: Counter[str] = Counter()
    text = "Read more\nShare this post\nLog in\nSign up\nAll rights reserved\n"
    assert clean(Boilerplate(), text, counts) == text
    assert counts == {"boilerplate.left_alone": 1}


# --- markup -------------------------------------------------------------------------------------------------------


@pytest.mark.covers("R192")
@pytest.mark.parametrize(
    ("marked", "text"),
    [
        ("<p>Hello <b>world</b></p>", "Hello world"),
        ("See <a href=\"x.html\" title='y'>this</a> page<br/>now", "See this page\nnow"),
        ("<div class=box><span>one</span></div>two", "one\ntwo"),
        ("a<script>if (x < 3) { y() }</script>b<style>p {color: red}</style>c<!-- note -->d", "a\nb\ncd"),
        ("<table><tr><td>1</td><td>2</td></tr></table>", "1 2"),
        ("Tom &amp; Jerry &lt;3 &copy; 2020 &#8217;n&#x27;", "Tom & Jerry <3 © 2020 ’n'"),
        ("fish &amp;amp; chips&nbsp;now", "fish & chips now"),
        ("<!DOCTYPE html><html><body>x</body></html>", "x"),
        ("[b]bold[/b] and [url=https://a.example]a link[/url]", "bold and a link"),
        ("[quote=Anna]so[/quote]", "so"),
        (
            "# Title\n\nSome **bold** and *slanted* and __very strong__ and _thin_ text.",
            "Title\n\nSome bold and slanted and very strong and thin text.",
        ),
        ('A [link](https://a.example/b_c "title") and ![a picture](x.png)', "A link and a picture"),
        ("## About C#\n\ntext", "About C#\n\ntext"),
        ("## Closed ##\n\ntext", "Closed\n\ntext"),
        ("above\n\n---\n\nbelow", "above\n\nbelow"),
        ("It costs $5 and <b>$6</b>, <i>$7</i> there.", "It costs $5 and $6, $7 there."),
        ("see [Types][types]<!-- ignore --> for it", "see Types for it"),
        ("a link of [two\nlines][ref], of [A](https://a.example/A_(b))", "a link of two\nlines, of A"),
        ("İstanbul <script>let x = 1 < 2;</script>güzel<!-- not --> bir şehir", "İstanbul \ngüzel bir şehir"),
        ("請看[這裡](http://a.example/b)吧", "請看這裡吧"),
        ("10<sup>6</sup> m<sup>2</sup>, 10<sup>-3</sup>, H<sub>2</sub>O, 1<sup>st</sup>", "10⁶ m², 10⁻³, H2O, 1st"),
    ],
)
def test_marks_go_and_text_stays(marked, text):
    assert clean(Markup(), marked) == text


@pytest.mark.parametrize(
    "text",
    [
        "a < b and c > d",
        "if a <b and c> d then",
        "x<y>z and List<String> and Map<K, List<a>>",
        "usage: tool <input> <output> [options]",
        "a[i] = b[u] + c[s]",
        "2*x*y + 3 * 4 * 5 and snake_case_name and __init__.py",
        "$a_i * b_i$ and $$\\sum_i x_i$$ and \\(a_1 * a_2 * a_3\\)",
        "`<b>` makes text bold, `**` too",
        "Text\n\n```html\n<p>Hello <b>you</b> &amp; me</p>\n# not a heading\n```\n\nmore",
        "Text:\n\n    <div>&nbsp;</div>\n    # a comment\n\nmore",
        "<pre>\n<b>x</b> &lt;\n</pre>",
        "AT&T, R&D; and &notes; of Q&A",
        "- item one\n- item two\n\n> a quotation",
        "#hashtag and C# and #1",
        "5 > 3 < 4 <- arrow -> <3",
        "| a | b |\n|---|---|\n| 1 | 2 |",
        "1 <br 2",
        "use matrix[i][j] and f[i](x) and g(x)[0](y), see [1][2]",
        "write `<!-- a note -->` for a comment, `<script>` and `</script>` for scripts",
        "so\n\\[ \\mathbf{x}_{i} + \\mathbf{y}_{j} \\]\nand\n$$\n*a* \\hat{x}_{i} *b*\n$$",
        "\\begin{align*}\n\\hat{x}_{i} &= *\\hat{y}_{j}* \\\\\n\\end{align*}",
        "bare \\mathbf{x}_{i} + \\mathbf{y}_{j} and (G^*) = (H^*) too",
        "in /_next_/static and /usr/*any*/bin",
        "formulas with code: $a `b_c` *d*$ end",
    ],
)
def test_what_only_looks_like_markup_stays(text):
    assert clean(Markup(), text) == text


def test_parts_can_be_chosen():
    text = "<b>x</b> [i]y[/i] **z**"
    assert clean(Markup(html=False), text) == "<b>x</b> y z"
    assert clean(Markup(bbcode=False), text) == "x [i]y[/i] z"
    assert clean(Markup(markdown=False), text) == "x y **z**"


# --- spelling -----------------------------------------------------------------------------------------------------


@pytest.mark.covers("R192")
def test_misspellings_and_variants_keep_their_case():
    text = "I recieve it, THIER Goverment Recieved the colour of organised travellers."
    fixed = "I receive it, THEIR Government Received the colour of organised travellers."
    assert clean(Spelling(), text) == fixed
    assert clean(Spelling(variant="american"), text).endswith("the color of organized travelers.")
    assert clean(Spelling(variant="british"), "Color, ORGANIZED, center") == "Colour, ORGANISED, centre"


@pytest.mark.parametrize(
    "text",
    [
        "www.colour.example and colour@grey.example and ./colour/grey.py",
        "recieve_buffer and file.grey and honour-bound",
        "the program checks a check on the meter of the tire",
    ],
)
def test_parts_of_names_and_words_with_two_meanings_stay(text):
    assert clean(Spelling(variant="british"), text) == text
    assert clean(Spelling(variant="american"), text) == text


def test_the_tables_do_not_lead_to_each_other():
    variants = british_to_american()
    assert not set(variants.values()) & variants.keys()
    assert not set(misspellings().values()) & misspellings().keys()
    assert len(misspellings()) > 200
    assert len(variants) > 800


# --- all ----------------------------------------------------------------------------------------------------------

_FRAGMENTS = st.sampled_from(
    "<p> </p> <b> </b> &amp; &lt; &gt; amp; lt; &#38; [b] [/b] [url=x] ** * _ __ # ## ``` ` $ --- === <!-- --> "
    "<script> </script> <pre> </pre> Home News Reply Ã © â€ ™ é e\u0301 \u200b \u200d \u00a0 \r\n \x07 \ufeff "
    "colour recieve organise Read~more © All~rights~reserved ![x](y) [x](y) | » ﬁ \u00ad "
    "\x9d \ud800 \u2028 नम 😀".replace("~", "\u00a0").split(" ")
)
_PIECES = st.one_of(_FRAGMENTS, st.sampled_from([" ", "\n", "\n\n", "    ", "\t"]), st.text(max_size=4))


@pytest.mark.parametrize("cleaner", CLEANERS, ids=lambda cleaner: f"{cleaner.name}-{getattr(cleaner, 'variant', '')}")
@settings(max_examples=150, deadline=None)
@given(pieces=st.lists(_PIECES, max_size=40))
def test_a_second_time_changes_nothing(cleaner, pieces):
    once = clean(cleaner, "".join(pieces))
    assert clean(cleaner, once) == once


@pytest.mark.parametrize("cleaner", CLEANERS, ids=lambda cleaner: cleaner.name)
def test_ordinary_prose_stays_as_it_is_and_nothing_is_counted(cleaner):
    counts: Counter[str] = Counter()
    text = PROSE.replace("harbour", "garden")
    assert clean(cleaner, text, counts).strip() == text.strip()
    assert not +counts


@pytest.mark.parametrize(
    "cleaner", [Boilerplate(), Markup(), Spelling(variant="american")], ids=lambda cleaner: cleaner.name
)
def test_programs_are_left_alone(cleaner):
    code = "# colour\nHome\nRead more\n\n<b>x</b> **kwargs\n" * 3
    assert clean(cleaner, code, kind="code") == code
    assert clean(cleaner, code, path="a.py", license="MIT", language="Python") == code


@pytest.mark.parametrize(
    "unit",
    ["<", "<b ", "<b a=", "&", "&amp;", "&amp", "[", "[b]", "[/b]", "*", "**a ", "_", "`", "$", "#", "# ", " ", "\t",
     "\n", "-", "<!--", "<script>", "</", "| ", "a | ", "Home\n", "©", "Ã", "![", "](", "a_", "all ", "cookies ", "<p",
     "```\n",
     "\u200d", "e\u0301"],
)  # fmt: skip
def test_time_grows_with_length_and_not_with_its_square(unit):
    for cleaner in (Unicode(), Boilerplate(), Markup(), Spelling(variant="american")):
        text = "x" + unit * (100_000 // len(unit))
        start = time.process_time()
        clean(cleaner, text)
        assert time.process_time() - start < 2.0, cleaner.name
