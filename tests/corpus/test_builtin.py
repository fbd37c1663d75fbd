"""The text that is already on the machine, for this interpreter and for unusual ones."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_trainer.common.errors import DataError
from llm_trainer.common.hashing import hash_bytes
from llm_trainer.corpus import builtin, builtin_documents, builtin_summary, open_dataset
from llm_trainer.corpus.near_copies import group_near_copies


@pytest.fixture
def fresh_library() -> Iterator[None]:
    """The text of the library is kept per process; tests that move the library must not see or leave another's."""
    builtin._entries.cache_clear()
    builtin._read_library.cache_clear()
    yield
    builtin._entries.cache_clear()
    builtin._read_library.cache_clear()


def contents(split: str) -> list[str]:
    return [document.text for document in builtin_documents(split)]  # type: ignore[arg-type]


def test_there_is_enough_text_and_about_a_twentieth_of_it_is_held_out():
    summary = builtin_summary()
    assert summary.bytes > 5_000_000
    assert summary.held_out_bytes >= builtin.MIN_HELD_OUT_BYTES
    assert 0.04 < summary.held_out_bytes / summary.bytes < 0.08
    assert summary.train_bytes == sum(len(text.encode()) for text in contents("train"))
    assert summary.held_out_bytes == sum(len(text.encode()) for text in contents("validation"))
    assert set(summary.by_kind) >= {"library"}
    assert "held out" in summary.describe()


def test_nothing_is_on_both_sides_not_even_a_near_copy():
    training, validation = contents("train"), contents("validation")
    assert not {hash_bytes(text.encode()) for text in training} & {hash_bytes(text.encode()) for text in validation}
    groups = group_near_copies(training + validation)
    assert not set(groups[: len(training)]) & set(groups[len(training) :])
    assert sorted(training + validation) == sorted(contents("all"))
    ids = [document.id for document in builtin_documents("all")]
    assert len(set(ids)) == len(ids)


def test_other_peoples_code_tests_and_tables_are_left_out():
    ids = [document.id for document in builtin_documents("all")]
    unwanted = ("site-packages/", "test/", "_sysconfigdata", "encodings/cp", "sitecustomize")
    assert not [name for name in ids if name.startswith(unwanted) or "/tests/" in name]
    assert {"argparse.py", "encodings/__init__.py", "json/decoder.py"} <= set(ids)


def test_another_process_sees_the_same_texts_in_the_same_order():
    code = (
        "from llm_trainer.corpus import builtin_documents, builtin_summary\n"
        "print(builtin_summary().fingerprint, *[d.id for d in builtin_documents('validation')])"
    )
    # A different hash seed: nothing may depend on the order of a set.
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONHASHSEED": "77"})
    assert result.returncode == 0, result.stderr
    held_out = [document.id for document in builtin_documents("validation")]
    assert result.stdout.split() == [builtin_summary().fingerprint, *held_out]
    assert open_dataset("builtin").fingerprint != open_dataset("builtin", split="validation").fingerprint


def test_it_is_found_by_name_with_its_own_validation_split():
    handle = open_dataset("builtin")
    assert [document.text for document in handle] == contents("train")
    assert [document.text for document in handle.validation()] == contents("validation")
    assert handle.split_documents == len(contents("train"))
    assert handle.total_bytes == builtin_summary().train_bytes


@pytest.mark.usefixtures("fresh_library")
def test_an_interpreter_without_sources_says_so(tmp_path, monkeypatch):
    (tmp_path / "only.py").write_text("x = 1\n" * 200)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(DataError, match=r"(?s)without most of its sources.*--text FILE_OR_FOLDER") as caught:
        list(builtin_documents())
    assert str(tmp_path) in str(caught.value)


@pytest.mark.usefixtures("fresh_library")
def test_a_zipped_standard_library_is_read(tmp_path, monkeypatch):
    archive = tmp_path / "python311.zip"
    root = Path(sysconfig.get_path("stdlib"))
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(root.glob("*.py")):
            file.write(path, path.name)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "nowhere"))
    monkeypatch.setattr(sys, "path", [*sys.path, str(archive)])
    assert "argparse.py" in {document.id for document in builtin_documents("all")}


def test_near_copies_are_grouped_and_shared_boilerplate_is_not():
    licence = "".join(f"# this licence line {number} is in every file\n" for number in range(20))
    first = licence + "".join(f"def function_{number}(argument):\n" for number in range(40))
    twin = first.replace("def function_1(", "def renamed_one(")
    others = [licence + "".join(f"class Other{i}_{number}(Base):\n" for number in range(40)) for i in range(10)]
    assert group_near_copies([first, twin, *others]) == [0, 0, *range(2, 12)]


def test_an_unknown_split_is_refused():
    with pytest.raises(DataError, match="no split 'test'"):
        list(builtin_documents("test"))  # type: ignore[arg-type]
