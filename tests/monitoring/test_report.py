"""The report: one file, safe to open, true for a run in any state."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from llm_trainer.common.errors import UserError
from llm_trainer.monitoring.report import render_report, write_report
from tests.monitoring.folders import full_run, training_records, write_metrics, write_status


class Page(HTMLParser):
    """Tags, addresses and text of a page; fails on a tag that is not closed."""

    _EMPTY = ("meta", "br", "!doctype")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]
        if tag not in self._EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_whole_run_shows_what_a_colleague_wants_to_know(tmp_path: Path) -> None:
    run = full_run(tmp_path / "4.9M_builtin_256_run_1")
    path = write_report(run)
    assert path == run / "report.html"
    text = Page(path.read_text(encoding="utf-8")).text
    for expected in (
        "4.9M_builtin_256_run_1",
        "finished",
        "1.500",  # held-out bits per byte
        "25 % below xz -9e (2.000)",
        "12.0",  # perplexity
        "123K",  # tokens seen
        "300K",  # parameters
        "15 s",  # training time: the trainer's own count
        "Learning rate",
        "Gradient norm",
        "Speed",
        "there was a fox",
        "xqz xqz",
        "temperature 0",
        "8/3 x d_model rounded up",
        "Test CPU 9000",
        "4.9M_builtin_256_checkpoint_60_run_1",
        "llm-trainer chat",
    ):
        assert expected in text, expected
    assert "--resume" not in text  # a finished run needs none
    assert render_report(run) == path.read_text(encoding="utf-8")  # the same files give the same report


def test_it_asks_nothing_of_the_network(tmp_path: Path) -> None:
    html = render_report(full_run(tmp_path / "a_run_1"))
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    assert page.addresses == []
    assert "default-src 'none'" in html
    assert not re.search(r"url\(|@import|https?://", html)


def test_what_a_model_writes_stays_text(tmp_path: Path) -> None:
    run = full_run(tmp_path / "a_run_1")
    evil = "</pre><script>alert('x')</script><img src=x onerror=alert(1)>&amp;\x1b[31m\x00"
    with (run / "samples.jsonl").open("a") as file:
        file.write(json.dumps({"step": 60, "temperature": evil, "prompt": evil, "text": evil + evil}) + "\n")
    (run / "config.yaml").write_text(json.dumps({"model": {evil.replace("\x00", ""): "<b>"}, "<i>": "<u>"}))
    (run / "derived.json").write_text(json.dumps([{"key": evil, "value": evil, "reason": evil}]))
    (run / "environment.json").write_text(json.dumps({evil: evil, "cpu": {"model": evil}}))
    evaluation = {"held_out": {"bits_per_byte": 1.0}, "baselines": {evil: 2.0}}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    write_status(run, "failed", message=evil)
    page = Page(render_report(run))
    assert not {"script", "img", "u"} & set(page.tags)
    assert "<script>alert('x')</script>" in page.text
    assert "\x1b" not in page.text and "\\x1b[31m" in page.text


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("running", "stopped without a word"),  # it says running, but no process lives
        ("failed", "the loss is not a number"),
        ("interrupted", "was interrupted"),
    ],
)
def test_a_run_that_did_not_finish_says_so_and_how_to_continue(tmp_path: Path, state: str, sentence: str) -> None:
    run = full_run(tmp_path / "a_run_1")
    write_status(run, state, message="the loss is not a number" if state == "failed" else "")
    text = Page(render_report(run)).text
    assert sentence in text
    assert "llm-trainer train --resume --output_dir" in text


def test_a_run_that_is_going_is_shown_up_to_now(tmp_path: Path) -> None:
    from llm_trainer.monitoring.status import RunStatus

    write_metrics(tmp_path, training_records(30), tail='{"step": 31, "train/lo')
    status = RunStatus(tmp_path)
    status.start()
    text = Page(render_report(tmp_path)).text
    status.finish("finished")
    assert "still going" in text and "30 steps" in text and "damaged" not in text


def test_empty_and_damaged_folders_still_give_a_page(tmp_path: Path) -> None:
    empty = tmp_path / "empty_run_1"
    empty.mkdir()
    (empty / "config.yaml").write_text("")
    assert "There are no metrics yet" in Page(render_report(empty)).text
    run = full_run(tmp_path / "a_run_1")
    for name in ("config.yaml", "derived.json", "environment.json", "evaluation.json", "samples.jsonl", "status.json"):
        (run / name).write_bytes(b"\xff\xfe{[}")
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b"\x00\x00\xff\n")
    text = Page(render_report(run)).text
    assert "1 damaged lines of metrics.jsonl were left out" in text
    assert "Curves" in text
    with pytest.raises(UserError, match="not a run's folder"):
        render_report(tmp_path / "nothing")


@pytest.mark.slow
def test_a_hundred_thousand_lines_make_a_small_report(tmp_path: Path) -> None:
    write_metrics(tmp_path, training_records(100_000, validate_every=1000))
    assert len(render_report(tmp_path).encode()) < 300_000


def test_it_does_not_tell_where_the_person_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "ada"))
    run = full_run(tmp_path / "home" / "ada" / "runs" / "a_run_1")
    (run / "config.yaml").write_text(json.dumps({"data": {"dataset_name": str(tmp_path / "home" / "ada" / "texts")}}))
    html = render_report(run)
    assert "ada" not in html
    assert "~/texts" in html and "llm-trainer chat ~/runs/a_run_1" in html
