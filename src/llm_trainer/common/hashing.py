"""Checksums: xxh3-128 for integrity (13 GB/s, not cryptographic), and stable fingerprints of plain data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import xxhash


def hash_bytes(data: bytes | memoryview) -> str:
    """The xxh3-128 of ``data`` as 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(data)


def hash_file(path: str | Path) -> str:
    """The xxh3-128 of a file, read in pieces of 4 MiB."""
    digest = xxhash.xxh3_128()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(value: Any) -> str:
    """A short, stable name for JSON-like data: equal data give equal names in every process and on every machine."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hash_bytes(canonical.encode("utf-8"))[:16]


def mix_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part; different parts give unrelated seeds."""
    return xxhash.xxh3_64_intdigest(json.dumps(parts).encode("utf-8")) & 0x7FFF_FFFF_FFFF_FFFF
