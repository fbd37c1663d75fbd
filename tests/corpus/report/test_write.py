"""The report's files: they add up, they are self-contained, and text from the web stays text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from llm_trainer.common.errors import DataError
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.pipeline.mixing import check_composition
from llm_trainer.corpus.report.describe import describe
from llm_trainer.corpus.report.statistics import Statistics
from llm_trainer.corpus.report.summary import summarise
from llm_trainer.corpus.report.write import render_report, write_report
from tests.corpus.report.corpora import HOSTILE, document, fill

VOID = {"meta", "br", "img", "input", "link", "hr"}


class Page(HTMLParser):
    """Every element and attribute of a page, with a check that elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile() -> Statistics:
    """Every place where a text of strangers can show up holds an attack."""
    statistics = fill(range(60))
    losses = Losses()
    losses.add(HOSTILE, HOSTILE, HOSTILE)
    statistics.lose(HOSTILE, losses)
    statistics.enter(HOSTILE, 2)
    where = dict.fromkeys(("category", "language", "domain", "licence", "split"), HOSTILE)
    statistics.add(document(1, HOSTILE, HOSTILE), {**where, HOSTILE: HOSTILE, f"{HOSTILE}2": 0.5}, tokens=3)
    statistics.drop(document(2, HOSTILE, HOSTILE), {f"{HOSTILE}2": 0.7}, [f"{HOSTILE}.{HOSTILE}"])
    statistics.duplicate(HOSTILE, documents=1)
    statistics.cluster(HOSTILE, [2, 900])
    statistics.contaminated(HOSTILE)
    statistics.redactions[HOSTILE] += 1
    statistics.repairs[HOSTILE] += 1
    statistics.spend(HOSTILE, 1.5)
    return statistics


def test_text_of_strangers_stays_text() -> None:
    composition = check_composition({HOSTILE: 3, "web": 4}, {HOSTILE: 0.9, "web": 0.1})
    licences = [{"source": HOSTILE, "warning": [HOSTILE, HOSTILE], HOSTILE: True}]
    summary = summarise(hostile(), name=HOSTILE, composition=composition, licences=licences, notes=[HOSTILE])
    page = render_report(summary)
    parsed = Page(page)
    assert not parsed.elements & {"script", "img", "iframe", "object", "embed", "link", "form", "a"}
    assert not [name for name, _ in parsed.attributes if name.startswith("on") or name in ("src", "href")]
    assert "alert(1)" in parsed.text  # shown, as text
    assert "\u202e" not in page
    assert "\x1b" not in page + describe(summary)


def test_the_page_needs_nothing_from_anywhere() -> None:
    page = render_report(summarise(fill(range(60)), name="small"))
    assert "default-src 'none'" in page
    assert not re.search(r"https?://(?!www\.w3\.org)|url\(|@import", page)
    assert "prefers-color-scheme: dark" in page


@pytest.mark.covers("R195")
def test_the_filter_report_adds_up_to_what_came_in(tmp_path: Path) -> None:
    summary = summarise(fill(range(300)))
    written, _, filters = write_report(summary, tmp_path)
    report = json.loads(filters.read_text(encoding="utf-8"))
    assert report["records"] == 300
    assert report["records"] == report["kept"] + sum(report["dropped"].values()) + sum(report["lost"].values())
    for source in report["sources"].values():
        gone = sum(source["dropped_for"].values()) + sum(source["lost_for"].values())
        assert source["records"] == source["kept"] + gone
    assert report["dropped"]["c4.no_sentence"] == 0  # never the first reason
    assert report["rules_broken"]["c4.no_sentence"] > 0
    assert json.loads(written.read_text(encoding="utf-8")) == summary


def test_the_flow_ends_with_what_was_kept() -> None:
    summary = summarise(fill(range(300)), stages=["length", "gopher"])
    rows = summary["funnel"]
    assert [row["stage"] for row in rows] == ["reading", "length", "gopher"]
    assert rows[0]["before"] == summary["documents"]["records"]
    assert all(above["after"] == below["before"] for above, below in pairwise(rows))
    assert rows[-1]["after"] == summary["documents"]["kept"]


@pytest.mark.covers("R206")
def test_the_report_is_the_same_in_every_run(tmp_path: Path) -> None:
    first = write_report(summarise(fill(range(80))), tmp_path / "a")
    second = write_report(summarise(fill(range(80))), tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.covers("R206")
def test_the_page_shows_sizes_lengths_languages_and_examples() -> None:
    summary = summarise(fill(range(200)), name="my corpus")
    text = Page(render_report(summary)).text
    for expected in ("my corpus", "bytes per token", "median words", "Languages", "Domains", "gopher.few_words", "ta"):
        assert expected in text


@pytest.mark.covers("R191", "R017")
def test_the_report_shows_toxicity_personal_data_and_words_for_groups() -> None:
    statistics = Statistics()
    for number in range(20):
        statistics.enter("web")
        tags = {"toxicity_share": number / 1000, "identity_religion": 2, "identity_religion_toxic": int(number > 14)}
        if number > 17:
            statistics.drop(document(number), tags, ["toxicity.share"])
        else:
            statistics.add(document(number), tags)
    statistics.redactions.update(email=12, iban=1)
    text = Page(render_report(summarise(statistics))).text
    assert "Personal data replaced" in text
    assert "email" in text
    assert "toxicity_share" in text
    assert "religion" in text
    assert "36" in text  # words that name a religion in the 18 kept documents
    assert "8.3 %" in text  # 3 of them near a toxic word
    assert "toxicity.share" in text


@pytest.mark.covers("R177")
def test_the_licence_table_shows_its_warnings() -> None:
    rows = [{"source": "crawl", "licence": "unknown", "warning": "no licence is known"}]
    page = render_report(summarise(fill(range(10)), licences=rows))
    assert '<span class="warn">no licence is known</span>' in page


@pytest.mark.parametrize("values", [{}, [], {"version": 99}])
def test_what_is_no_summary_is_refused_and_nothing_is_written(values: object, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no report\.json of version 1"):
        write_report(values, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_corpus_has_a_report() -> None:
    summary = summarise(Statistics(), name="nothing")
    Page(render_report(summary))
    assert "0 records = 0 kept + 0 dropped + 0 lost" in describe(summary)


def test_a_corpus_of_which_nothing_was_kept_has_a_report() -> None:
    statistics = Statistics()
    statistics.enter("web", 3)
    for number in range(3):
        statistics.drop(document(number), {"words": number}, ["length.short"])
    Page(render_report(summarise(statistics)))


def test_the_terminal_gets_the_same_figures() -> None:
    summary = summarise(fill(range(200)), name="my corpus")
    text = describe(summary)
    assert f"{summary['documents']['kept']:,} kept" in text
    assert "gopher.few_words" in text
    assert "invalid_json (could not be read)" in text
    assert max(len(line) for line in text.splitlines()) < 160
