"""From raw text to a trained model through the commands: preview, build, report, train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_trainer.data import TokenCache
from tests.corpus.pipeline.texts import prose, write_jsonl
from tests.e2e.conftest import TINY, files_below, llm_trainer

pytest.importorskip("orjson")


@pytest.fixture
def pipeline(workplace: Path) -> Path:
    web = [prose(seed) for seed in range(40)]
    web[1], web[2] = "buy now", web[0]
    write_jsonl(workplace / "texts" / "web.jsonl", web)
    path = workplace / "pipeline.yaml"
    path.write_text(
        """
name: demo
sources:
  - {name: web, paths: [texts], category: web, license: CC-BY-4.0}
clean: {unicode: {}}
filters:
  length: {}
  language: {languages: [en]}
  gopher_quality: {}
redaction: {}
dedup: {near: {}}
split: {validation_fraction: 0.2}
cache: {seq_len: 64}
""",
        encoding="utf-8",
    )
    return path


@pytest.mark.covers("R177")
def test_from_raw_text_to_a_trained_model(pipeline: Path, workplace: Path) -> None:
    outcome = llm_trainer("data", "build", pipeline, "--engine", "serial")
    assert outcome.code == 0, outcome.err
    assert "40 records = 38 kept + 2 dropped + 0 lost" in outcome.out
    assert "length.too_short" in outcome.out and "dedup.exact" in outcome.out
    assert len(TokenCache.open(workplace / "corpora" / "demo" / "cache")) > 10
    train = ["data.cache=corpora/demo/cache", *(word for word in TINY if "fraction" not in word)]
    outcome = llm_trainer("train", *train, "--output_dir", "run")
    assert outcome.code == 0, outcome.err
    outcome = llm_trainer("train", "data.dataset_name=corpora/demo/documents", *TINY, "--output_dir", "run2")
    assert outcome.code == 0, outcome.err
    outcome = llm_trainer("data", "report", "corpora/demo")
    assert outcome.code == 0 and "38 kept" in outcome.out
    outcome = llm_trainer("data", "licenses", pipeline)
    assert outcome.code == 0 and "CC-BY-4.0" in outcome.out


def test_a_preview_shows_each_document_and_writes_nothing(pipeline: Path, workplace: Path) -> None:
    before = files_below(workplace)
    outcome = llm_trainer("data", "preview", pipeline, "--documents", 4)
    assert outcome.code == 0, outcome.err
    assert "DROPPED   length.too_short" in outcome.out
    assert "DROPPED   dedup.exact (the same as web/texts/web.jsonl:0)" in outcome.out
    assert "2 of 4 documents would be kept" in outcome.out
    assert files_below(workplace) == before


def test_a_changed_threshold_packs_the_cache_again(pipeline: Path, workplace: Path) -> None:
    cache = workplace / "corpora" / "demo" / "cache"
    assert llm_trainer("data", "build", pipeline, "--engine", "serial").code == 0
    first, manifest = len(TokenCache.open(cache)), (cache / "manifest.json").stat().st_mtime_ns
    assert llm_trainer("data", "build", pipeline, "--engine", "serial").code == 0
    assert (cache / "manifest.json").stat().st_mtime_ns == manifest, "the same documents need no new cache"
    outcome = llm_trainer("data", "build", pipeline, "filters.length.min_characters=900", "--engine", "serial")
    assert outcome.code == 0, outcome.err
    assert len(TokenCache.open(cache)) < first


def test_a_build_that_leaves_nothing_says_why(pipeline: Path) -> None:
    outcome = llm_trainer("data", "build", pipeline, "filters.length.min_characters=90000", "--engine", "serial")
    assert outcome.code == 1
    assert "no document is left" in outcome.err and "length.too_short" in outcome.err and "report.html" in outcome.err


@pytest.mark.covers("R176")
def test_licences_of_well_known_data_sets() -> None:
    outcome = llm_trainer("data", "licenses")
    assert outcome.code == 0
    for name in ("C4", "RefinedWeb", "Stack", "Wikipedia", "Pile"):
        assert name.lower() in outcome.out.lower()


def test_kinds_of_sources_are_listed() -> None:
    outcome = llm_trainer("data", "sources")
    assert outcome.code == 0
    for name in ("warc", "wikipedia", "git", "latex", "pdf", "epub", "stackexchange", "dataset"):
        assert f"\n{name}: " in f"\n{outcome.out}"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["build", "nothing.yaml"], ["nothing.yaml does not exist"]),
        (["build", "pipeline.yaml", "--engine", "spark"], ["no engine 'spark'", "process"]),
        (["build", "pipeline.yaml", "--workers", "0"], ["at least one worker"]),
        (["build", "pipeline.yaml", "filters.lenght={}"], ["did you mean 'length'"]),
        (["build", "pipeline.yaml", "sources.0.paths=[nowhere]"], ["no file or folder nowhere"]),
        (["build", "pipeline.yaml", "tokenizer=nowhere"], ["nowhere"]),
        (["report", "texts"], ["not a corpus", "data build"]),
        (["classifier", "texts", "nowhere"], ["nowhere"]),
    ],
)
def test_a_mistake_is_one_message(pipeline: Path, arguments: list[str], told: list[str]) -> None:
    llm_trainer("data", *arguments).assert_one_message(*told)


def test_a_classifier_is_trained_and_used(pipeline: Path, workplace: Path) -> None:
    write_jsonl(workplace / "good.jsonl", [prose(seed) for seed in range(60)])
    write_jsonl(workplace / "bad.jsonl", [prose(seed).replace("the", "BUY").replace("a", "$") for seed in range(60)])
    outcome = llm_trainer("data", "classifier", "good.jsonl", "bad.jsonl", "-o", "quality.npz")
    assert outcome.code == 0, outcome.err
    outcome = llm_trainer("data", "build", pipeline, "filters.classifier={model: quality.npz}", "--engine", "serial")
    assert outcome.code == 0, outcome.err
    report = json.loads((workplace / "corpora" / "demo" / "report.json").read_text(encoding="utf-8"))
    assert any("classifier" in tag or "quality" in tag for tag in report["quality"])


@pytest.mark.slow
def test_the_example_makes_a_corpus_of_what_every_machine_has(workplace: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "corpus.yaml"
    outcome = llm_trainer("data", "build", example, "--engine", "serial")
    assert outcome.code == 0, outcome.err
    report = json.loads((workplace / "corpora" / "python" / "report.json").read_text(encoding="utf-8"))
    assert report["documents"]["kept"] > 300 and report["documents"]["lost"] == 0
    assert report["duplicates"]["passages"]["spans"] > 0
    assert len(TokenCache.open(workplace / "corpora" / "python" / "cache")) > 1000


@pytest.mark.slow
def test_a_model_of_ours_sorts_text_by_perplexity(pipeline: Path, workplace: Path) -> None:
    for number in range(4):  # several units, so that the model is opened in worker processes
        write_jsonl(workplace / "texts" / f"{number}.jsonl", [prose(100 * number + seed) for seed in range(10)])
    train = ["data.paths=[texts]", *TINY, "--output_dir", "judge"]
    assert llm_trainer("train", *train).code == 0
    judge = "filters.perplexity={model: judge, head_max: 100.0, middle_max: 200.0}"
    outcome = llm_trainer("data", "build", pipeline, judge, "unit_mb=0.005", "--workers", 2)
    assert outcome.code == 0, outcome.err
    report = json.loads((workplace / "corpora" / "demo" / "report.json").read_text(encoding="utf-8"))
    assert report["quality"]["bits_per_byte"]["kept"]["count"] > 30
    assert 1 < report["quality"]["bits_per_byte"]["kept"]["mean"] < 12
    assert "perplexity.tail" not in report["dropped"]
