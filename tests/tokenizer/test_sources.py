"""Training from files and from data sets by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from llm_trainer.common.errors import DataError, UserError
from llm_trainer.tokenizer import BPETokenizer, set_dataset_resolver
from llm_trainer.tokenizer import text_files as text_files_module
from tests.tokenizer.samples import SCRIPTS, standard_library


def test_files_give_the_tokenizer_of_their_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text.strip() + "\n" for text in standard_library(200_000)]
    paths = [tmp_path / f"{number}.txt" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, encoding="utf-8", newline="")
    whole = BPETokenizer().train_from_files(paths, 600)
    monkeypatch.setattr(text_files_module, "_BLOCK_CHARACTERS", 5_000)
    blocks = list(text_files_module.read_text_blocks(paths))
    assert len(blocks) > len(texts)
    assert "".join(blocks) == "".join(path.read_text(encoding="utf-8") for path in paths)
    assert max(map(len, blocks)) <= 10_000
    assert all(block.endswith("\n") for block in blocks)
    assert BPETokenizer().train_from_files(str(paths[0]), 300).vocab_size == 300
    assert whole.vocab_size == 600


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    latin = tmp_path / "latin.txt"
    latin.write_bytes("Stra\u00dfe".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.txt is not UTF-8.*0xdf") as caught:
        BPETokenizer().train_from_files([latin])
    assert "iconv" in str(caught.value)
    assert 'errors="replace"' in str(caught.value)
    with pytest.raises(DataError, match=r"gone\.txt does not exist"):
        BPETokenizer().train_from_files(tmp_path / "gone.txt")
    with pytest.raises(DataError, match="is a folder"):
        BPETokenizer().train_from_files(tmp_path)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match="no text"):
        BPETokenizer().train_from_files(tmp_path / "empty.txt")


def test_damaged_bytes_can_be_replaced_and_line_ends_stay(tmp_path: Path) -> None:
    path = tmp_path / "damaged.txt"
    path.write_bytes(b"one\r\ntwo \xff\xfe three\r\n" * 10)
    with pytest.raises(DataError, match="not UTF-8"):
        BPETokenizer().train_from_files(path, 262)
    tokenizer = BPETokenizer().train_from_files(path, 280, errors="replace", allow_smaller=True)
    assert len(tokenizer.encode("\r\n")) == 1
    assert (
        "".join(text_files_module.read_text_blocks(path, errors="replace")) == "one\r\ntwo \ufffd\ufffd three\r\n" * 10
    )
    with pytest.raises(UserError, match="errors is 'ignore'"):
        BPETokenizer().train_from_files(path, errors="ignore")  # type: ignore[arg-type]


@pytest.fixture
def asked() -> Iterator[list[tuple[object, ...]]]:
    """A resolver in place of the corpus layer, which notes what it was asked for."""
    requests: list[tuple[object, ...]] = []

    def resolve(name: str, config: str | None, split: str, text_column: str) -> Iterator[SimpleNamespace]:
        requests.append((name, config, split, text_column))
        return (SimpleNamespace(text=text * 3) for text in SCRIPTS.values())

    set_dataset_resolver(resolve)
    yield requests
    set_dataset_resolver(None)


@pytest.mark.covers("R108", "R109", "R110")
def test_the_documented_calls(asked: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    # The text of this test allows 900 tokens; the documented calls ask for 32,000 and 50,000.
    train = BPETokenizer.train_from_iterator
    sizes: list[int] = []

    def train_smaller(self: BPETokenizer, texts: Iterator[str], vocab_size: int, **options: object) -> BPETokenizer:
        sizes.append(vocab_size)
        return train(self, texts, 400, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(BPETokenizer, "train_from_iterator", train_smaller)
    tokenizer = BPETokenizer()
    tokenizer.train_from_dataset(dataset_name="wikitext", dataset_config="wikitext-2-raw-v1", vocab_size=32000)
    tokenizer.train_from_dataset("wikitext", "wikitext-2-raw-v1", vocab_size=32000)
    tokenizer.train_from_dataset("your_dataset", vocab_size=50000)
    assert asked == [
        ("wikitext", "wikitext-2-raw-v1", "train", "text"),
        ("wikitext", "wikitext-2-raw-v1", "train", "text"),
        ("your_dataset", None, "train", "text"),
    ]
    assert sizes == [32000, 32000, 50000]
    assert tokenizer.vocab_size == 400


def test_max_documents_limits_what_is_read(asked: list[tuple[object, ...]]) -> None:
    one = BPETokenizer().train_from_dataset("any", vocab_size=270, max_documents=1, split="test", text_column="body")
    first = BPETokenizer().train_from_iterator([SCRIPTS["english"] * 3], 270)
    assert one.fingerprint() == first.fingerprint()
    assert asked == [("any", None, "test", "body")]


@pytest.mark.covers("R110")
def test_a_local_folder_is_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "your_dataset"
    folder.mkdir()
    for name, text in SCRIPTS.items():
        (folder / f"{name}.txt").write_text(text * 3, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    tokenizer = BPETokenizer()
    tokenizer.train_from_dataset("your_dataset", vocab_size=350, split="all")
    assert tokenizer.vocab_size == 350


def test_an_unknown_data_set_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="no_such_data_set"):
        BPETokenizer().train_from_dataset("no_such_data_set", vocab_size=300)
