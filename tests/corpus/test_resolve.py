"""Data sets by name: where they are looked for, what identifies them, and what happens without a network."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from llm_trainer.common.errors import DataError
from llm_trainer.corpus import DatasetFactory, Document, factory, open_dataset, open_paths, register_dataset


@pytest.fixture(autouse=True)
def quiet_place(tmp_path, monkeypatch):
    """An empty current folder, no data folder, an empty registry, and a hub that refuses connections."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("LLM_TRAINER_DATA", raising=False)
    monkeypatch.setattr(factory, "_REGISTRY", {})
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return folder


def texts(handle) -> list[str]:
    return [document.text for document in handle]


def lines_file(path: Path, count: int, prefix: str = "line") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{prefix} {number}\n" for number in range(count)))
    return path


@pytest.mark.covers("R179", "R183")
def test_a_path_is_opened_and_lines_are_documents(quiet_place):
    lines_file(quiet_place / "notes.txt", 40)
    handle = open_dataset("notes.txt", documents="line", validation_fraction=0)
    assert len(texts(handle)) == 40
    assert texts(handle) == texts(handle)
    assert handle.total_bytes == (quiet_place / "notes.txt").stat().st_size
    assert handle.report.documents == 40
    assert "notes.txt" in handle.description


@pytest.mark.covers("R181")
@pytest.mark.parametrize("where", ["variable", "data", "file"])
def test_a_name_is_found_in_the_data_folders_before_the_hub(quiet_place, tmp_path, monkeypatch, where):
    if where == "variable":
        monkeypatch.setenv("LLM_TRAINER_DATA", str(tmp_path / "store"))
        lines_file(tmp_path / "store" / "org" / "wiki" / "wiki-2" / "train.txt", 3)
    elif where == "data":
        lines_file(quiet_place / "data" / "org" / "wiki" / "wiki-2" / "train.txt", 3)
    else:
        lines_file(quiet_place / "data" / "org" / "wiki.txt", 3)
    config = None if where == "file" else "wiki-2"
    handle = open_dataset("org/wiki", config, documents="line", validation_fraction=0)
    assert texts(handle) == ["line 0", "line 1", "line 2"]


def test_a_missing_configuration_lists_those_there_are(quiet_place):
    lines_file(quiet_place / "wiki" / "raw-v1" / "train.txt", 3)
    with pytest.raises(DataError, match=r"no configuration 'raw-v2'.*it has raw-v1"):
        open_dataset("wiki", "raw-v2")


@pytest.mark.parametrize(
    "names",
    [
        ("train.txt", "valid.txt", "test.txt"),
        ("wiki.train.tokens", "wiki.val.tokens", "wiki.test.tokens"),
        ("train-00000-of-00001.txt", "validation-00000-of-00001.txt", "test-00000-of-00001.txt"),
        ("train/a.txt", "dev/a.txt", "test/a.txt"),
        ("data/train.txt", "data/validation.txt", "data/test.txt"),
    ],
)
def test_splits_are_recognised_by_name(quiet_place, names):
    for name, prefix in zip(names, ("train", "validation", "test"), strict=True):
        lines_file(quiet_place / "corpus" / name, 2, prefix)
    (quiet_place / "corpus" / "README.md").write_text("about")
    for split in ("train", "validation", "test"):
        assert texts(open_dataset("corpus", split=split, documents="line")) == [f"{split} 0", f"{split} 1"]


def test_a_project_with_a_train_script_or_note_is_not_a_data_set_with_splits(quiet_place):
    for name in ("train.py", "test_train.py", "model.py", "notes.txt", "train times.txt"):
        lines_file(quiet_place / "project" / name, 2, name)
    assert len(texts(open_dataset("project", split="all"))) == 5


def test_several_paths_are_one_data_set_with_distinct_ids(quiet_place):
    lines_file(quiet_place / "a" / "x.txt", 2, "a")
    lines_file(quiet_place / "b" / "x.txt", 2, "b")
    documents = list(open_paths(["a", "b"], documents="line", validation_fraction=0))
    assert [document.text for document in documents] == ["a 0", "a 1", "b 0", "b 1"]
    assert len({document.id for document in documents}) == 4
    with pytest.raises(DataError, match="no file or folder c"):
        open_paths(["a", "c"])


def test_the_fingerprint_follows_the_documents(quiet_place):
    path = lines_file(quiet_place / "notes.txt", 40)

    def identity(split: str = "train", **options) -> str:
        return open_dataset("notes.txt", split=split, **options).fingerprint

    first = identity()
    os.utime(path, (1, 1))
    assert identity() == first  # a small file is known by its content
    others = {
        identity("validation"),
        identity("train[:10]"),
        identity(documents="line"),
        identity(validation_fraction=0.1),
        identity(encoding="latin-1"),
    }
    path.write_text(path.read_text().replace("line 7", "LINE 7"))
    others.add(identity())
    assert len(others | {first}) == 7


def test_a_slip_in_a_path_suggests_the_right_one_and_never_asks_the_hub(quiet_place):
    lines_file(quiet_place / "texts" / "novel.txt", 1)
    with pytest.raises(DataError, match=r"no file or folder texts/novle\.txt; did you mean texts/novel\.txt\?"):
        open_dataset("texts/novle.txt")


@pytest.mark.covers("R071")
def test_a_subclassed_factory_is_used_by_name(quiet_place):
    class Threads(DatasetFactory):
        def create_custom_dataset(self, data_path):
            for line in Path(data_path).read_text().splitlines():
                yield {"text": line.upper()}

    path = lines_file(quiet_place / "forum.raw", 3)
    register_dataset("forum", Threads)
    handle = open_dataset("forum", str(path), validation_fraction=0)
    assert texts(handle) == ["LINE 0", "LINE 1", "LINE 2"]
    assert texts(handle) == ["LINE 0", "LINE 1", "LINE 2"]  # every pass starts again
    with pytest.raises(DataError, match="'forum' exists already"):
        register_dataset("forum", Threads())
    first = handle.fingerprint
    lines_file(path, 4)
    assert open_dataset("forum", str(path), validation_fraction=0).fingerprint != first


@pytest.mark.covers("R071")
def test_a_registered_function_may_give_splits(quiet_place):
    register_dataset("tiny", lambda path: {"train": ["a", "b"], "valid": [Document("c", "c")]})
    assert texts(open_dataset("tiny")) == ["a", "b"]
    assert texts(open_dataset("tiny").validation()) == ["c"]


@pytest.mark.covers("R230")
def test_a_datasets_object_is_a_data_set(quiet_place):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"content": ["one", "two", None], "n": [1, 2, 3]})
    handle = open_dataset(rows, text_column="content", validation_fraction=0)
    assert texts(handle) == ["one", "two"]
    assert handle.report.empty_records == 1
    assert len(handle.fingerprint) == 16
    with pytest.raises(DataError, match="'content', 'n'"):
        texts(open_dataset(rows, validation_fraction=0))
    saved = datasets.DatasetDict({"train": rows, "test": rows.select([1])})
    saved.save_to_disk("saved")
    assert texts(open_dataset("saved", split="test", text_column="content")) == ["two"]


def test_a_generator_is_refused_because_it_can_be_read_once():
    with pytest.raises(DataError, match="only once"):
        open_dataset(text for text in ["a", "b"])


def test_records_without_any_text_are_an_error():
    with pytest.raises(DataError, match="no text"):
        texts(open_dataset(["", "  "], validation_fraction=0))


@pytest.mark.covers("R181")
def test_an_unreachable_hub_gives_one_clear_message_fast():
    started = time.monotonic()
    with pytest.raises(DataError) as caught:
        open_dataset("wikitext", "wikitext-2-raw-v1", "train[:1%]")
    assert time.monotonic() - started < 10
    message = str(caught.value)
    for part in ("'wikitext'", "127.0.0.1:9 does not answer", "$LLM_TRAINER_DATA/wikitext", "--text FILE_OR_FOLDER"):
        assert part in message


@pytest.mark.covers("R181")
def test_a_hub_that_never_answers_is_given_up_within_seconds(monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr("llm_trainer.corpus.hub.REACH_SECONDS", 0.5)
        started = time.monotonic()
        with pytest.raises(DataError, match="does not answer"):
            open_dataset("wikitext")
    assert time.monotonic() - started < 5


@pytest.mark.covers("R181")
def test_offline_mode_is_respected_without_a_traceback(quiet_place):
    pytest.importorskip("datasets")
    code = (
        "from llm_trainer.common.errors import UserError\n"
        "from llm_trainer.corpus import open_dataset\n"
        "try:\n    open_dataset('HuggingFaceTB/cosmopedia-20k')\n"
        "except UserError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(quiet_place / "empty")}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "HF_HUB_OFFLINE is set" in result.stdout and "--text FILE_OR_FOLDER" in result.stdout


@pytest.mark.covers("R230")
def test_a_hub_data_set_is_streamed_sliced_and_split(monkeypatch):
    """The hub is played by the ``datasets`` library on local files, behind a server that only says it is there."""
    datasets = pytest.importorskip("datasets")

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404 if "missing" in self.path else 200)
            self.end_headers()

        def log_message(self, *arguments):
            del arguments

    server = http.server.HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    rows = datasets.Dataset.from_dict({"text": [f"row {number}" for number in range(300)]})
    info = SimpleNamespace(splits={"train": datasets.SplitInfo("train", 3000, 300)}, version="1.0.0")
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda name, config: SimpleNamespace(info=info))
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, config: ["train"])
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, streaming, **k: rows.to_iterable_dataset())
    try:
        with pytest.raises(DataError, match="has no data set called 'org/missing'"):
            open_dataset("org/missing")
        handle = open_dataset("org/some", split="train[:10%]")
        training, validation = texts(handle), texts(handle.validation())
    finally:
        server.shutdown()
        server.server_close()
    assert 20 < len(training) <= 30 and set(training) <= {f"row {number}" for number in range(30)}
    assert validation and not set(training) & set(validation)
    assert handle.total_bytes == 3000


def test_importing_the_corpus_imports_neither_torch_nor_pyarrow():
    code = (
        "import sys, llm_trainer.corpus\n"
        "heavy = {'torch', 'pyarrow', 'datasets', 'transformers', 'numpy'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_an_empty_name_is_refused():
    with pytest.raises(DataError, match="empty"):
        open_dataset(" ")


def test_json_with_several_columns_is_read_by_name(quiet_place):
    (quiet_place / "rows.jsonl").write_text("".join(json.dumps({"body": f"b{i}"}) + "\n" for i in range(5)))
    assert len(texts(open_dataset("rows.jsonl", text_column="body", split="all"))) == 5
