"""How a block of tokens is made smaller.

Tokens of clean text are nearly incompressible: LZ4 saves little of plain uint16 and Zstandard more, and LZ4 is read
faster. Neither is ever what training waits for. ``benchmarks/loader.py`` measures both.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import lz4.block

from llm_trainer.common.optional import require

Buffer: TypeAlias = "bytes | memoryview"
ZSTD_LEVEL = 3


class Codec(NamedTuple):
    """Both directions of one codec; ``decompress`` is told the size of the result."""

    number: int
    """As stored in a chunk's header."""
    compress: Callable[[bytes], bytes]
    decompress: Callable[[Buffer, int], Buffer]


def _lz4_decompress(data: Buffer, size: int) -> Buffer:
    result: bytes = lz4.block.decompress(data, uncompressed_size=size)
    return result


@lru_cache(maxsize=1)
def _zstandard() -> Any:
    return require("zstandard", extra="data", purpose="token caches with the zstd codec")


def _zstd_compress(data: bytes) -> bytes:
    result: bytes = _zstandard().ZstdCompressor(level=ZSTD_LEVEL).compress(data)
    return result


def _zstd_decompress(data: Buffer, size: int) -> Buffer:
    # One per call: its objects may not be shared by threads, and making one costs 1 us.
    result: bytes = _zstandard().ZstdDecompressor().decompress(data, max_output_size=size)
    return result


CODECS = {
    "none": Codec(0, lambda data: data, lambda data, size: bytes(data)),
    "lz4": Codec(1, lambda data: lz4.block.compress(data, store_size=False), _lz4_decompress),
    "zstd": Codec(2, _zstd_compress, _zstd_decompress),
}
BY_NUMBER = {codec.number: codec for codec in CODECS.values()}


def check_codec(name: str) -> None:
    """Fail now, and not after minutes of tokenizing, if a codec cannot be used on this machine.

    Raises:
        UserError: the package is not installed.
    """
    if name == "zstd":
        _zstandard()
