"""The plan: which bytes of which files are worked on together.

A unit is named by what it reads (file, size, time of change, how it is read), not by its number. So a file that is
added later makes new units and leaves the others' work alone, and a file that changed is read again. A large file that
can be read from the middle is cut into several units; small files are put together.
"""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llm_trainer.common.errors import DataError
from llm_trainer.common.files import write_json
from llm_trainer.common.hashing import fingerprint
from llm_trainer.corpus.pipeline.definition import Pipeline, SourceSettings
from llm_trainer.corpus.pipeline.downloads import addresses, fetch
from llm_trainer.corpus.readers import ReadReport, list_files
from llm_trainer.corpus.sources.kinds import Kind, Part, find_kind, kind_of_file

PLAN = "plan.json"
MADE = frozenset(
    {"documents", "stages", "index", "cache", "downloads", ".baskets", "contamination.jsonl.zst"}
    | {PLAN, "pipeline.yaml", "corpus.json", "cache.json", "report.html", "report.json", "filter_report.json"}
)
"""What a build makes in its folder; a source that holds this folder would read it at the next build."""


@dataclass(frozen=True)
class Input:
    """One file, or a part of it.

    Attributes:
        path: where it is.
        name: what it is called in ids: its place below the folder that the source names.
        kind: who reads it.
        size: bytes, as planned.
        changed: time of change in nanoseconds, as planned.
        identity: of the content, where size and time do not tell (a repository, a data set).
        part: the stretch of it, or None for the whole.
    bytes: of the stretch, about; a kind may count stretches in rows.
    """

    path: str
    name: str
    kind: str
    size: int = 0
    changed: int = 0
    identity: str = ""
    part: tuple[int, int] | None = None
    bytes: int = 0


@dataclass(frozen=True)
class Unit:
    """Inputs of one source that are worked on together.

    Attributes:
        id: 16 hexadecimal digits that change when anything in it does.
        source: number of the source in the pipeline.
        inputs: in order.
    """

    id: str
    source: int
    inputs: tuple[Input, ...]

    @property
    def bytes(self) -> int:
        """Size of what is read, about."""
        return sum(entry.bytes if entry.part else entry.size for entry in self.inputs)


@dataclass(frozen=True)
class CorpusPlan:
    """All units, in the order of the sources and of their files' names.

    Attributes:
        units: the units.
        skipped: source -> reason -> paths that are not read: hidden files, links that lead nowhere.
    """

    units: tuple[Unit, ...]
    skipped: dict[str, dict[str, list[str]]]

    def write(self, folder: Path) -> None:
        """Write ``plan.json``, for people and for looking up where a unit came from."""
        units = [dataclasses.asdict(unit) for unit in self.units]
        write_json(folder / PLAN, {"units": units, "skipped": self.skipped}, indent=1)


def make_plan(pipeline: Pipeline) -> CorpusPlan:
    """Look at every source's files, without reading them.

    Raises:
        DataError: a path that does not exist, or a source without any file.
    """
    units: list[Unit] = []
    skipped: dict[str, dict[str, list[str]]] = {}
    for number, source in enumerate(pipeline.sources):
        report = ReadReport()
        unit_bytes = max(1, int(pipeline.unit_mb * (1 << 20)))
        inputs = list(_cut(source, _inputs(source, pipeline, report), unit_bytes))
        if not inputs:
            raise DataError(
                f"the source {source.name} has no files: nothing in {', '.join(source.paths)} is of the kind "
                f"{source.kind!r}",
                hint="check the paths, or say another kind (llm-trainer data sources lists them)",
            )
        for group in _group(inputs, unit_bytes):
            units.append(Unit(_unit_id(source, group), number, tuple(group)))
        if report.skipped:
            skipped[source.name] = report.skipped
    return CorpusPlan(tuple(units), skipped)


def _unit_id(source: SourceSettings, inputs: list[Input]) -> str:
    """What the documents of a unit depend on; where the files lie and their rank do not matter."""
    settings = {key: value for key, value in source.to_dict().items() if key not in ("paths", "priority", "checksums")}
    files = [[entry.name, entry.kind, entry.size, entry.changed, entry.identity, entry.part] for entry in inputs]
    return fingerprint([settings, files])


def _inputs(source: SourceSettings, pipeline: Pipeline, report: ReadReport) -> Iterator[Input]:
    """Every file of a source, sorted inside each of its paths; a file that two paths name is read once."""
    named = None if source.kind == "auto" else find_kind(source.kind)
    if source.kind == "dataset":
        for name in source.paths:
            yield Input(name, name, "dataset", identity=_identity(find_kind("dataset"), Path(name), source))
        return
    seen: set[Path] = set()
    names: set[str] = set()
    own = pipeline.folder.resolve()
    for text in source.paths:
        for path in _expand(text, source, pipeline):
            for kind, file, name in _files(path, named, report):
                real = file.resolve()
                if real in seen:
                    report.skip(file, "named twice")
                    continue
                if "://" not in text and real.is_relative_to(own) and real.relative_to(own).parts[0] in MADE:
                    report.skip(file, "of this corpus itself")
                    continue
                seen.add(real)
                name = _unused(name, real, names)
                names.add(name)
                status = file.stat()
                if file.is_dir():
                    yield Input(str(file), name, kind.name, identity=_identity(kind, file, source))
                else:
                    yield Input(str(file), name, kind.name, status.st_size, status.st_mtime_ns)


def _unused(name: str, real: Path, names: Collection[str]) -> str:
    """A name in ids that no other file of the source has: ``x.jsonl`` of two folders becomes ``b/x.jsonl``."""
    length = len(Path(name).parts)
    while name in names and length < len(real.parts):
        length += 1
        name = "/".join(real.parts[-length:])
    return name


def _files(path: Path, named: Kind | None, report: ReadReport) -> Iterator[tuple[Kind, Path, str]]:
    """The files below a path, each with its kind and its name in ids."""
    if not path.is_dir() or (named is not None and named.folders):
        yield named or kind_of_file(path), path, path.name
        return
    files = list(list_files(path, report))
    # A licence beside the data is not data; but where no name tells, the person who named the kind knows better.
    telling = named is not None and any(file.name.lower().endswith(named.suffixes) for file in files)
    for file in files:
        if named is not None and telling and not file.name.lower().endswith(named.suffixes):
            report.skip(file, f"not of the kind {named.name}")
        else:
            yield named or kind_of_file(file), file, f"{path.name}/{file.relative_to(path).as_posix()}"


def _identity(kind: Kind, path: Path, source: SourceSettings) -> str:
    """What changes when the content of a folder or a data set does."""
    if kind.identity is not None:
        return kind.identity(path, source.request())
    files = ((file, file.stat()) for file in list_files(path, ReadReport()))
    return fingerprint([[file.relative_to(path).as_posix(), at.st_size, at.st_mtime_ns] for file, at in files])


def _expand(text: str, source: SourceSettings, pipeline: Pipeline) -> list[Path]:
    """A path of a pipeline file as paths on this machine: home folders, patterns, downloaded addresses."""
    listed = addresses(text, source, pipeline, lambda _: None)
    if listed or "://" in text:
        return [fetch(address, source, pipeline, lambda _: None) for address in listed]
    path = Path(text).expanduser()
    if path.exists():
        return [path]
    # Path.glob takes no absolute pattern.
    found = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(text) else []  # noqa: PTH207
    if not found:
        raise DataError(
            f"the source {source.name}: there is no file or folder {path}",
            hint="paths are relative to the folder in which the command is run",
        )
    return [Path(match) for match in found]


def _cut(source: SourceSettings, inputs: Iterable[Input], unit_bytes: int) -> Iterator[Input]:
    for entry in inputs:
        cut = None if entry.kind == "dataset" else find_kind(entry.kind).cut
        parts: list[Part] = list(cut(Path(entry.path), unit_bytes)) if cut and entry.size > unit_bytes else []
        if len(parts) < 2:
            yield entry
        length = sum(part.stop - part.start for part in parts)
        for part in parts if len(parts) > 1 else ():
            share = entry.size * (part.stop - part.start) // max(length, 1)
            yield dataclasses.replace(entry, part=(part.start, part.stop), bytes=share)


def _group(inputs: Iterable[Input], unit_bytes: int) -> Iterator[list[Input]]:
    """Neighbours together, up to the size of a unit; a part of a file is a unit of its own."""
    group: list[Input] = []
    size = 0
    for entry in inputs:
        if entry.part is not None:
            if group:
                yield group
            yield [entry]
            group, size = [], 0
            continue
        if group and size + entry.size > unit_bytes:
            yield group
            group, size = [], 0
        group.append(entry)
        size += entry.size
    if group:
        yield group


def is_unchanged(entry: Input) -> bool:
    """Whether a file is still the one that was planned.

    Raises:
        FileNotFoundError: it has gone.
    """
    if entry.identity:
        return True
    status = Path(entry.path).stat()
    return not entry.changed or (status.st_size, status.st_mtime_ns) == (entry.size, entry.changed)
