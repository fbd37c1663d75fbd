"""The result of a build: documents in files, the keys of what was kept, the list of benchmark items, the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llm_trainer.common.errors import UserError
from llm_trainer.common.files import explain_os_errors, read_json, write_json
from llm_trainer.common.hashing import fingerprint
from llm_trainer.common.leases import lease
from llm_trainer.corpus.dedup.reference import write_reference
from llm_trainer.corpus.pipeline import deduplicate, finish, select, writing
from llm_trainer.corpus.pipeline.definition import Pipeline
from llm_trainer.corpus.pipeline.mixing import Composition, MixPlan, check_composition, choose, plan_mixture
from llm_trainer.corpus.pipeline.plan import CorpusPlan
from llm_trainer.corpus.pipeline.stages import POLL_SECONDS
from llm_trainer.corpus.pipeline.store import Record, StageFolder, open_array, read_array, read_records, write_records
from llm_trainer.corpus.report.statistics import Statistics
from llm_trainer.corpus.report.summary import summarise
from llm_trainer.corpus.report.write import write_report
from llm_trainer.corpus.sources.registry import LicenceRow, licences

DOCUMENTS = "documents"
BASKETS = ".baskets"
MANIFEST = "corpus.json"
CONTAMINATION = "contamination.jsonl.zst"
Folders = Mapping[str, StageFolder]
Ints = npt.NDArray[np.int64]


def write_result(
    pipeline: Pipeline, plan: CorpusPlan, folders: Folders, statistics: Statistics, notice: Callable[[str], None]
) -> dict[str, Any]:
    """Write everything that a reader of the corpus needs; returns the figures of the report.

    What an earlier build wrote for the same documents and settings is left as it is.
    """
    root = pipeline.folder
    finished = folders[finish.STAGE]
    notes = _notes(pipeline)
    composition: Composition | None = None
    mixture = _Mixture(pipeline, plan, finished) if pipeline.mix else None
    if mixture is not None:
        composition = mixture.composition()
        notes += [*mixture.plan.problems, *mixture.problems]
        notice(mixture.plan.describe())
    identity = _identity(pipeline, plan, finished)
    while _written(root) != identity:
        with lease(root / MANIFEST) as mine:
            if mine and _written(root) != identity:
                _write_all(pipeline, plan, folders, mixture, identity)
        if _written(root) != identity:  # another process is writing the same
            time.sleep(POLL_SECONDS)
    # In the order in which rules were applied, so that the picture of what became of the documents reads from top to
    # bottom as it happened.
    later = {"dedup": pipeline.dedup, "decontaminate": pipeline.decontaminate}
    stages = [*pipeline.filters, *(name for name, settings in later.items() if settings is not None)]
    sources = [(source.name, source.kind, source.license, source.category) for source in pipeline.sources]
    summary = summarise(
        statistics,
        name=pipeline.name,
        stages=stages,
        composition=composition,
        licences=[_licence(row) for row in licences(sources)],
        notes=notes,
    )
    write_report(summary, root)
    return summary


def _write_all(pipeline: Pipeline, plan: CorpusPlan, folders: Folders, mixture: _Mixture | None, identity: str) -> None:
    root, finished = pipeline.folder, folders[finish.STAGE]
    files = _write_documents(pipeline, plan, finished, mixture)
    _write_keys(pipeline, plan, folders)
    written = [*files, *(path for path in (root / deduplicate.INDEX).iterdir() if not path.name.startswith("."))]
    (root / CONTAMINATION).unlink(missing_ok=True)
    if pipeline.decontaminate:
        hits = (hit for unit in plan.units for hit in finished.facts(unit.id)[finish.HITS])
        write_records(root / CONTAMINATION, hits)
        written.append(root / CONTAMINATION)
    sizes = {path.relative_to(root).as_posix(): path.stat().st_size for path in sorted(written)}
    facts = {"identity": identity, "name": pipeline.name, "files": [path.name for path in files], "sizes": sizes}
    write_json(root / MANIFEST, facts)


def _licence(row: LicenceRow) -> dict[str, Any]:
    """A row of the table of licences; what its reader should beware of stands out."""
    facts = row.to_dict()
    return {**{key: value for key, value in facts.items() if key != "notes"}, "warning": facts["notes"]}


def _notes(pipeline: Pipeline) -> list[str]:
    if pipeline.tokenizer is None:
        return [f"Tokens are estimated: {finish.BYTES_PER_TOKEN:g} bytes each. Name a tokenizer to have them counted."]
    return []


def _identity(pipeline: Pipeline, plan: CorpusPlan, finished: StageFolder) -> str:
    units = [unit.id for unit in plan.units]
    mix = pipeline.mix.to_dict() if pipeline.mix else None
    return fingerprint([finished.path.name, units, mix, pipeline.write.to_dict(), pipeline.seed])


def _written(root: Path) -> str | None:
    """Identity of the documents that are there, if all their files are."""
    path = root / MANIFEST
    if not path.is_file():
        return None
    try:
        facts = read_json(path)
        whole = all((root / name).stat().st_size == size for name, size in facts["sizes"].items())
    except (UserError, LookupError, TypeError, AttributeError, FileNotFoundError):
        return None  # of another version, or damaged: the documents are written again
    return str(facts["identity"]) if whole else None


def _write_documents(
    pipeline: Pipeline, plan: CorpusPlan, finished: StageFolder, mixture: _Mixture | None
) -> list[Path]:
    folder = pipeline.folder / DOCUMENTS
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    (pipeline.folder / MANIFEST).unlink(missing_ok=True)
    file_format, shard_bytes = pipeline.write.format, pipeline.write.shard_mb * (1 << 20)
    paths = writing.write_stream(
        _records(plan, finished, validation=True), folder, "validation", file_format, shard_bytes
    )
    training = _records(plan, finished, validation=False)
    if mixture is None:
        paths += writing.write_stream(training, folder, "train", file_format, shard_bytes)
    else:
        order = writing.Order.of(mixture.picks(), mixture.sizes, shard_bytes)
        paths += writing.write_mixture(training, order, folder, "train", file_format, pipeline.folder / BASKETS)
    writing.remove_files(folder, paths)
    return paths


def _records(plan: CorpusPlan, finished: StageFolder, *, validation: bool) -> Iterator[Record]:
    for unit in plan.units:
        for record in read_records(finished.records(unit.id)):
            if record["validation"] == validation:
                yield record


def _write_keys(pipeline: Pipeline, plan: CorpusPlan, folders: Folders) -> None:
    """Keep the keys of the documents that were kept, for a later corpus to be compared with."""
    selected, finished = folders[select.STAGE], folders[finish.STAGE]
    near = pipeline.dedup.near if pipeline.dedup else None
    keys, signatures, kept = [], [], []
    for unit in plan.units:
        keys.append(open_array(selected.array(unit.id, "exact")))
        if near is not None:
            signatures.append(open_array(selected.array(unit.id, "near")))
        mask = np.zeros(len(keys[-1]), dtype=bool)
        mask[read_array(finished.array(unit.id, "place"))] = True
        kept.append(mask)
    index = pipeline.folder / deduplicate.INDEX
    write_reference(index, keys, signatures if near else None, near, kept=np.concatenate(kept))


class _Mixture:
    """The training documents by name, and which of them the mixture takes.

    Attributes:
        plan: what is taken of each name.
        sizes: (training documents,) bytes of each.
    """

    def __init__(self, pipeline: Pipeline, plan: CorpusPlan, finished: StageFolder) -> None:
        assert pipeline.mix is not None
        self._settings = pipeline.mix
        columns: dict[str, list[npt.NDArray[Any]]] = {"tokens": [], "bytes": [], "key": [], "name": []}
        numbers: dict[str, int] = {}
        for unit in plan.units:
            training = read_array(finished.array(unit.id, "validation")) == 0
            for name in ("tokens", "bytes", "key"):
                columns[name].append(read_array(finished.array(unit.id, name))[training])
            if pipeline.mix.by == "category":
                labels = finished.facts(unit.id)[finish.CATEGORIES]
                own = np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.int32)
                columns["name"].append(own[read_array(finished.array(unit.id, "category"))[training]])
            else:
                number = numbers.setdefault(pipeline.sources[unit.source].name, len(numbers))
                columns["name"].append(np.full(int(training.sum()), number, dtype=np.int32))
        together = {name: np.concatenate(parts) for name, parts in columns.items()}
        self.sizes: Ints = together["bytes"]
        order = np.argsort(together["name"], kind="stable")
        ends = np.cumsum(np.bincount(together["name"], minlength=len(numbers)))
        groups = dict(zip(numbers, np.split(order, ends[:-1])))
        names = {name: groups[name] for name in sorted(groups) if len(groups[name])}
        tokens = {name: together["tokens"][numbers] for name, numbers in names.items()}
        self.plan: MixPlan = plan_mixture({name: int(counts.sum()) for name, counts in tokens.items()}, pipeline.mix)
        keys = {name: together["key"][numbers] for name, numbers in names.items()}
        self._names = names
        self._selection = choose(tokens, self.plan, pipeline.mix, keys=keys)

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be chosen as it was planned, as sentences."""
        return tuple(self._selection.problems)

    def picks(self) -> Ints:
        """(picks,) number of the training document at every place of the mixture."""
        name, document = self._selection.interleaved()
        result = np.empty(len(name), dtype=np.int64)
        for number, label in enumerate(self._selection.names):
            mine = name == number
            result[mine] = self._names[label][document[mine]]
        return result

    def composition(self) -> Composition:
        """What was taken, against what was wanted."""
        taken = dict(zip(self._selection.names, self._selection.tokens))
        return check_composition(taken, self.plan.targets, self._settings.tolerance)
