"""Tables of examples: what may stand in a cell, and what is refused in one sentence."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from llm_trainer.common.errors import DataError
from llm_trainer.config import DataConfig
from llm_trainer.corpus.records import Record, open_records, read_records
from llm_trainer.training.examples import label_names, labels_of


def rows(path: Path, *values: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def test_a_cell_may_be_longer_than_the_csv_module_thinks(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text(f"text,label\n{'word ' * 40_000},a\nshort,b\n")
    first, second = read_records(path)
    assert len(first.text("text")) == 200_000 and second.values == {"text": "short", "label": "b"}


def test_a_column_of_dates_is_split_and_then_refused_as_text(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    days = [datetime.datetime(2024, 1, day) for day in range(1, 10)]
    parquet.write_table(arrow.table({"text": days, "label": list("abcabcabc")}), tmp_path / "days.parquet")
    found = open_records([str(tmp_path / "days.parquet")], key="text", validation_fraction=0.3)
    assert len(found.train) + len(found.validation) == 9
    with pytest.raises(DataError, match="row 1: expected text in column 'text', found datetime"):
        sorted([*found.train, *found.validation], key=lambda record: record.where)[0].text("text")


def test_records_without_a_single_label_are_named(tmp_path: Path) -> None:
    path = rows(tmp_path / "words.jsonl", {"text": [], "label": []}, {"text": [], "label": []})
    config = DataConfig(dataset_name=str(path), text_column="text", label_column="label")
    with pytest.raises(DataError, match="column 'label' holds no label"):
        label_names(list(read_records(path)), config, "token_classification")


@pytest.mark.parametrize("label", [["a"], {"a": 1}, "", None])
def test_a_label_is_a_name_or_a_number(tmp_path: Path, label: Any) -> None:
    config = DataConfig(dataset_name="x", text_column="text", label_column="label")
    with pytest.raises(DataError, match=r"line 7.*(expected a label|is empty)"):
        labels_of(Record({"text": "x", "label": label}, "file, line 7"), config, "classification")
    with pytest.raises(DataError, match="line 7: expected a label"):
        labels_of(Record({"text": ["x"], "label": [label]}, "file, line 7"), config, "token_classification")


def test_numbers_and_truths_are_labels(tmp_path: Path) -> None:
    config = DataConfig(dataset_name="x", text_column="text", label_column="label")
    values = [2, 0.5, True, "two"]
    names = [labels_of(Record({"text": "x", "label": value}, "here"), config, "classification") for value in values]
    assert names == [["2"], ["0.5"], ["True"], ["two"]]


@pytest.mark.parametrize("word", [None, ["x"], {"x": 1}])
def test_a_word_is_text_or_a_number(word: Any) -> None:
    config = DataConfig(dataset_name="x", text_column="text", label_column="label")
    with pytest.raises(DataError, match="line 7: expected words in 'text'"):
        labels_of(Record({"text": [word], "label": ["X"]}, "file, line 7"), config, "token_classification")
