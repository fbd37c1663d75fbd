"""Tokens to other trainers and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llm_trainer.common.errors import CorruptionError, DataError, UserError
from llm_trainer.data import TokenCache, build_cache
from llm_trainer.data.token_files import export_tokens, import_tokens, open_token_file
from tests.byte_tokenizer import ByteTokenizer
from tests.data.test_token_cache import documents_of, some_texts


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> TokenCache:
    return build_cache(some_texts(), ByteTokenizer(), tmp_path_factory.mktemp("c"), seq_len=400, unit_bytes=3000)


def test_nanogpts_file_is_the_stream_of_all_tokens(cache, tmp_path):
    (path,) = export_tokens(cache, tmp_path / "train.bin", "nanogpt")
    stream = np.memmap(path, dtype=np.uint16, mode="r")
    assert stream.tolist() == [token for s in cache.read(range(len(cache))) for token in s.tokens.tolist()]


def test_megatrons_index_says_where_each_document_is(cache, tmp_path):
    """Read by the layout that Megatron-LM documents for its indexed data sets, independently of our reader."""
    path, index = export_tokens(cache, tmp_path / "train.bin", "megatron")
    raw = index.read_bytes()
    assert raw[:9] == b"MMIDIDX\x00\x00"
    assert np.frombuffer(raw, "<u8", 1, 9)[0] == 1
    assert raw[17] == 8
    sequences, documents = np.frombuffer(raw, "<u8", 2, 18).tolist()
    sizes = np.frombuffer(raw, "<i4", sequences, 34)
    pointers = np.frombuffer(raw, "<i8", sequences, 34 + 4 * sequences)
    assert np.frombuffer(raw, "<i8", documents, 34 + 12 * sequences).tolist() == list(range(sequences + 1))
    data = path.read_bytes()
    found = [np.frombuffer(data, "<u2", size, at).tolist() for size, at in zip(sizes.tolist(), pointers.tolist())]
    assert sorted(found) == sorted([256, *text.encode(), 256] for text in some_texts())


@pytest.mark.parametrize("file_format", ["nanogpt", "megatron"])
def test_there_and_back_every_document_is_the_same(cache, tmp_path, file_format, monkeypatch):
    monkeypatch.setattr("llm_trainer.data.token_files.UNIT_TOKENS", 4000)
    path = export_tokens(cache, tmp_path / "train.bin", file_format)[0]
    source = open_token_file(path, file_format)
    if file_format == "nanogpt":
        # Begin and end are the same token here; every second one ends a document.
        source = type(source)(source.path, source.tokens, source.ends[:0])
        ends = np.flatnonzero(np.asarray(source.tokens) == 256)[1::2] + 1
        source = type(source)(source.path, source.tokens, ends)
    again = import_tokens(source, tmp_path / "again", tokenizer="bytes", vocab_size=257, seq_len=400)
    assert len(again.manifest.chunks) > 3
    assert sorted(documents_of(again)) == sorted(documents_of(cache))
    assert again.manifest.totals()["tokens_kept"] == 1
    again.verify()


def test_an_end_token_cuts_a_stream_into_documents(tmp_path):
    np.array([5, 6, 0, 7, 0, 8], dtype=np.uint16).tofile(tmp_path / "t.bin")
    assert open_token_file(tmp_path / "t.bin", "nanogpt", end_id=0).ends.tolist() == [3, 5, 6]
    assert open_token_file(tmp_path / "t.bin", "nanogpt").ends.tolist() == [6]


def test_wrong_files_are_named(cache, tmp_path):
    with pytest.raises(UserError, match="no token file format 'tar'"):
        export_tokens(cache, tmp_path / "t.bin", "tar")
    with pytest.raises(DataError, match=r"there is no file .*gone\.bin"):
        open_token_file(tmp_path / "gone.bin", "nanogpt")
    (tmp_path / "odd.bin").write_bytes(b"abc")
    with pytest.raises(CorruptionError, match="no file of 16-bit tokens"):
        open_token_file(tmp_path / "odd.bin", "nanogpt")
    with pytest.raises(DataError, match=r"no index odd\.idx"):
        open_token_file(tmp_path / "odd.bin", "megatron")
    path, index = export_tokens(cache, tmp_path / "m.bin", "megatron")
    good = index.read_bytes()
    for damaged in (b"", good[:50], b"X" + good[1:], good[:40] + b"\x01" + good[41:]):
        index.write_bytes(damaged)
        with pytest.raises(CorruptionError, match=r"m\.(idx|bin)"):
            open_token_file(path, "megatron")
    (path,) = export_tokens(cache, tmp_path / "n.bin", "nanogpt")
    with pytest.raises(DataError, match="outside the vocabulary of 50"):
        import_tokens(open_token_file(path, "nanogpt"), tmp_path / "i", tokenizer="t", vocab_size=50, seq_len=64)


def test_large_vocabularies_go_to_32_bit_files_only(tmp_path):
    class Large(ByteTokenizer):
        vocab_size = 70_000

    cache = build_cache(["some text"], Large(), tmp_path / "c", seq_len=8)
    with pytest.raises(UserError, match=r"below 65,536.*\n.*megatron"):
        export_tokens(cache, tmp_path / "t.bin", "nanogpt")
    path = export_tokens(cache, tmp_path / "t.bin", "megatron")[0]
    assert open_token_file(Path(path), "megatron").tokens.dtype == np.dtype("<i4")
