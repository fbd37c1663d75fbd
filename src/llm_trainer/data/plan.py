"""The plan of a cache: which documents make which chunk, fixed before any of them is tokenized.

A unit of work is a range of documents, cut by the size of their text alone. So a unit can be made at any time, by any
process, in any order, and its chunk has the same bytes: what is missing can be found by looking at the folder, and made
without touching the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llm_trainer.common.errors import CorruptionError, DataError, UserError
from llm_trainer.common.files import read_json, write_json
from llm_trainer.common.hashing import fingerprint
from llm_trainer.data.manifest import Origin, chunk_path, origin_of

PLAN = "plan.json"


@dataclass(frozen=True)
class Unit:
    """Documents ``first`` to ``first + documents`` of the text (empty ones do not count): one chunk."""

    number: int
    first: int
    documents: int
    text_bytes: int


@dataclass(frozen=True)
class Plan:
    """All units of a cache, in order.

    Attributes:
        origin: how chunks are made, and from what.
        units: their ranges.
    """

    origin: Origin
    units: tuple[Unit, ...]

    @property
    def documents(self) -> int:
        """Documents in all units."""
        return sum(unit.documents for unit in self.units)

    @property
    def text_bytes(self) -> int:
        """Their size as UTF-8."""
        return sum(unit.text_bytes for unit in self.units)

    @cached_property
    def fingerprint(self) -> str:
        """Identity of every token that the finished cache will hold; known before the first chunk is."""
        return fingerprint(["plan", self.origin.config.hash, self.origin.source_fingerprint, self._ranges])

    @property
    def _ranges(self) -> list[tuple[int, int]]:
        return [(unit.documents, unit.text_bytes) for unit in self.units]

    def path(self, folder: Path, unit: Unit) -> Path:
        """The chunk file of a unit."""
        return chunk_path(folder, unit.number, self.origin.config)

    def write(self, folder: Path) -> None:
        """Write ``plan.json``, atomically. One line a unit: terabytes of text are a file of some megabytes."""
        content = {**self.origin.to_dict(), "units": self._ranges}
        write_json(folder / PLAN, {**content, "checksum": fingerprint(content)}, indent=None)

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """Read and check ``plan.json``.

        Raises:
            DataError: there is none, or another version of this program wrote it.
            CorruptionError: its content is not what was written.
        """
        path = folder / PLAN
        hint = "run llm-trainer data pack with the same text and settings: it plans again and keeps the good chunks"
        if not path.is_file():
            raise DataError(f"{folder} has no {PLAN}: it is not a packed cache", hint=hint)
        try:
            content: Any = read_json(path)
            if not isinstance(content, dict):
                raise UserError("not an object")
        except UserError as error:
            raise CorruptionError(f"{path} is damaged: {error.message}", hint=hint) from None
        if content.pop("checksum", None) != fingerprint(content):
            raise CorruptionError(f"{path} is damaged: its checksum does not match its content", hint=hint)
        return cls.of_ranges(origin_of(content, path), content["units"])

    @classmethod
    def of_ranges(cls, origin: Origin, ranges: Iterable[tuple[int, int]]) -> Plan:
        """From (documents, text bytes) of every unit."""
        units: list[Unit] = []
        first = 0
        for number, (documents, text_bytes) in enumerate(ranges):
            units.append(Unit(number, first, documents, text_bytes))
            first += documents
        return cls(origin, tuple(units))


def make_plan(texts: Iterable[str], origin: Origin) -> Plan:
    """Read all texts once, without tokenizing, and cut them into units."""
    sizes = ((unit.documents, unit.text_bytes) for unit, _ in cut_units(texts, origin.config.unit_bytes, keep=False))
    return Plan.of_ranges(origin, sizes)


def cut_units(texts: Iterable[str], unit_bytes: int, *, keep: bool = True) -> Iterator[tuple[Unit, list[str]]]:
    """Units as they come, with their texts: each ends with the text that reaches ``unit_bytes``.

    Args:
        texts: without empty ones.
        unit_bytes: size of a unit as UTF-8.
        keep: whether to collect the texts; if not, the lists are empty.
    """
    number = first = count = size = 0
    collected: list[str] = []
    for text in texts:
        count += 1
        size += utf8_size(text)
        if keep:
            collected.append(text)
        if size >= unit_bytes:
            yield Unit(number, first, count, size), collected
            number, first, count, size, collected = number + 1, first + count, 0, 0, []
    if count:
        yield Unit(number, first, count, size), collected


def take_units(texts: Iterator[str], units: Iterable[Unit]) -> Iterator[tuple[Unit, list[str]]]:
    """The texts of some units of a plan, in one pass; what lies between them is read and dropped.

    Args:
        texts: all texts from the first one on, without empty ones.
        units: in increasing order.

    Raises:
        DataError: the text is not the one that was planned.
    """
    at = 0
    for unit in units:
        for _ in range(unit.first - at):
            if next(texts, None) is None:
                raise _changed(unit)
        collected: list[str] = []
        while len(collected) < unit.documents and (text := next(texts, None)) is not None:
            collected.append(text)
        if len(collected) < unit.documents or sum(map(utf8_size, collected)) != unit.text_bytes:
            raise _changed(unit)
        at = unit.first + unit.documents
        yield unit, collected


def utf8_size(text: str) -> int:
    """Bytes of a text as UTF-8; for pure ASCII without encoding it."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _changed(unit: Unit) -> DataError:
    return DataError(
        f"the text is not the one that was planned: documents {unit.first:,} to {unit.first + unit.documents - 1:,} "
        "are missing or have changed, under the same fingerprint",
        hint="pack from the start with --force-rebuild",
    )


def describe_gaps(gaps: Iterable[Unit]) -> str:
    """Missing units as ranges: ``chunks 3, 7-9 (documents 1,200-1,599, 2,800-3,999)``."""
    runs: list[list[Unit]] = []
    for unit in gaps:
        if runs and runs[-1][-1].number + 1 == unit.number:
            runs[-1].append(unit)
        else:
            runs.append([unit])
    if not runs:
        return "no gaps"
    numbers = ", ".join(_range(run[0].number, run[-1].number) for run in runs)
    documents = ", ".join(_range(run[0].first, run[-1].first + run[-1].documents - 1) for run in runs)
    several = len(runs) > 1 or len(runs[0]) > 1
    return f"chunk{'s' if several else ''} {numbers} (documents {documents})"


def _range(first: int, last: int) -> str:
    return f"{first:,}" if first == last else f"{first:,}-{last:,}"
