"""A chunk gives back what was written, is no larger than it must be, and notices every changed byte."""

from __future__ import annotations

import numpy as np
import pytest

from llm_trainer.common.errors import CorruptionError
from llm_trainer.data.chunk import ChunkReader, PackedSequence, token_dtype, write_chunk


def some_sequences(count: int, dtype: str = "uint16", seq_len: int = 12) -> list[PackedSequence]:
    rng = np.random.default_rng(count)
    rows = []
    for _ in range(count):
        lengths = rng.integers(1, 5, size=rng.integers(1, 4)).astype(np.uint32)
        highest = np.iinfo(dtype).max
        rows.append(PackedSequence(rng.integers(0, highest, lengths.sum(), endpoint=True).astype(dtype), lengths))
    return rows


def write(path, sequences, *, dtype="uint16", codec="lz4", metadata=None):
    return write_chunk(
        path,
        sequences,
        seq_len=12,
        dtype=dtype,
        codec=codec,
        documents=7,
        text_bytes=1000,
        tokens_in=sum(len(sequence.tokens) for sequence in sequences),
        metadata=metadata or {"unit": 3},
    )


def all_sequences(reader: ChunkReader) -> list[PackedSequence]:
    blocks = [reader.block(index) for index in range(reader.blocks)]
    return [block[row] for block in blocks for row in range(len(block))]


@pytest.mark.parametrize("codec", ["lz4", "none"])
@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("count", [1, 16, 17, 50])
def test_reading_gives_what_was_written(tmp_path, count, dtype, codec):
    sequences = some_sequences(count, dtype)
    info = write(tmp_path / "chunk-00003.tok", sequences, dtype=dtype, codec=codec, metadata={"unit": 3, "why": "ü"})
    reader = ChunkReader(tmp_path / "chunk-00003.tok")
    read = all_sequences(reader)
    assert len(read) == len(reader) == info.sequences == count
    for (tokens, lengths), (expected_tokens, expected_lengths) in zip(read, sequences):
        assert tokens.dtype == dtype
        assert tokens.tolist() == expected_tokens.tolist()
        assert lengths.tolist() == expected_lengths.tolist()
    assert reader.metadata == {"unit": 3, "why": "ü"}
    assert reader.info == info
    assert info.bytes == (tmp_path / "chunk-00003.tok").stat().st_size
    reader.verify()


def test_the_same_sequences_make_the_same_bytes(tmp_path):
    write(tmp_path / "a", some_sequences(20))
    write(tmp_path / "b", some_sequences(20))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_tokens_take_two_bytes_up_to_65536_of_them():
    assert token_dtype(65_536) == "uint16"
    assert token_dtype(65_537) == "uint32"


@pytest.mark.covers("R215")
@pytest.mark.parametrize("codec", ["lz4", "none"])
def test_every_single_changed_byte_is_noticed_and_the_file_named(tmp_path, codec):
    path = tmp_path / "chunk-00000.tok"
    write(path, some_sequences(17), codec=codec)
    good = path.read_bytes()
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(CorruptionError, match=r"chunk-00000\.tok"):
            ChunkReader(path).verify()


def test_a_damaged_block_is_named_and_the_others_can_be_read(tmp_path):
    path = tmp_path / "chunk-00000.tok"
    write(path, some_sequences(40))
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    reader = ChunkReader(path)
    assert len(reader.block(0)) == len(reader.block(1)) == 16
    with pytest.raises(CorruptionError, match="block 2 of 3 is damaged") as error:
        reader.block(2)
    assert "--mode inverse" in str(error.value)


@pytest.mark.covers("R215")
def test_every_truncation_is_noticed_when_the_chunk_is_opened(tmp_path):
    path = tmp_path / "chunk-00000.tok"
    write(path, some_sequences(20))
    good = path.read_bytes()
    for size in range(len(good)):
        path.write_bytes(good[:size])
        with pytest.raises(CorruptionError, match=r"chunk-00000\.tok"):
            ChunkReader(path)
    path.write_bytes(good + b"\0")
    with pytest.raises(CorruptionError, match="something appended"):
        ChunkReader(path)
