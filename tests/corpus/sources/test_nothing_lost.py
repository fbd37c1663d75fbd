"""Words, turns and posts that a careless reader loses or puts in the wrong mouth."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from llm_trainer.corpus.sources.books import clean_book, strip_gutenberg
from llm_trainer.corpus.sources.books_ocr import join_hyphens
from llm_trainer.corpus.sources.latex_text import latex_to_text
from llm_trainer.corpus.sources.registry import licences
from tests.corpus.sources.reading import read


def _lines(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


# Books


def test_a_start_mark_without_its_stars_does_not_swallow_the_text_up_to_the_next_stars() -> None:
    mark = "OF THE PROJECT GUTENBERG EBOOK FOO"
    text = f"*** START {mark}\n\nChapter 1.\n\n***\n\nMore.\n\n*** END {mark}"
    assert strip_gutenberg(text) == "Chapter 1.\n\n***\n\nMore."


def test_a_start_mark_over_two_lines_is_cut_whole() -> None:
    text = "*** START OF THE PROJECT GUTENBERG EBOOK A LONG\nTITLE ***\n\nChapter 1.\n"
    assert strip_gutenberg(text) == "Chapter 1."


def test_an_anonymous_volunteer_is_no_author() -> None:
    text = "*** START OF THIS PROJECT GUTENBERG EBOOK X ***\n\n\nAn Anonymous Volunteer, and David Widger\n\nWAR\n"
    assert strip_gutenberg(text) == "WAR"


def test_what_stands_at_a_cut_word_goes_with_it() -> None:
    assert join_hyphens("an exam-\nple, of it (an exam-\nple) is") == "an example,\nof it (an example)\nis"


def test_typed_books_keep_the_hyphens_of_their_words() -> None:
    assert clean_book("A well-\nbeing of men, but to-\nday as today.") == "A well-being\nof men, but today\nas today."


def test_a_cut_word_elsewhere_does_not_flatten_a_poem() -> None:
    poem = "Roses are red\n  violets are blue\n    and so are you"
    assert clean_book(f"This is an exam-\nple.\n\n{poem}").endswith(poem)


@pytest.mark.parametrize(
    ("encoding", "declared"), [("latin-1", "ISO-8859-1"), ("utf-16", "UTF-16"), ("utf-8", "UTF-8")]
)
def test_epub_pages_in_the_encoding_that_they_declare(tmp_path: Path, encoding: str, declared: str) -> None:
    path = tmp_path / "a.epub"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.opf", '<package><item id="p" href="p.xhtml"/><itemref idref="p"/></package>')
        page = f'<?xml version="1.0" encoding="{encoding}"?><html><body><p>Café</p></body></html>'
        archive.writestr("p.xhtml", page.encode(encoding))
    assert [document.text for document in read("epub", path)[0]] == ["Café"]


# LaTeX


def test_a_percent_sign_in_an_address_is_no_comment() -> None:
    source = r"See \url{http://a.b/%20c\_d} and \href{http://x/%41}{the link}, and go on."
    assert latex_to_text(source) == "See http://a.b/%20c_d and the link, and go on."


def test_accents_on_accented_letters() -> None:
    assert latex_to_text(r"Vi\d{\^e}t \'{\^e} na\"{\i}ve \'{\textbf{o}}") == "Việt ế naïve ó"


def test_commas_between_citations_go_with_them() -> None:
    assert latex_to_text(r"As \cite{a}, \cite{b}, and so on \cite{c}, \cite{d}.") == "As, and so on."


# Conversations


def test_the_prompt_stands_before_the_chosen_answer(tmp_path: Path) -> None:
    user, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}
    bad = {"role": "assistant", "content": "bad"}
    path = _lines(
        tmp_path / "a.jsonl",
        {"prompt": [user], "chosen": [answer], "rejected": [bad]},
        {"prompt": [user], "chosen": [user, answer], "rejected": [user, bad]},
    )
    documents, losses = read("chat", path)
    assert ([document.text for document in documents], losses.counts) == (["User: q\n\nAssistant: good"] * 2, {})


@pytest.mark.covers("R178")
def test_a_list_of_questions_has_no_answers(tmp_path: Path) -> None:
    """MT-bench's ``turns`` are what the user asks; the second one is not the assistant's."""
    documents, losses = read("chat", _lines(tmp_path / "a.jsonl", {"question_id": 81, "turns": ["Write.", "Rewrite."]}))
    assert (documents, losses.counts) == ([], {"not_a_conversation": 1})


def test_every_message_of_a_forest_is_in_a_conversation_or_counted(tmp_path: Path) -> None:
    def message(name: str | None, parent: str | None, text: str, **more: Any) -> dict[str, Any]:
        return {"message_id": name, "parent_id": parent, "text": text, "role": "prompter", **more}

    path = _lines(
        tmp_path / "a.jsonl",
        message("a", None, "question"),
        message("b", "a", "answer"),
        message("a", None, "the same name"),
        message("c", "a", "gone", deleted=True),
        message("d", "c", "below what is gone"),
        message(None, None, "no name"),
        message(None, None, "no name either"),
    )
    documents, losses = read("chat", path)
    assert [document.text for document in documents] == ["User: question\n\nUser: answer"]
    assert losses.counts == {"same_message_id": 1, "deleted": 1, "orphan_message": 1, "no_message_id": 2}


def test_posts_on_one_line_and_posts_of_one_number(tmp_path: Path) -> None:
    path = tmp_path / "Posts.xml"
    rows = (
        '<row Id="1" PostTypeId="1" Score="1" Title="T" Body="&lt;pre&gt;a&#xD;&#xA;b&lt;/pre&gt;" />'
        '<row Id="2" PostTypeId="2" ParentId="1" Score="1" Body="yes" />'
        '<row Id="1" PostTypeId="1" Score="1" Title="again" Body="x" />'
        '<row Id="3" PostTypeId="1" Score="-1" Title="bad" Body="x" />'
        '<row Id="4" PostTypeId="2" ParentId="3" Body="y" />'
    )
    path.write_bytes(f'<?xml version="1.0"?><posts>{rows}</posts>'.encode())
    documents, losses = read("stackexchange", path)
    assert [document.text for document in documents] == ["# T\n\nQuestion:\n\n```\na\nb\n```\n\nAnswer:\n\nyes"]
    assert losses.counts == {"same_number": 1, "low_score": 2}


def test_a_thread_counts_a_post_that_comes_twice_and_abbot_is_no_bot(tmp_path: Path) -> None:
    comment = {"id": "c", "body": "first", "parent_id": "t3_s", "score": 2, "author": "Abbot"}
    bot = {"id": "d", "body": "beep", "parent_id": "t3_s", "score": 2, "author": "RemindMeBot"}
    path = _lines(tmp_path / "a.jsonl", {"id": "s", "title": "T", "selftext": "", "score": 2}, comment, comment, bot)
    documents, losses = read("reddit", path, threads=True)
    assert [document.text for document in documents] == ["# T\n\n- first"]
    assert losses.counts == {"same_id": 1, "bot": 1}


# Licences


@pytest.mark.covers("R177")
@pytest.mark.parametrize(
    ("licence", "commercial", "attribution", "share_alike"),
    [
        ("CC BY-SA 4.0", "yes", True, True),
        ("CC BY-NC 4.0", "no", True, False),
        ("CC BY 4.0", "yes", True, False),
        ("for non commercial use", "no", False, False),
        ("MIT AND LicenseRef-ours", "unclear", True, False),
        ("MIT AND Apache-2.0", "yes", True, False),
    ],
)
def test_what_a_licence_asks_for(licence: str, commercial: str, attribution: bool, share_alike: bool) -> None:
    (row,) = licences([("mine", "files", licence, None)])
    assert (row.commercial, row.attribution, row.share_alike) == (commercial, attribution, share_alike)
