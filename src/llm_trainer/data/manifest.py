"""The manifest of a cache: what was packed from what, derived from the chunks and written after all of them.

A cache without a manifest is unfinished; a cache whose manifest was lost gets the same one again from its chunks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from llm_trainer.common.errors import CorruptionError, DataError, UserError
from llm_trainer.common.files import read_json, write_json
from llm_trainer.common.hashing import fingerprint
from llm_trainer.data.chunk import ChunkInfo, ChunkReader, token_dtype
from llm_trainer.data.codecs import CODECS
from llm_trainer.data.packing import Packer

MANIFEST = "manifest.json"
VERSION = 2
REBUILD_HINT = "run the same llm-trainer data pack command again: it keeps the good chunks and makes the rest"
_CHUNK_NAME = re.compile(r"chunk-(\d{5,})-[0-9a-f]{8}\.tok")


@dataclass(frozen=True)
class PackConfig:
    """Everything but the text that decides the bytes of a cache.

    Attributes:
        tokenizer: fingerprint of the tokenizer.
        vocab_size: its size, which decides the width of a stored token.
        seq_len: tokens per sequence.
        packer: ``"bfd"`` or ``"concat"``.
        codec: ``"lz4"``, ``"zstd"`` or ``"none"``.
        unit_bytes: a work unit, and so a chunk, ends with the document that reaches this many bytes of UTF-8 text.
    """

    tokenizer: str
    vocab_size: int
    seq_len: int
    packer: Packer
    codec: str
    unit_bytes: int

    def __post_init__(self) -> None:
        """Refuse settings that could only fail later, after minutes of tokenizing."""
        if self.packer not in get_args(Packer):
            raise DataError(f"unknown packing {self.packer!r}", hint=f"use one of {', '.join(get_args(Packer))}")
        if self.codec not in CODECS:
            raise DataError(f"unknown compression {self.codec!r}", hint=f"use one of {', '.join(CODECS)}")
        if self.seq_len < 2:
            raise DataError(f"sequences need at least 2 tokens, got {self.seq_len}: nothing else can be predicted")
        if self.unit_bytes < 1:
            raise DataError(f"a unit must hold some text, got unit_bytes={self.unit_bytes}")

    @property
    def dtype(self) -> str:
        """How one token is stored."""
        return token_dtype(self.vocab_size)

    @property
    def hash(self) -> str:
        """Equal for equal configurations, on every machine."""
        return fingerprint(asdict(self))


@dataclass(frozen=True)
class Origin:
    """What a chunk or a cache was made from.

    Attributes:
        config: how it was made.
        source_fingerprint: identity of the text; empty if the caller gave none.
        source: the text, described for people.
    """

    config: PackConfig
    source_fingerprint: str
    source: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"version": VERSION, **asdict(self), "config_hash": self.config.hash}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Origin:
        """From the JSON of a chunk or a manifest."""
        return cls(PackConfig(**values["config"]), values["source_fingerprint"], values["source"])

    def differences(self, other: Origin) -> list[str]:
        """Each value that is not the same, as ``"seq_len 512 (not 256)"``; descriptions do not count."""
        mine, theirs = asdict(self.config), asdict(other.config)
        mine["source"], theirs["source"] = self.source_fingerprint, other.source_fingerprint
        return [f"{key} {mine[key]!r} (not {theirs[key]!r})" for key in mine if mine[key] != theirs[key]]


@dataclass(frozen=True)
class Manifest:
    """The chunks of a complete cache, in order, and their origin."""

    origin: Origin
    chunks: tuple[ChunkInfo, ...]

    @property
    def fingerprint(self) -> str:
        """Identity of every token in the cache, in order; checkpoints store it."""
        return fingerprint([self.origin.config.hash, [chunk.hash for chunk in self.chunks]])

    @property
    def sequences(self) -> int:
        """Sequences in all chunks."""
        return sum(chunk.sequences for chunk in self.chunks)

    def totals(self) -> dict[str, Any]:
        """Sums over all chunks, the share of positions that hold a token, and the size against plain arrays."""
        names = ("documents", "text_bytes", "tokens_in", "tokens", "bytes")
        sums = {name: sum(getattr(chunk, name) for chunk in self.chunks) for name in names}
        positions = self.sequences * self.origin.config.seq_len
        return {
            "sequences": self.sequences,
            **sums,
            "tokens_kept": sums["tokens"] / sums["tokens_in"],
            "positions": positions,
            "utilisation": sums["tokens"] / positions,
            "size_reduction": size_reduction(sums["bytes"], sums["tokens"], self.origin.config.dtype),
        }

    def write(self, folder: Path) -> None:
        """Write ``manifest.json``, atomically."""
        content = {
            **self.origin.to_dict(),
            "fingerprint": self.fingerprint,
            "totals": self.totals(),
            "chunks": [asdict(chunk) for chunk in self.chunks],
        }
        write_json(folder / MANIFEST, {**content, "checksum": fingerprint(content)})

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read and check ``manifest.json``.

        Raises:
            DataError: there is none, or another version of this program wrote it.
            CorruptionError: its content is not what was written.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise DataError(f"{folder} has no {MANIFEST}: it is not a packed cache, or unfinished", hint=REBUILD_HINT)
        try:
            content = read_json(path)
            if not isinstance(content, dict):
                raise UserError("not an object")
        except UserError as error:
            raise CorruptionError(f"{path} is damaged: {error.message}", hint=REBUILD_HINT) from None
        if content.pop("checksum", None) != fingerprint(content):
            raise CorruptionError(f"{path} is damaged: its checksum does not match its content", hint=REBUILD_HINT)
        return cls(origin_of(content, path), tuple(ChunkInfo(**chunk) for chunk in content["chunks"]))


def size_reduction(stored: int, tokens: int, dtype: str) -> dict[str, float]:
    """How much smaller ``stored`` bytes are than plain arrays of the tokens.

    The larger figure, against int64, is what is usually quoted; the one against the smallest plain type that holds the
    vocabulary is what compression itself achieves.
    """
    sizes = {dtype: 2 if dtype == "uint16" else 4, "int64": 8}
    return {name: 1 - stored / (tokens * size) for name, size in sizes.items()}


def origin_of(content: dict[str, Any], path: Path) -> Origin:
    """The origin that a chunk, a plan or a manifest names.

    Raises:
        DataError: another version of this program wrote it.
    """
    if content.get("version") != VERSION:
        raise DataError(
            f"{path} has version {content.get('version', 1)}, this program reads version {VERSION}",
            hint="use the version of this program that wrote it, or pack again with --force-rebuild",
        )
    return Origin.from_dict(content)


def chunk_path(folder: Path, unit: int, config: PackConfig) -> Path:
    """The file of work unit ``unit``. The name tells configurations apart, so that chunks of two never mix."""
    return folder / f"chunk-{unit:05d}-{config.hash[:8]}.tok"


def chunk_files(folder: Path) -> list[Path]:
    """The chunk files in a folder, by unit."""
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _CHUNK_NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def chunk_metadata(origin: Origin, unit: int, *, last: bool) -> dict[str, Any]:
    """What a chunk stores about itself, enough to derive the manifest from the chunks alone."""
    return {**origin.to_dict(), "unit": unit, "last": last}


def rebuild_manifest(folder: str | Path) -> Manifest:
    """Derive the manifest from the chunks, checking every block, and write it.

    Raises:
        CorruptionError: a chunk is damaged or missing.
        DataError: there are no chunks, they are of different caches, or packing never finished.
    """
    folder = Path(folder)
    readers = [ChunkReader(path) for path in chunk_files(folder)] if folder.is_dir() else []
    if not readers:
        raise DataError(f"{folder} holds no chunks")
    origin = origin_of(readers[0].metadata, readers[0].path)
    for reader in readers:
        reader.verify()
    return manifest_of(folder, readers, origin)


def manifest_of(folder: Path, readers: Sequence[ChunkReader], origin: Origin) -> Manifest:
    """Check that verified chunks are the complete cache of ``origin``, and write their manifest; errors as above."""
    for unit, reader in enumerate(readers):
        if reader.metadata["unit"] != unit:
            raise CorruptionError(f"{chunk_path(folder, unit, origin.config)} is missing", hint=REBUILD_HINT)
        if difference := origin_of(reader.metadata, reader.path).differences(origin):
            raise DataError(f"{reader.path} belongs to another cache: {', '.join(difference)}", hint=REBUILD_HINT)
    if not readers[-1].metadata["last"]:
        raise DataError(f"{folder} is unfinished: packing stopped after {len(readers)} chunks", hint=REBUILD_HINT)
    manifest = Manifest(origin, tuple(reader.info for reader in readers))
    manifest.write(folder)
    return manifest
