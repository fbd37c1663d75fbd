"""Texts -> a packed cache on disk, one work unit and so one chunk at a time.

The plan fixes which documents make which chunk; what is missing is the plan minus what is there, whole and undamaged.
Chunks are written whole or not at all, and the manifest after all of them. However packing was interrupted, and however
many processes work on a cache, the result is byte for byte what one uninterrupted run writes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from llm_trainer.common.errors import CorruptionError, DataError, UserError
from llm_trainer.common.files import explain_os_errors
from llm_trainer.common.leases import lease, others_at_work, packer_at_work
from llm_trainer.data.cache import TokenCache
from llm_trainer.data.chunk import ChunkReader
from llm_trainer.data.codecs import check_codec
from llm_trainer.data.encoding import HasText, TextEncoder, document_texts
from llm_trainer.data.leftovers import remove_leftovers
from llm_trainer.data.manifest import MANIFEST, Manifest, Origin, PackConfig, chunk_files, manifest_of, origin_of
from llm_trainer.data.packing import Packer
from llm_trainer.data.plan import PLAN, Plan, Unit, cut_units, describe_gaps, make_plan, take_units
from llm_trainer.data.progress import PackProgress, Tally
from llm_trainer.data.threads import ThreadedDataLoader
from llm_trainer.data.units import make_chunk

Mode: TypeAlias = Literal["normal", "inverse"]
UNIT_BYTES = 8 << 20
"""About 2 million tokens. At most one partly filled sequence a unit: 0.03 % of the positions at 512 tokens."""
POLL_SECONDS = 0.2


def build_cache(
    documents: Iterable[str | HasText],
    tokenizer: TextEncoder,
    cache_dir: str | Path,
    *,
    seq_len: int,
    unit_bytes: int = UNIT_BYTES,
    codec: str = "lz4",
    packer: Packer = "bfd",
    workers: int = 1,
    mode: Mode = "normal",
    source_fingerprint: str = "",
    source_description: str = "",
    progress: Callable[[PackProgress], None] | None = None,
    notice: Callable[[str], None] | None = None,
    force_rebuild: bool = False,
) -> TokenCache:
    """Tokenize and pack documents into ``cache_dir``, or open the cache there if it is of the same text and settings.

    Several processes may do this at once for one folder: they share the work.

    Args:
        documents: texts, or objects with a ``text``. Empty texts are left out. What can be iterated over again (a list,
            a data set) is read once to plan and once to tokenize; a generator is read once, and planned on the way.
        tokenizer: what turns text into ids.
        cache_dir: the folder, made if need be. Files of others in it are left alone.
        seq_len: tokens per sequence.
        unit_bytes: a chunk ends with the document that reaches this many bytes of text.
        codec: ``"lz4"``, ``"zstd"`` or ``"none"``.
        packer: ``"bfd"`` keeps documents whole wherever they fit, ``"concat"`` cuts them at every border.
        workers: threads that tokenize and pack.
        mode: ``"normal"`` believes a manifest and otherwise makes what is missing; ``"inverse"`` checks every byte of a
            cache that is there, and makes exactly what is damaged, deleted or was never made.
        source_fingerprint: changes when the text changes. Without one, a folder that holds a cache is refused.
        source_description: the text, for people; kept in the manifest.
        progress: called about twice a second and at the end.
        notice: called with a sentence about what was found.
        force_rebuild: first delete the cache that is there.

    Raises:
        DataError: no text, a folder with another cache, or documents that differ from those planned.
        UserError: the disk is full, or the folder cannot be written. What was written before is kept.
    """
    if mode not in get_args(Mode):
        raise DataError(f"unknown mode {mode!r}", hint=f"use one of {', '.join(get_args(Mode))}")
    config = PackConfig(tokenizer.fingerprint(), tokenizer.vocab_size, seq_len, packer, codec, unit_bytes)
    check_codec(codec)
    origin = Origin(config, source_fingerprint, source_description)
    folder = Path(cache_dir)
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if force_rebuild:
            _delete(folder)
    _refuse_other_cache(folder, origin)
    if mode == "inverse":
        require_something_to_fill(folder)
    if mode == "normal" and (folder / MANIFEST).exists():
        # A damaged or missing file is not refused: what is good is kept, and the rest is made again.
        with contextlib.suppress(CorruptionError):
            complete = TokenCache.open(folder)
            with contextlib.suppress(OSError):  # where nothing may be written, nothing was left either
                remove_leftovers(folder)
            return complete
    builder = CacheBuilder(folder, origin, documents, tokenizer, workers, Tally(config.dtype, progress), notice)
    builder.run()
    return TokenCache.open(folder)


class CacheBuilder:
    """Makes the missing chunks of one cache, and then its manifest.

    Args:
        folder: of the cache.
        origin: how chunks are made, and from what.
        documents: the text.
        tokenizer: what turns text into ids.
        workers: threads.
        tally: of what was done.
        notice: called with sentences for people.
    """

    def __init__(
        self,
        folder: Path,
        origin: Origin,
        documents: Iterable[str | HasText],
        tokenizer: TextEncoder,
        workers: int,
        tally: Tally,
        notice: Callable[[str], None] | None,
    ) -> None:
        self._folder = folder
        self._origin = origin
        self._documents = documents
        self._tokenizer = tokenizer
        self._workers = workers
        self._tally = tally
        self._notice = notice or (lambda text: None)
        self._good: dict[int, ChunkReader] = {}
        """Chunks known to be whole, by unit."""
        self._presence = contextlib.ExitStack()
        self._read_up = False
        """Whether the text can be read once only, and was."""

    def run(self) -> None:
        """Plan, unless there is a plan; make what is missing; write the manifest. See :func:`build_cache`."""
        with self._presence:
            self._presence.enter_context(packer_at_work(self._folder))
            with explain_os_errors(self._folder):
                remove_leftovers(self._folder)
            plan = self._read_plan()
            if plan is None:
                plan = (
                    self._stream()
                    if self._is_stream
                    else self._write_plan(lambda: make_plan(document_texts(self._documents), self._origin))
                )
            self._fill(plan)
            self._write_manifest(plan)
        self._tally.report(final=True)

    @property
    def _is_stream(self) -> bool:
        """Whether the text can be read once only."""
        return iter(self._documents) is self._documents

    def _write_plan(self, make: Callable[[], Plan]) -> Plan:
        """Make the plan and write it, or wait for who is at it: reading all the text twice would be a waste."""
        while (plan := self._read_plan()) is None:
            with lease(self._folder / PLAN) as mine:
                if mine and self._read_plan() is None:
                    plan = make()
                    self._require_text(plan)
                    plan.write(self._folder)
            if not mine:
                time.sleep(POLL_SECONDS)
        return plan

    def _write_manifest(self, plan: Plan) -> None:
        """Write the manifest; several packers write the same bytes, one after the other."""
        written = False
        while not written:
            with lease(self._folder / MANIFEST) as written:
                if written:
                    manifest_of(self._folder, [self._good[unit.number] for unit in plan.units], self._origin)
            if not written:
                time.sleep(POLL_SECONDS)

    def _read_plan(self) -> Plan | None:
        """The plan that is there; None if there is none, or a damaged one, which will come out the same again."""
        if not (self._folder / PLAN).exists():
            return None
        with contextlib.suppress(CorruptionError):
            return Plan.read(self._folder)
        return None

    def _fill(self, plan: Plan) -> None:
        """Make the missing units of a plan, forward; others may be at it too."""
        self._tally.total_documents = plan.documents
        missing = self._missing(plan)
        if self._good and missing:
            self._notice(
                f"{len(self._good):,} of {len(plan.units):,} chunks are good; missing: {describe_gaps(missing)}"
            )
        while missing:
            if self._read_up:
                missing = self._await(plan, missing)
                continue
            made = 0
            self._read_up = self._is_stream
            units = take_units(document_texts(self._documents), missing)
            last = len(plan.units) - 1
            for reader in self._make((unit, texts, unit.number == last) for unit, texts in units):
                made += reader is not None
            missing = self._missing(plan)
            if missing and not made:
                time.sleep(POLL_SECONDS)  # other processes hold the leases of all that is left

    def _stream(self) -> Plan:
        """Cut, make and plan in one pass over text that cannot be read twice."""
        units: list[Unit] = []

        def remembered() -> Iterator[tuple[Unit, list[str], bool]]:
            # One unit ahead, because a chunk says whether it is the last.
            ahead: tuple[Unit, list[str]] | None = None
            for unit, texts in cut_units(document_texts(self._documents), self._origin.config.unit_bytes):
                if ahead is not None:
                    yield *ahead, False
                units.append(unit)
                ahead = unit, texts
            if ahead is not None:
                yield *ahead, True

        for _ in self._make(item for item in remembered() if not self._is_there(item[0])):
            pass
        self._read_up = True
        return self._write_plan(lambda: Plan(self._origin, tuple(units)))

    def _await(self, plan: Plan, missing: list[Unit]) -> list[Unit]:
        """Wait for chunks that others are making, of text that we cannot read again; gives what is still missing.

        Raises:
            DataError: nobody is making them any more.
        """
        self._presence.close()  # two that wait for each other would wait for ever
        alone = not others_at_work(self._folder)  # asked before looking: they may finish in between
        missing = self._missing(plan)
        if missing and alone:
            raise DataError(
                f"the text can be read once only, and another process took {describe_gaps(missing)} and did not finish",
                hint="run the same command again: it makes just these",
            )
        time.sleep(POLL_SECONDS)
        return missing

    def _make(self, units: Iterable[tuple[Unit, list[str], bool]]) -> Iterator[ChunkReader | None]:
        """Make chunks, several at once; None for those that another process is making."""

        def work(item: tuple[Unit, list[str], bool]) -> ChunkReader | None:
            unit, texts, last = item
            path = Plan(self._origin, ()).path(self._folder, unit)
            with lease(path) as mine:
                if not mine or path.exists():
                    return None
                try:
                    make_chunk(path, unit, texts, self._tokenizer, self._origin, last=last, tally=self._tally)
                except UserError:
                    # A process that was stopped for minutes comes back to find its unit made by another, and its own
                    # half-written file cleared away.
                    if not path.exists():
                        raise
                    return None
            reader = ChunkReader(path)
            self._good[unit.number] = reader
            return reader

        threads = self._workers if self._workers > 1 else 0
        with ThreadedDataLoader(work, units, num_workers=threads, prefetch=self._workers) as made:
            yield from made

    def _missing(self, plan: Plan) -> list[Unit]:
        """Units without a good chunk; damaged ones are deleted on the way."""
        numbers = {unit.number for unit in plan.units}
        if any(int(path.name.split("-")[1]) not in numbers for path in chunk_files(self._folder)):
            raise _changed(self._folder)
        return [unit for unit in plan.units if not self._is_there(unit)]

    def _is_there(self, unit: Unit) -> bool:
        if unit.number in self._good:
            return True
        path = Plan(self._origin, ()).path(self._folder, unit)
        if not path.exists():
            return False
        try:
            reader = ChunkReader(path)
            reader.verify()
        except CorruptionError as error:
            self._notice(f"{error.message}; it is made again")
            path.unlink(missing_ok=True)
            return False
        info = reader.info
        if origin_of(reader.metadata, path).differences(self._origin):
            raise _changed(self._folder)
        if (info.documents, info.text_bytes) != (unit.documents, unit.text_bytes):
            raise _changed(self._folder)
        self._good[unit.number] = reader
        self._tally.found(info)
        return True

    def _require_text(self, plan: Plan) -> None:
        if not plan.units:
            where = f" in {self._origin.source}" if self._origin.source else ""
            raise DataError(
                f"there is no text to pack into {self._folder}{where}", hint="name files or folders that contain text"
            )


def require_something_to_fill(folder: Path) -> None:
    """Stop before any work if there is no cache whose gaps could be filled.

    Raises:
        DataError: the folder holds neither a plan nor a chunk.
    """
    if not folder.is_dir() or not ((folder / PLAN).exists() or chunk_files(folder)):
        raise DataError(f"{folder} holds no cache with gaps to fill", hint="make one first, without --mode inverse")


def find_gaps(folder: str | Path) -> tuple[Plan, list[Unit]]:
    """What is missing or damaged in a cache, by its plan; every byte is read.

    Raises:
        DataError: there is no plan.
    """
    folder = Path(folder)
    plan = Plan.read(folder)
    gaps = []
    for unit in plan.units:
        try:
            ChunkReader(plan.path(folder, unit)).verify()
        except CorruptionError:
            gaps.append(unit)
    return plan, gaps


def _refuse_other_cache(folder: Path, origin: Origin) -> None:
    """Stop if the folder belongs to other text or settings; only --force-rebuild may destroy a cache."""
    there = _origin_there(folder)
    if there is None:
        return
    differences = there.differences(origin)
    if not (differences or origin.source_fingerprint or chunk_files(folder) or others_at_work(folder)):
        (folder / PLAN).unlink(missing_ok=True)  # of texts without identity, and nothing was made of it
        return
    if differences or not origin.source_fingerprint:
        what = (
            f"another cache: {', '.join(differences)}" if differences else "a cache of texts that cannot be told apart"
        )
        raise DataError(f"{folder} holds {what}", hint="choose another folder, or replace it with --force-rebuild")


def _origin_there(folder: Path) -> Origin | None:
    """What the cache in the folder says that it is: by its manifest, or its plan, or else by a chunk."""
    readers: Sequence[Callable[[Path], Manifest | Plan]] = (Manifest.read, Plan.read)
    for name, read in zip((MANIFEST, PLAN), readers, strict=True):
        if (folder / name).exists():
            with contextlib.suppress(CorruptionError):
                return read(folder).origin
    for path in chunk_files(folder):
        with contextlib.suppress(CorruptionError):
            return origin_of(ChunkReader(path).metadata, path)
    return None


def _changed(folder: Path) -> DataError:
    return DataError(
        f"{folder} holds chunks of other documents than there are now, under the same fingerprint",
        hint="pack from the start with --force-rebuild",
    )


def _delete(folder: Path) -> None:
    """Delete manifest, plan, chunks, and what killed packers left."""
    remove_leftovers(folder)
    if others_at_work(folder):
        raise DataError(f"another process is packing into {folder}", hint="stop it first, or wait for it")
    for name in (MANIFEST, PLAN):
        (folder / name).unlink(missing_ok=True)
    for path in chunk_files(folder):
        path.unlink(missing_ok=True)
