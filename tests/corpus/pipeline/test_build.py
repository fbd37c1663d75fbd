"""A whole build: what comes out, that nothing is lost on the way, and what is done again when something changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_trainer.common.errors import DataError, UserError
from llm_trainer.corpus.pipeline import prepare, select
from llm_trainer.corpus.pipeline.build import Build
from llm_trainer.corpus.pipeline.definition import Pipeline
from llm_trainer.corpus.pipeline.engines import ProcessEngine, SerialEngine
from llm_trainer.corpus.resolve import open_dataset
from tests.corpus.pipeline.texts import corpus_bytes, near_copy, prose, read_corpus, write_jsonl

pytest.importorskip("orjson")


def pipeline(folder: Path, **settings: Any) -> Pipeline:
    """Two sources of thirty documents with a bit of everything that a pipeline removes."""
    web = [prose(seed) for seed in range(30)]
    web[3] = "too short"
    web[5] = web[4].replace("\n\n", "  \n ").replace("The", "THE")
    web[7] = near_copy(web[6])
    web[9] += "\nWrite to jane.doe@somewhere-else.org for more."
    books = [prose(100 + seed) for seed in range(30)]
    books[2] = web[10]
    if not (folder / "web").exists():
        for number in range(3):
            write_jsonl(folder / "web" / f"{number}.jsonl", web[number * 10 : number * 10 + 10], url="https://a.org/x")
        write_jsonl(folder / "books.jsonl", books)
    values: dict[str, Any] = {
        "output_dir": str(folder / "corpus"),
        "unit_mb": 0.01,
        "sources": [
            {"name": "web", "paths": [str(folder / "web")], "category": "web", "license": "ODC-BY", "priority": 1},
            {"name": "books", "paths": [str(folder / "books.jsonl")], "category": "books", "license": "public domain"},
        ],
        "filters": {"length": {}, "gopher_quality": {}},
        "redaction": {},
        "dedup": {"near": {}},
    }
    return Pipeline(**{**values, **settings})


def build(made: Pipeline, engine: Any = None) -> dict[str, Any]:
    return Build(made, engine or SerialEngine()).run()


@pytest.mark.covers("R179", "R195", "R199", "R200", "R206")
def test_a_corpus_is_built_and_every_document_accounted_for(tmp_path: Path) -> None:
    summary = build(pipeline(tmp_path))
    records = list(read_corpus(tmp_path / "corpus"))
    ids = {record["id"] for record in records}
    # The short one; the same text in capitals; the near copy; the copy of a book, which has the better priority.
    assert {f"web/web/0.jsonl:{place}" for place in _offsets(tmp_path / "web" / "0.jsonl", [3, 5, 7])}.isdisjoint(ids)
    assert len(records) == 60 - 4
    dropped = json.loads((tmp_path / "corpus" / "filter_report.json").read_text(encoding="utf-8"))
    assert dropped["records"] == 60 == dropped["kept"] + sum(dropped["dropped"].values())
    counts = {reason: count for reason, count in dropped["dropped"].items() if count}
    assert counts == {"length.too_short": 1, "dedup.exact": 2, "dedup.near": 1}
    assert dropped["sources"]["books"]["kept"] == 30
    assert summary["redactions"] == {"email": 1}
    text = next(str(record["text"]) for record in records if "<EMAIL>" in str(record["text"]))
    assert "somewhere-else" not in text
    first = next(record for record in records if record["source"] == "web")
    assert first["metadata"] == {"category": "web", "license": "ODC-BY", "url": "https://a.org/x"}
    assert "jane.doe" not in (tmp_path / "corpus" / "report.html").read_text(encoding="utf-8")


def _offsets(path: Path, lines: list[int]) -> list[int]:
    sizes = [len(line) + 1 for line in path.read_bytes().split(b"\n")]
    return [sum(sizes[:line]) for line in lines]


def test_the_result_does_not_depend_on_workers_or_units(tmp_path: Path) -> None:
    build(pipeline(tmp_path))
    alone = corpus_bytes(tmp_path / "corpus")
    build(pipeline(tmp_path, output_dir=str(tmp_path / "two")), ProcessEngine(2))
    assert corpus_bytes(tmp_path / "two") == alone
    build(pipeline(tmp_path, output_dir=str(tmp_path / "coarse"), unit_mb=10.0))
    assert corpus_bytes(tmp_path / "coarse") == alone


def test_a_second_build_does_nothing_and_a_new_threshold_only_what_depends_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(pipeline(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus" / "documents").iterdir()}
    monkeypatch.setattr(prepare, "read_inputs", _refuse)
    monkeypatch.setattr(select, "read_records", _refuse)
    build(pipeline(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus" / "documents").iterdir()} == before
    monkeypatch.undo()
    monkeypatch.setattr(prepare, "read_inputs", _refuse)
    summary = build(pipeline(tmp_path, filters={"length": {"min_characters": 5}, "gopher_quality": {}}))
    # Now another rule drops the short one: its tags were there.
    assert summary["dropped"]["gopher_quality.few_words"]["documents"] == 1
    stages = sorted(path.name.rpartition("-")[0] for path in (tmp_path / "corpus" / "stages").iterdir())
    assert stages == ["dedup", "finish", "prepare", "select"]


def _refuse(*_: Any) -> Any:
    raise AssertionError("this was done already")


def test_a_new_file_is_added_without_reading_the_others_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(pipeline(tmp_path))
    write_jsonl(tmp_path / "web" / "9.jsonl", [prose(500), prose(501)])
    read: list[str] = []
    original = prepare.read_inputs

    def watch(source: Any, inputs: Any, losses: Any) -> Any:
        read.extend(entry.path for entry in inputs)
        return original(source, inputs, losses)

    monkeypatch.setattr(prepare, "read_inputs", watch)
    summary = build(pipeline(tmp_path))
    assert summary["documents"]["entered"] == 62
    assert read == [str(tmp_path / "web" / "9.jsonl")]


@pytest.mark.covers("R205")
def test_validation_is_kept_apart_and_does_not_move_when_text_is_added(tmp_path: Path) -> None:
    made = pipeline(tmp_path, split={"validation_fraction": 0.2})
    build(made)
    first = {record["id"] for record in read_corpus(tmp_path / "corpus") if record["split"] == "validation"}
    records = list(read_corpus(tmp_path / "corpus"))
    assert 0.05 * len(records) < len(first) < 0.4 * len(records)
    write_jsonl(tmp_path / "web" / "9.jsonl", [prose(seed) for seed in range(500, 540)])
    build(made)
    after = {record["id"]: record["split"] for record in read_corpus(tmp_path / "corpus")}
    assert all(after[name] == "validation" for name in first)
    # The folder is a data set with two splits for everything that reads data sets.
    handle = open_dataset(tmp_path / "corpus" / "documents")
    assert sum(1 for _ in handle) + sum(1 for _ in handle.validation()) == len(after)


@pytest.mark.covers("R175", "R201")
def test_a_mixture_has_the_shares_that_were_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    wanted = {"web": 60, "books": 15, "academic": 10, "code": 10, "conversation": 5}
    sources = []
    for place, name in enumerate(wanted):
        path = write_jsonl(folder / f"{name}.jsonl", [prose(1000 * place + seed) for seed in range(120)])
        sources.append({"name": name, "paths": [str(path)], "category": name})
    mix = {"by": "category", "weights": wanted, "max_epochs": 2.0}
    made = Pipeline(output_dir=str(tmp_path / "corpus"), sources=sources, mix=mix)
    summary = build(made)
    tokens: dict[str, int] = {}
    order = []
    for record in read_corpus(tmp_path / "corpus"):
        if record["split"] == "train":
            name = str(record["metadata"]["category"])  # type: ignore[index]
            tokens[name] = tokens.get(name, 0) + int(str(record["tokens"]))
            order.append(name)
    total = sum(tokens.values())
    for name, share in wanted.items():
        assert abs(tokens[name] / total - share / 100) < 0.01
    assert summary["composition"]["met"]
    # Web is the scarcest: it is used twice, and everywhere in the stream.
    assert order.count("web") == 2 * len(set(_ids(tmp_path / "corpus", "web")))
    assert 0.5 < order[: len(order) // 4].count("web") / (len(order) // 4) < 0.7


def _ids(folder: Path, source: str) -> list[str]:
    return [str(r["id"]) for r in read_corpus(folder) if r["source"] == source and r["split"] == "train"]


@pytest.mark.covers("R184")
def test_the_result_can_be_a_table(tmp_path: Path) -> None:
    build(pipeline(tmp_path, write={"format": "parquet"}))
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(tmp_path / "corpus" / "documents" / "train-00000.parquet")
    row = table.to_pylist()[0]
    assert set(row) >= {"text", "id", "source", "license", "category", "url", "tokens", "metadata", "tags"}
    assert json.loads(row["tags"])["characters"] > 100
    assert sum(1 for _ in open_dataset(tmp_path / "corpus" / "documents")) == table.num_rows


def test_large_results_are_cut_into_files(tmp_path: Path) -> None:
    build(pipeline(tmp_path, write={"shard_mb": 0.01}))
    names = sorted(path.name for path in (tmp_path / "corpus" / "documents").iterdir())
    assert names[0] == "train-00000.jsonl.zst" and len(names) > 4
    assert len(list(read_corpus(tmp_path / "corpus"))) == 56


@pytest.mark.covers("R199")
def test_a_later_corpus_can_be_kept_apart_from_an_earlier_one(tmp_path: Path) -> None:
    build(pipeline(tmp_path))
    again = write_jsonl(tmp_path / "more.jsonl", [prose(100), near_copy(prose(101)), prose(900)])
    source = {"name": "more", "paths": [str(again)]}
    made = Pipeline(
        output_dir=str(tmp_path / "later"),
        sources=[source],
        dedup={"near": {}, "against": [str(tmp_path / "corpus")]},
        split={"validation_fraction": 0.0},
    )
    summary = build(made)
    assert [record["text"] for record in read_corpus(tmp_path / "later")] == [prose(900)]
    assert summary["dropped"]["dedup.known_corpus"]["documents"] == 2


@pytest.mark.covers("R198")
def test_a_passage_that_stands_in_two_documents_stays_in_one(tmp_path: Path) -> None:
    passage = prose(777, sentences=4)
    texts = [f"{prose(1)}\n{passage}\n{prose(2)}", f"{prose(3)}\n{passage}\n{prose(4)}"]
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    for method in ("suffix_array", "windows"):
        made = Pipeline(
            output_dir=str(tmp_path / method),
            sources=[{"name": "a", "paths": [str(path)]}],
            dedup={"substring": {"method": method}},
            split={"validation_fraction": 0.0},
        )
        summary = build(made)
        kept = [str(record["text"]) for record in read_corpus(tmp_path / method)]
        assert [passage in text for text in kept] == [True, False]
        assert prose(3) in kept[1] and prose(4) in kept[1]
        assert summary["duplicates"]["passages"]["documents"] == 1
        assert not list((tmp_path / method).rglob("*.windows.npy")), "several times the text, and nobody needs them"
        before = corpus_bytes(tmp_path / method)
        build(made)
        assert corpus_bytes(tmp_path / method) == before


@pytest.mark.covers("R196")
def test_what_a_benchmark_asks_is_dropped_and_listed(tmp_path: Path) -> None:
    question = "Which of the seven lanterns in the harbour museum was painted by the farmer who answered no letter?"
    bench = tmp_path / "quiz.jsonl"
    bench.write_text(json.dumps({"question": question, "answer": "the third"}) + "\n", encoding="utf-8")
    path = write_jsonl(tmp_path / "a.jsonl", [prose(1), f"{prose(2)} {question} {prose(3)}", prose(4)])
    made = Pipeline(
        output_dir=str(tmp_path / "corpus"),
        sources=[{"name": "a", "paths": [str(path)]}],
        decontaminate={"benchmarks": [str(bench)]},
    )
    summary = build(made)
    assert summary["documents"]["kept"] == 2
    assert summary["contamination"]["quiz"]["documents"] == 1
    import zstandard

    listed = (tmp_path / "corpus" / "contamination.jsonl.zst").read_bytes()
    hit = json.loads(zstandard.ZstdDecompressor().stream_reader(listed).read())
    assert hit["benchmark"] == "quiz" and hit["document"].startswith("a/a.jsonl") and "seven lanterns" in hit["ngram"]


def test_limits_stop_a_build(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"max_dropped_fraction allows 1\.00%"):
        build(pipeline(tmp_path, limits={"max_dropped_fraction": 0.01}))
    (tmp_path / "web" / "0.jsonl").write_text("{broken\n" * 20, encoding="utf-8")
    with pytest.raises(DataError, match="20 of 70 records cannot be read"):
        build(pipeline(tmp_path, limits={"max_lost_fraction": 0.1}))


def test_a_source_that_vanishes_is_counted_and_read_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = pipeline(tmp_path)
    away = tmp_path / "web" / "1.jsonl"
    content, times = away.read_bytes(), away.stat()
    original = prepare.is_unchanged

    def vanish(entry: Any) -> bool:
        if entry.path == str(away):
            away.unlink(missing_ok=True)
        return original(entry)

    monkeypatch.setattr(prepare, "is_unchanged", vanish)
    summary = build(made)
    assert summary["lost"]["vanished"]["records"] == 1
    assert str(away) in summary["lost"]["vanished"]["examples"][0]
    monkeypatch.undo()
    away.write_bytes(content)
    import os

    os.utime(away, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert build(made)["lost"] == {}


def test_a_damaged_intermediate_file_is_named(tmp_path: Path) -> None:
    made = pipeline(tmp_path)
    build(made)
    prepared = next((tmp_path / "corpus" / "stages").glob("prepare-*"))
    victim = max(prepared.glob("*.jsonl.zst"), key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 0xFF
    victim.write_bytes(data)
    changed = {"length": {"min_characters": 9}, "gopher_quality": {}}
    with pytest.raises(UserError, match="is damaged") as caught:
        build(pipeline(tmp_path, filters=changed))
    assert victim.name in str(caught.value)
    victim.unlink()
    build(pipeline(tmp_path, filters=changed))


def test_what_json_cannot_hold_is_no_reason_to_stop(tmp_path: Path) -> None:
    from llm_trainer.corpus.pipeline.store import read_records, write_records

    path = tmp_path / "records.jsonl.zst"
    odd = {"text": "a", "metadata": {"big": 1 << 70, "half": "\ud83d", 3: [float("nan"), (1, None)]}}
    assert write_records(path, [odd, {"text": "b"}]) == 2
    first, second = read_records(path)
    assert first["metadata"] == {"big": str(1 << 70), "half": "?", "3": [None, [1, None]]}
    assert second == {"text": "b"}


def test_a_source_can_leave_filters_out(tmp_path: Path) -> None:
    short = write_jsonl(tmp_path / "short.jsonl", ["int main() { return 0; }"])
    sources = [{"name": "code", "paths": [str(short)], "skip": ["length"]}, {"name": "prose", "paths": [str(short)]}]
    made = Pipeline(output_dir=str(tmp_path / "corpus"), sources=sources, filters={"length": {}})
    summary = build(made)
    assert summary["sources"]["code"]["kept"] == 1
    assert summary["sources"]["prose"]["dropped_for"] == {"length.too_short": 1}
    with pytest.raises(UserError, match="no repair or filter 'lenght'"):
        Pipeline(sources=[{"name": "a", "paths": ["x"], "skip": ["lenght"]}], filters={"length": {}})
