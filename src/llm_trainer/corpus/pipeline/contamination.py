"""Benchmarks that a corpus is to be kept apart from: read once, kept as an index beside the stage that uses it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from llm_trainer.common.errors import DataError
from llm_trainer.common.files import explain_os_errors
from llm_trainer.common.hashing import fingerprint
from llm_trainer.corpus.dedup.decontaminate import Decontamination, Decontaminator
from llm_trainer.corpus.pipeline.definition import DecontaminationSettings, Pipeline
from llm_trainer.corpus.pipeline.store import StageFolder
from llm_trainer.corpus.readers import ReadReport, list_files

INDEX = "benchmarks.npz"


def make_decontaminator(settings: DecontaminationSettings) -> Decontaminator:
    """Read the benchmarks."""
    return Decontaminator.from_files(settings.benchmarks, search_settings(settings))


def search_settings(settings: DecontaminationSettings) -> Decontamination:
    """The settings of the search alone."""
    return Decontamination(**{key: value for key, value in settings.to_dict().items() if key != "benchmarks"})


def benchmark_identity(pipeline: Pipeline) -> str:
    """Changes when a benchmark file does.

    Raises:
        DataError: there is no such file or folder.
    """
    files: list[tuple[str, int, int]] = []
    for path in map(Path, pipeline.decontaminate.benchmarks if pipeline.decontaminate else ()):
        if not path.exists():
            raise DataError(f"decontaminate.benchmarks: there is no file or folder {path}")
        for file in list_files(path, ReadReport()) if path.is_dir() else [path]:
            status = file.stat()
            files.append((str(file), status.st_size, status.st_mtime_ns))
    return fingerprint(files)


def write_index(pipeline: Pipeline, folder: StageFolder, notice: Callable[[str], None]) -> None:
    """Make the index for the workers, unless it is there; its folder is named by all that it depends on."""
    path = folder.path / INDEX
    if pipeline.decontaminate is None or path.exists():
        return
    with explain_os_errors(folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
    decontaminator = make_decontaminator(pipeline.decontaminate)
    decontaminator.save(path)
    report = decontaminator.report
    ignored = sum(report.ignored.values())
    notice(
        f"benchmarks: {sum(report.items.values()):,} items of {len(report.items)} benchmarks"
        + (f"; {ignored:,} are too short to be looked for" if ignored else "")
    )


def read_index(pipeline: Pipeline, folder: StageFolder) -> Decontaminator:
    """The index, in a worker; read once in each."""
    assert pipeline.decontaminate is not None
    return _read(folder.path / INDEX, search_settings(pipeline.decontaminate).model_dump_json())


@lru_cache(maxsize=1)
def _read(path: Path, settings: str) -> Decontaminator:
    return Decontaminator.load(path, Decontamination(**json.loads(settings)))
