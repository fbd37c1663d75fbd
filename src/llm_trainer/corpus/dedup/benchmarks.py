"""Benchmark items out of the files that benchmarks come in: what was asked, and what the right answer is."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regex

from llm_trainer.common.errors import CorruptionError, DataError
from llm_trainer.common.optional import require
from llm_trainer.corpus.decoding import decoded_lines
from llm_trainer.corpus.formats import format_suffix
from llm_trainer.corpus.records import read_records

QUESTION_KEYS = (
    *("question", "query", "prompt", "problem", "context", "ctx", "passage", "premise", "goal", "story", "sentence"),
    *("instruction", "input", "text", "Question"),
)
"""Columns that hold what is asked."""

ANSWER_KEYS = (
    *("answer", "continuation", "target", "solution", "output", "response", "chain_of_thought", "canonical_solution"),
    *("best_answer", "correct_answer", "Best Answer"),
)
"""Columns that hold the right answer."""

CHOICE_KEYS = ("choices", "options", "endings", "context_options")
"""Columns that hold a list of answers."""

GOLD_KEYS = ("gold", "label", "answerKey", "answer", "answer_idx", "target")
"""Columns that hold which of them is right: a number from 0, or a letter."""

TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
"""What is taken out of a folder. A ``.txt`` has to be named: beside benchmarks, it is mostly a README."""

_LABEL = regex.compile(r"^\s*(?:question|q|passage|context|sentence|problem|input)\s*:\s*", regex.IGNORECASE)
_ASK = regex.compile(r"\b(?:answer|a|output)\s*:$", regex.IGNORECASE)
_LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Item:
    """One benchmark item.

    Attributes:
        benchmark: name of the benchmark, from the name of its file.
        name: the item's own name, or its number in the file from 1.
        question: what is asked.
        texts: all that must not be in training data: the question, the question with its answer, long answers.
    """

    benchmark: str
    name: str
    question: str
    texts: tuple[str, ...]


def read_items(paths: Iterable[str | Path], columns: Sequence[str] | None = None) -> Iterator[Item]:
    """Read benchmark items.

    Args:
        paths: ``.jsonl``, ``.json``, ``.csv``, ``.tsv`` (perhaps compressed), ``.parquet``, ``.arrow`` or ``.txt``
            files (one item a line), or folders of the tables among them. A table of comma-separated values without a
            header is read as question, choices..., letter of the right one (as MMLU's).
        columns: the columns with text, each of which is a text by itself; found by their names if left out.

    Yields:
        items; one whose ``question`` is empty holds no text that could be found.

    Raises:
        DataError: a path does not exist, or nothing under it can be read.
    """
    for given in paths:
        path = Path(given).expanduser()
        if not path.exists():
            raise DataError(f"there is no benchmark file or folder {path}")
        files = [path]
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file() and format_suffix(file) in TABLES)
            if not files:
                raise DataError(f"there is no benchmark in the folder {path}", hint=f"it may hold {', '.join(TABLES)}")
        for file in files:
            name = _name(f"{path.name}/{file.relative_to(path).as_posix()}" if path.is_dir() else file.name)
            for number, values in enumerate(_records(file), start=1):
                yield _item(values, name, number, columns)


def _name(file: str) -> str:
    """``mmlu/test/anatomy_test`` for ``mmlu/test/anatomy_test.csv.gz``."""
    suffix = format_suffix(Path(file))
    return file[: file.lower().rindex(suffix)] if suffix else file


def _records(path: Path) -> Iterator[Mapping[str, Any]]:
    suffix = format_suffix(path)
    if suffix == ".arrow":
        yield from _arrow(path)
    elif suffix in (".csv", ".tsv"):
        yield from _delimited(path, "," if suffix == ".csv" else "\t")
    elif suffix in TABLES:
        for record in read_records(path):
            yield record.values
    else:
        yield from ({"text": line.strip()} for line in decoded_lines(path) if line.strip())


def _delimited(path: Path, delimiter: str) -> Iterator[Mapping[str, Any]]:
    try:
        rows = csv.reader(decoded_lines(path), delimiter=delimiter)
        header: list[str] | None = None
        for number, row in enumerate(rows):
            if not number and set(row) & {*QUESTION_KEYS, *ANSWER_KEYS, *CHOICE_KEYS}:
                header = row
            elif header is not None:
                yield dict(zip(header, row))
            elif len(row) > 2 and row[-1].strip() in _LETTERS:
                yield {"question": row[0], "choices": row[1:-1], "gold": row[-1].strip()}
            elif row:
                yield {"question": row[0], "answer": " ".join(row[1:])}
    except csv.Error as error:
        raise CorruptionError(f"{path} cannot be read as a table: {error}") from None


def _arrow(path: Path) -> Iterator[Mapping[str, Any]]:
    arrow = require("pyarrow", extra="data", purpose="reading Arrow files")
    ipc = require("pyarrow.ipc", extra="data", purpose="reading Arrow files")
    try:
        with arrow.memory_map(str(path)) as source:
            try:
                table = ipc.open_stream(source).read_all()
            except arrow.ArrowInvalid:  # the same format has a form for files
                table = ipc.open_file(source).read_all()
            yield from table.to_pylist()
    except (arrow.ArrowInvalid, OSError) as error:
        raise CorruptionError(f"{path} is not a readable Arrow file: {error}") from None


def _item(values: Mapping[str, Any], benchmark: str, number: int, columns: Sequence[str] | None) -> Item:
    if isinstance(values.get("doc"), dict):  # a recorded evaluation request; what is around it is the few-shot prompt
        values = values["doc"]
    name = next((str(values[key]) for key in ("id", "task_id", "ind") if values.get(key) is not None), str(number))
    if columns is not None:
        texts = [text for key in columns for text in _texts(values.get(key))]
        return Item(benchmark, name, texts[0] if texts else "", tuple(texts))
    asked = [_bare(text) for key in QUESTION_KEYS for text in _texts(values.get(key))]
    choices = next((found for key in CHOICE_KEYS if (found := _texts(values.get(key)))), [])
    answers = [text for key in ANSWER_KEYS for text in _texts(values.get(key)) if len(text) > 1]
    gold = _gold(values, len(choices))
    if values.get("context_options"):  # the choices are beginnings of the sentence
        whole = [f"{choice} {answer}" for choice in choices for answer in answers or [""]]
        return Item(benchmark, name, whole[gold or 0] if whole else "", tuple(whole))
    if gold is not None:
        answers.insert(0, choices[gold])
    joined = [f"{question} {answer}" for question in asked[-1:] for answer in answers[:1]]
    texts = [*asked, *joined, *answers, *choices]
    return Item(benchmark, name, asked[0] if asked else "", tuple(dict.fromkeys(filter(None, texts))))


def _texts(value: Any) -> list[str]:
    """Every text in a cell: the cell itself, a list, or the ``text`` of a record."""
    if isinstance(value, str):
        return [value] if value.strip() else []
    if isinstance(value, dict):
        return _texts(value.get("text"))
    if isinstance(value, (list, tuple)):
        return [text for part in value for text in _texts(part)]
    return []


def _bare(text: str) -> str:
    """A question without the ``Question:`` before it and the ``Answer:`` behind."""
    bare = _LABEL.sub("", text).rstrip()
    ask = _ASK.search(bare, max(0, len(bare) - 20))
    return str(bare[: ask.start()].rstrip() if ask else bare)


def _gold(values: Mapping[str, Any], choices: int) -> int | None:
    """Which choice is right, if the record says so."""
    for key in GOLD_KEYS:
        value = values.get(key)
        if isinstance(value, str) and len(value) == 1 and value in _LETTERS:
            value = _LETTERS.index(value)
        elif isinstance(value, str) and len(value) == 1 and value.isdecimal():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < choices:
            return value
    return None
