"""Benchmark items in training text: found as a whole or in part, and nothing else."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_trainer.common.errors import ConfigError, CorruptionError, DataError
from llm_trainer.corpus.dedup.benchmarks import Item, read_items
from llm_trainer.corpus.dedup.decontaminate import Decontamination, Decontaminator
from tests.corpus.dedup.making import prose

QUESTION = (
    "Janet’s ducks lay 16 eggs per day. She eats three for breakfast every morning and bakes muffins for her friends "
    "every day with four."
)
PLANET = "Which planet in the solar system has the longest year?"


def rows(path: Path, *values: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def item(text: str, name: str = "1", benchmark: str = "b") -> Item:
    return Item(benchmark, name, text, (text,))


@pytest.mark.covers("R196")
def test_a_planted_item_is_found_and_named(tmp_path: Path) -> None:
    path = rows(tmp_path / "gsm.jsonl", {"question": "x", "answer": "y"}, {"question": QUESTION, "answer": "18"})
    found = Decontaminator.from_files([path])
    planted = "Some page.\nJANET'S DUCKS — lay 16 eggs per day; she eats three, for breakfast every morning. Bye."
    quiet, hits = found.hits([prose(np.random.default_rng(0), 200), planted])
    assert quiet == [] and len(hits) == 1
    assert (hits[0].benchmark, hits[0].item) == ("gsm", "2") and hits[0].count >= 3
    ((start, stop),) = hits[0].places
    assert planted[start:stop].startswith("JANET'S") or planted[start:stop].startswith("S DUCKS")
    assert planted[start:stop].endswith("every morning") and hits[0].ngram in planted
    assert found.clean(planted, hits) is None and found.clean(planted, []) == planted


def test_twelve_words_are_not_thirteen_and_numbers_count() -> None:
    found = Decontaminator.from_items([item(QUESTION)])
    words = QUESTION.split()
    texts = [
        " ".join(words[2:14]),
        " ".join(words[2:15]),
        " ".join(words[:14]),
        " ".join(words[:14]).replace("16", "17"),
    ]
    assert [sum(hit.count for hit in hits) for hits in found.hits(texts)] == [0, 1, 3, 0]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from("abc"), max_size=40), st.lists(st.lists(st.sampled_from("abc"), max_size=9), max_size=5)
)
def test_equal_to_comparing_every_run(text: list[str], items: list[list[str]]) -> None:
    options = Decontamination(ngram=5, min_words=3, ignore_above=None)
    found = Decontaminator.from_items([item(" ".join(words), str(n)) for n, words in enumerate(items)], options)
    expected = {}
    for number, words in enumerate(items):
        size = 5 if len(words) >= 5 else len(words)
        runs = {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}
        count = sum(tuple(text[start : start + size]) in runs for start in range(len(text) - size + 1))
        if size >= 3 and count:
            expected[str(number)] = count
    assert {hit.item: hit.count for hit in found.hits([" ".join(text)])[0]} == expected


def test_a_short_question_counts_as_a_whole_and_a_very_short_one_not_at_all() -> None:
    items = [
        item(PLANET, "long"),
        item("What causes sound?", "short"),
    ]
    found = Decontaminator.from_items(items)
    assert found.report.items == {"b": 1} and found.report.ignored == {"b": 1}
    assert found.report.examples == {"b": ["short: What causes sound?"]}
    texts = [
        "Quiz: which planet in the solar system has the longest year? What causes sound?",
        "in the solar system has",
    ]
    assert [[hit.item for hit in hits] for hits in found.hits(texts)] == [["long"], []]


def test_what_many_items_have_is_boilerplate() -> None:
    rule = "Is the following statement true or false? Output T for true and F for false."
    items = [item(f"{rule} {prose(np.random.default_rng(n), 15)}", str(n)) for n in range(30)]
    assert Decontaminator.from_items(items, Decontamination(ignore_above=20)).hits([rule]) == [[]]
    assert Decontaminator.from_items(items, Decontamination(ignore_above=20)).report.boilerplate > 0
    assert len(Decontaminator.from_items(items, Decontamination(ignore_above=None)).hits([rule])[0]) == 30


def test_more_than_one_run_can_be_asked_for() -> None:
    found = Decontaminator.from_items([item(QUESTION)], Decontamination(min_hits=5))
    words = QUESTION.split()
    few, many = found.hits([" ".join(words[:15]), " ".join(words[:20])])
    assert few == [] and many[0].count >= 5


def test_only_the_sentences_that_are_hit_are_cut() -> None:
    before, after = (f"{prose(np.random.default_rng(n), 30)}." for n in range(2))
    text = f"{before} Here it is. {QUESTION} {after}\nNext line."
    found = Decontaminator.from_items([item(QUESTION)], Decontamination(mode="span"))
    hits = found.hits([text])[0]
    left = found.clean(text, hits)
    assert left is not None and left.split() == f"{before} Here it is. {after} Next line.".split()
    assert found.hits([left]) == [[]]
    assert found.clean(f"x. {QUESTION} y.", found.hits([f"x. {QUESTION} y."])[0]) is None
    apart = "\n".join(f"{QUESTION}\n{prose(np.random.default_rng(n), 20)}." for n in range(11))
    assert found.clean(apart, found.hits([apart])[0]) is None


def test_a_sentence_does_not_end_inside_a_number_or_an_address() -> None:
    found = Decontaminator.from_items([item(QUESTION)], Decontamination(mode="span", min_chars=0))
    text = f"First. It was 3.5 at example.org when {QUESTION.rstrip('?. ')} for 2.5 of them. Last."
    left = found.clean(text, found.hits([text])[0])
    assert left is not None and left.split() == ["First.", "Last."]


def test_an_index_is_the_same_after_a_round_trip(tmp_path: Path) -> None:
    found = Decontaminator.from_items([item(QUESTION), item(PLANET)])
    found.save(tmp_path / "index.npz")
    again = Decontaminator.load(tmp_path / "index.npz")
    text = f"{QUESTION} {PLANET}"
    assert again.hits([text]) == found.hits([text]) and len(again.hits([text])[0]) == 2
    assert again.identity == found.identity and again.report == found.report and again.settings == found.settings
    assert Decontaminator.load(tmp_path / "index.npz", Decontamination(mode="span")).settings.mode == "span"
    with pytest.raises(CorruptionError, match="other settings"):
        Decontaminator.load(tmp_path / "index.npz", Decontamination(ngram=10))
    (tmp_path / "index.npz").write_bytes((tmp_path / "index.npz").read_bytes()[:-200])
    with pytest.raises(CorruptionError, match="no index"):
        Decontaminator.load(tmp_path / "index.npz")
    with pytest.raises(DataError, match="cannot be read"):
        Decontaminator.load(tmp_path / "nowhere.npz")


def test_no_items_and_no_texts() -> None:
    found = Decontaminator.from_items([])
    assert found.hits(["anything at all"]) == [[]] and found.hits([]) == []
    with pytest.raises(ConfigError, match="min_words"):
        Decontamination(ngram=5)


@pytest.mark.covers("R196")
def test_items_come_out_of_every_form_of_file(tmp_path: Path) -> None:
    rows(tmp_path / "core.jsonl", {"query": "Question: Why?\nAnswer:", "choices": ["Because.", "So."], "gold": 1})
    rows(tmp_path / "wino.jsonl", {"context_options": ["Ann", "Eve"], "continuation": "won.", "gold": 1})
    rows(
        tmp_path / "olmo.jsonl",
        {"doc": {"id": "m7", "query": "Q: Who?", "choices": ["A"]}, "request": {"context": "n"}},
    )
    (tmp_path / "mmlu.csv").write_text('"Which, of these?",one,two,three,four,C\n', encoding="utf-8")
    (tmp_path / "head.csv").write_text("question,answer\nHow?,Thus.\n", encoding="utf-8")
    with gzip.open(tmp_path / "code.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps({"task_id": "H/1", "prompt": "def f():", "canonical_solution": "    return 1"}))
    (tmp_path / "README.txt").write_text("no benchmark", encoding="utf-8")
    found = {item.benchmark.rpartition("/")[2]: item for item in read_items([tmp_path])}
    assert set(found) == {"core", "wino", "olmo", "mmlu", "head", "code"}
    assert found["core"].question == "Why?" and set(found["core"].texts) == {"Why?", "Why? So.", "So.", "Because."}
    assert found["wino"].question == "Eve won." and found["wino"].texts == ("Ann won.", "Eve won.")
    assert found["olmo"].name == "m7" and found["olmo"].question == "Who?"
    assert "Which, of these? three" in found["mmlu"].texts and found["head"].texts[1] == "How? Thus."
    assert found["code"].name == "H/1" and found["code"].texts[1] == "def f():     return 1"
    (named,) = read_items([tmp_path / "head.csv"], columns=["answer"])
    assert named.texts == ("Thus.",) and named.benchmark == "head"
    assert [item.question for item in read_items([tmp_path / "README.txt"])] == ["no benchmark"]


def test_parquet_and_arrow(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table(
        {"question": ["Which?"], "choices": [{"text": ["a b", "c d"], "label": ["A", "B"]}], "answerKey": ["B"]}
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    for name, writer in (("s", arrow.ipc.new_stream), ("f", arrow.ipc.new_file)):
        with writer(str(tmp_path / f"{name}.arrow"), table.schema) as file:
            file.write_table(table)
    assert [item.texts[1] for item in read_items([tmp_path])] == ["Which? c d"] * 3
    (tmp_path / "f.arrow").write_bytes(b"ARROW1")
    with pytest.raises(CorruptionError, match="Arrow"):
        list(read_items([tmp_path / "f.arrow"]))


def test_a_path_without_benchmarks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no benchmark file"):
        list(read_items([tmp_path / "nowhere"]))
    with pytest.raises(DataError, match="no benchmark in the folder"):
        list(read_items([tmp_path]))


@pytest.mark.covers("R196")
def test_items_of_real_benchmarks_are_found_and_ordinary_pages_are_not(shared_data: Path) -> None:
    paths = [shared_data / name for name in ("gsm8k/test.jsonl", "mmlu/val", "arc/ARC-Easy-validation.arrow")]
    found = Decontaminator.from_files(paths)
    assert found.report.items["test"] == 1319 and sum(found.report.items.values()) > 3000
    items = list(read_items(paths))
    rng = np.random.default_rng(0)
    sample = [items[number] for number in rng.choice(len(items), 200, replace=False).tolist()]
    pages = [f"{prose(rng, 50)}\n\n{item.question}\n\n{prose(rng, 50)}" for item in sample]
    known = [bool(Decontaminator.from_items([item]).report.items[item.benchmark]) for item in sample]
    hits = found.hits(pages)
    named = [(item.benchmark, item.name) in {(h.benchmark, h.item) for h in some} for item, some in zip(sample, hits)]
    assert sum(known) > 150 and np.mean([name for name, expected in zip(named, known) if expected]) > 0.95
    lines = (shared_data / "c4_wiki_demo" / "c4_demo.jsonl").read_text(encoding="utf-8").splitlines()
    assert not any(found.hits([json.loads(line)["text"] for line in lines]))
