"""A pipeline file: what it may say, and what a person is told when it says something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_trainer.common.errors import ConfigError, DataError
from llm_trainer.corpus.pipeline.definition import DedupSettings, Pipeline, SourceSettings
from llm_trainer.corpus.pipeline.loading import load_pipeline, save_pipeline

GOOD = """
name: demo
sources:
  - {name: notes, paths: [notes], category: books}
clean: {unicode: {}}
filters:
  length: {min_characters: 50}
  gopher_quality: {}
redaction: {}
dedup: {near: {threshold: 0.7}}
mix: {by: category, weights: {books: 1}}
"""


def problems(tmp_path: Path, text: str, overrides: list[str] | None = None) -> str:
    path = tmp_path / "pipeline.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_pipeline(path, overrides or [])
    return str(caught.value)


def test_a_file_is_read_with_the_published_defaults(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(GOOD, encoding="utf-8")
    pipeline = load_pipeline(path, ["filters.length.max_characters=500", "sources.0.license=MIT"])
    assert [rule.name for rule in pipeline.rules()] == ["length", "gopher_quality"]
    assert pipeline.rules()[0].to_dict() == {"min_characters": 50, "max_characters": 500}
    assert pipeline.sources[0].license == "MIT"
    assert pipeline.dedup is not None and pipeline.dedup.near is not None
    assert (pipeline.dedup.near.threshold, pipeline.dedup.near.bands) == (0.7, 14)
    assert pipeline.folder == Path("corpora/demo")


def test_the_saved_definition_gives_the_same_pipeline(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(GOOD, encoding="utf-8")
    pipeline = load_pipeline(path)
    save_pipeline(pipeline, tmp_path / "saved.yaml")
    again = load_pipeline(tmp_path / "saved.yaml")
    assert [rule.to_dict() for rule in again.rules()] == [rule.to_dict() for rule in pipeline.rules()]
    assert {**again.to_dict(), "filters": 0, "clean": 0} == {**pipeline.to_dict(), "filters": 0, "clean": 0}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("length: {min_characters: 50}", "lenght: {}"), "line 7: filters.lenght: unknown; did you mean 'length'?"),
        (("min_characters", "min_chars"), "line 7: filters.length.min_chars: unknown key; did you mean"),
        (("min_characters: 50", "min_characters: fifty"), "line 7: filters.length.min_characters: expected"),
        (("category: books", "categroy: books"), "line 4: sources.0.categroy: unknown key; did you mean 'category'?"),
        (("paths: [notes], ", ""), "names nothing to read"),
        (("threshold: 0.7", "threshold: 7"), "line 10: dedup.near.threshold: expected"),
        (("redaction: {}", "redaction:"), "line 9: redaction: is empty; write {} for the defaults, or leave it out"),
        (("name: demo", "nmae: demo"), "line 2: nmae: unknown key; did you mean 'name'?"),
        (("name: demo", "name: demo\nname: other"), "name: written twice (line 2 and line 3)"),
        (("name: notes", "name: notes, name: more"), "sources.0.name: written twice"),
        (("category: books}", "category: books, kind: wrc}"), "there is no kind of source called 'wrc'"),
        (("category: books}", "category: books, options: {a: 1}}"), "say which kind they are for"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, change: tuple[str, str], told: str) -> None:
    assert change[0] in GOOD
    assert told in problems(tmp_path, GOOD.replace(*change))


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    told = problems(tmp_path, GOOD.replace("threshold: 0.7", "threshold: 7").replace("category: b", "categroy: b"))
    assert "threshold" in told and "categroy" in told and told.startswith("2 problems")


def test_two_sources_of_one_name_are_refused() -> None:
    source = SourceSettings(name="a", paths=["x"])
    with pytest.raises(ConfigError, match="two are called a"):
        Pipeline(sources=[source, source])


def test_python_objects_and_dictionaries_say_the_same() -> None:
    by_objects = Pipeline(sources=[SourceSettings(name="a", paths=["x"])], dedup=DedupSettings())
    by_values = Pipeline(sources=[{"name": "a", "paths": ["x"]}], dedup={})
    assert by_objects.to_dict() == by_values.to_dict()


def test_a_path_that_does_not_exist_is_an_error_before_any_work(tmp_path: Path) -> None:
    from llm_trainer.corpus.pipeline.plan import make_plan

    pipeline = Pipeline(sources=[{"name": "a", "paths": [str(tmp_path / "nothing")]}], output_dir=str(tmp_path / "out"))
    with pytest.raises(DataError, match="there is no file or folder"):
        make_plan(pipeline)
