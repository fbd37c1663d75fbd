"""What a build must never do: read itself, mix files up, delete what is not its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from llm_trainer.common.errors import ConfigError, UserError
from llm_trainer.common.hashing import fingerprint
from llm_trainer.corpus.pipeline import build as building
from llm_trainer.corpus.pipeline import deduplicate, prepare
from llm_trainer.corpus.pipeline.build import Build, one_pipeline
from llm_trainer.corpus.pipeline.definition import Pipeline
from llm_trainer.corpus.pipeline.engines import SerialEngine
from llm_trainer.corpus.pipeline.plan import make_plan
from llm_trainer.corpus.pipeline.preview import preview
from tests.corpus.pipeline.texts import corpus_bytes, prose, read_corpus, write_jsonl

pytest.importorskip("orjson")
QUESTION = "Which of the seven lanterns in the harbour museum was painted by the farmer who answered no letter?"


def build(folder: Path, *paths: Path, **settings: Any) -> dict[str, Any]:
    source = {"name": "a", "paths": [str(path) for path in paths]}
    values = {"output_dir": str(folder / "corpus"), "sources": [source], "unit_mb": 0.001}
    return Build(Pipeline(**{**values, **settings}), SerialEngine()).run()


def test_files_of_one_name_size_and_time_are_not_mixed_up(tmp_path: Path) -> None:
    texts = [prose(1), prose(1).replace("e", "o")]
    files = [write_jsonl(tmp_path / name / "x.jsonl", [text]) for name, text in zip("ab", texts)]
    for file in files:
        os.utime(file, ns=(10**18, 10**18))
    build(tmp_path, *files, split={"validation_fraction": 0.0})
    records = list(read_corpus(tmp_path / "corpus"))
    assert [record["text"] for record in records] == texts
    assert [record["id"] for record in records] == ["a/x.jsonl:0", "a/b/x.jsonl:0"]


def test_a_corpus_inside_its_source_does_not_read_itself(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "x.jsonl", [prose(seed) for seed in range(4)])
    first = build(tmp_path, tmp_path)
    assert build(tmp_path, tmp_path)["documents"] == first["documents"]
    assert first["documents"]["records"] == 4
    with pytest.raises(ConfigError, match="would be a duplicate of itself"):
        build(tmp_path, tmp_path, dedup={"against": [str(tmp_path / "corpus")]})


def test_what_no_build_made_is_neither_overwritten_nor_deleted(tmp_path: Path) -> None:
    texts = write_jsonl(tmp_path / "x.jsonl", [prose(1), prose(2)])
    for name in ("pipeline.yaml", "stages/mine/a", "documents/train-00007.parquet"):
        folder = tmp_path / name.partition("/")[0].partition(".")[0]
        mine = folder / name
        mine.parent.mkdir(parents=True)
        mine.write_text("mine", encoding="utf-8")
        with pytest.raises(UserError, match="which no build of a corpus made"):
            build(tmp_path, texts, output_dir=str(folder))
        assert mine.read_text(encoding="utf-8") == "mine"


def test_only_files_of_a_build_are_tidied_away(tmp_path: Path) -> None:
    texts = write_jsonl(tmp_path / "x.jsonl", [prose(1), prose(2)])
    build(tmp_path, texts)
    mine = [tmp_path / "corpus" / name for name in ("documents/scan-00001.pdf", "stages/notes/a", "more/.a.tmp")]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine", encoding="utf-8")
    leftover = tmp_path / "corpus" / "documents" / ".train-00000.jsonl.zst.abc.tmp"
    leftover.write_text("half", encoding="utf-8")
    build(tmp_path, texts, write={"format": "parquet"}, filters={"length": {"min_characters": 1}})
    assert all(path.exists() for path in mine) and not leftover.exists()
    assert not list((tmp_path / "corpus" / "documents").glob("*.jsonl.zst"))


@pytest.mark.slow
def test_more_units_than_files_may_be_open(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    for number in range(70):
        texts = [f"{number} {line} {prose(number)[:30]}" for line in range(1100)]
        write_jsonl(tmp_path / "texts" / f"{number:02}.jsonl", texts)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 40, before[1]))
    try:
        summary = build(tmp_path, tmp_path / "texts", unit_mb=0.1, dedup={})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert summary["documents"]["kept"] == 70 * 1100


@pytest.mark.covers("R205")
def test_equal_texts_are_on_one_side_though_duplicates_stay() -> None:
    key = np.array([9, 5, 5, 7], dtype=np.uint64) << np.uint64(60)
    kept = np.ones(4, dtype=bool)
    for fraction, wanted in ((0.01, [0, 1, 1, 0]), (0.5, [0, 1, 1, 1]), (0.99, [0, 1, 1, 1]), (0.0, [0] * 4)):
        assert deduplicate._validation(key, kept, fraction).tolist() == [bool(flag) for flag in wanted]
    same = np.full(3, 5, dtype=np.uint64)
    assert not deduplicate._validation(same, kept[:3], 0.5).any(), "nothing would be left to train on"


def test_a_benchmark_list_of_an_earlier_build_goes(tmp_path: Path) -> None:
    (tmp_path / "quiz.jsonl").write_text(json.dumps({"question": QUESTION}) + "\n", encoding="utf-8")
    texts = write_jsonl(tmp_path / "x.jsonl", [prose(1), f"{prose(2)} {QUESTION}"])
    build(tmp_path, texts, decontaminate={"benchmarks": [str(tmp_path / "quiz.jsonl")]})
    listed = tmp_path / "corpus" / "contamination.jsonl.zst"
    assert listed.exists()
    build(tmp_path, texts)
    assert not listed.exists()


@pytest.mark.parametrize("damage", ["{", "[]", "{}"])
def test_a_damaged_list_of_files_is_made_again(tmp_path: Path, damage: str) -> None:
    texts = write_jsonl(tmp_path / "x.jsonl", [prose(1), prose(2)])
    build(tmp_path, texts)
    wanted = corpus_bytes(tmp_path / "corpus")
    (tmp_path / "corpus" / "corpus.json").write_text(damage, encoding="utf-8")
    (tmp_path / "corpus" / "documents" / "train-00000.jsonl.zst").write_bytes(b"")
    (tmp_path / "corpus" / "index" / "index.json").unlink()
    build(tmp_path, texts)
    assert corpus_bytes(tmp_path / "corpus") == wanted
    assert (tmp_path / "corpus" / "index" / "index.json").exists()


def test_a_result_that_was_cut_short_is_written_again(tmp_path: Path) -> None:
    texts = write_jsonl(tmp_path / "x.jsonl", [prose(1), prose(2)])
    build(tmp_path, texts)
    wanted = corpus_bytes(tmp_path / "corpus")
    (tmp_path / "corpus" / "documents" / "train-00000.jsonl.zst").write_bytes(b"")
    build(tmp_path, texts)
    assert corpus_bytes(tmp_path / "corpus") == wanted


def test_a_file_that_the_disk_cannot_read_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = (write_jsonl(tmp_path / name, [prose(place)]) for place, name in enumerate(("a.jsonl", "b.jsonl")))
    original = prepare.is_unchanged

    def failing(entry: Any) -> bool:
        if entry.path == str(bad):
            raise OSError(5, "Input/output error")
        return original(entry)

    monkeypatch.setattr(prepare, "is_unchanged", failing)
    summary = build(tmp_path, good, bad)
    assert summary["documents"]["kept"] == 1
    assert summary["lost"]["read_error"]["examples"] == [f"{bad}: Input/output error"]


def test_a_file_that_grows_while_it_is_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [prose(0)])
    original = prepare._named

    def growing(*arguments: Any) -> Any:
        with file.open("a", encoding="utf-8") as stream:
            stream.write("{}\n")
        return original(*arguments)

    monkeypatch.setattr(prepare, "_named", growing)
    summary = build(tmp_path, file)
    assert "changed while it was read" in summary["lost"]["changed"]["examples"][0]


def test_units_are_not_taken_from_another_process_that_uses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [write_jsonl(tmp_path / f"{name}.jsonl", [prose(place)]) for place, name in enumerate("ab")]
    original = prepare.is_unchanged
    monkeypatch.setattr(
        prepare,
        "is_unchanged",
        lambda entry: original(entry) and entry.path != str(files[1]),  # "changed"
    )
    build(tmp_path, *files)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus" / "stages").rglob("*.json")}
    monkeypatch.setattr(building, "others_at_work", lambda _: True)
    build(tmp_path, *files)
    assert {path: path.stat().st_mtime_ns for path in made if path.exists()} == made


def test_a_preview_shows_what_is_cut_as_cut(tmp_path: Path) -> None:
    (tmp_path / "quiz.jsonl").write_text(json.dumps({"question": QUESTION}) + "\n", encoding="utf-8")
    texts = write_jsonl(tmp_path / "x.jsonl", [f"{prose(1)} {QUESTION} {prose(2)}"])
    made = Pipeline(
        sources=[{"name": "a", "paths": [str(texts)]}],
        decontaminate={"benchmarks": [str(tmp_path / "quiz.jsonl")], "mode": "span"},
    )
    traces, _ = preview(made, make_plan(made), 5)
    assert traces[0].reasons == [] and "seven lanterns" not in traces[0].text


def test_the_size_of_a_part_is_in_bytes_whatever_the_kind_counts(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    parquet.write_table(arrow.table({"text": [prose(seed) for seed in range(60)]}), path, row_group_size=10)
    plan = make_plan(Pipeline(sources=[{"name": "a", "paths": [str(path)]}], unit_mb=0.005))
    assert len(plan.units) > 1
    assert sum(unit.bytes for unit in plan.units) == pytest.approx(path.stat().st_size, rel=0.01)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them() -> None:
    code = (
        "from llm_trainer.corpus.pipeline.engines import ProcessEngine\n"
        "from tests.corpus.pipeline.test_guards import sleep\n"
        "list(ProcessEngine(2).map(sleep, [300.0] * 4))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as running:
        process = psutil.Process(running.pid)
        deadline = time.monotonic() + 60
        while len(process.children(recursive=True)) < 3 and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(3.0)  # until they are at work
        children = process.children(recursive=True)
        assert len(children) >= 2
        running.kill()
    assert psutil.wait_procs(children, timeout=30)[1] == []


def test_two_pipelines_do_not_build_into_one_folder_at_once(tmp_path: Path) -> None:
    texts = write_jsonl(tmp_path / "x.jsonl", [prose(1), prose(2)])
    made = Pipeline(output_dir=str(tmp_path / "corpus"), sources=[{"name": "a", "paths": [str(texts)]}])
    (tmp_path / "corpus").mkdir()
    with one_pipeline(tmp_path / "corpus", "0123abcd"), pytest.raises(UserError, match="with other settings"):
        Build(made, SerialEngine()).run()
    assert not (tmp_path / "corpus" / "documents").exists()
    with one_pipeline(tmp_path / "corpus", fingerprint(made.to_dict())[:8]):
        Build(made, SerialEngine()).run()  # the same settings share the work
