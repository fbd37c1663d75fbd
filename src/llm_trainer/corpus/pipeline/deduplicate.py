"""Third stage, over all units at once: which documents stay, and which of them are for validation.

It sees keys and signatures, never a text, and reads them from the units' files as it needs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llm_trainer.common.hashing import fingerprint
from llm_trainer.corpus.dedup.clusters import find_near
from llm_trainer.corpus.dedup.exact import find_exact
from llm_trainer.corpus.dedup.reference import Reference, open_reference, reference_identity
from llm_trainer.corpus.pipeline import select
from llm_trainer.corpus.pipeline.definition import Pipeline
from llm_trainer.corpus.pipeline.plan import Unit
from llm_trainer.corpus.pipeline.store import StageFolder, open_array, read_array, write_array

STAGE = "dedup"
ALL = "all"
KEEP, EXACT, NEAR, KNOWN = range(4)
REASONS = {EXACT: "dedup.exact", NEAR: "dedup.near", KNOWN: "dedup.known_corpus"}
INDEX = "index"
BAND_MEMORY = 1 << 28
"""For the keys of bands that are looked at together; of a million documents a band has 8 MB."""
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Verdicts:
    """What is to be done with the documents of one unit.

    Attributes:
        verdict: (documents,) uint8: ``KEEP``, or why not.
        validation: (documents,) bool.
        cluster: (documents,) int64: documents of its cluster; of a document that is dropped, 0.
        key: (documents, 2) uint64: the exact key, for choosing documents by their text.
    """

    verdict: npt.NDArray[np.uint8]
    validation: npt.NDArray[np.bool_]
    cluster: Ints
    key: npt.NDArray[np.uint64]


def rank_order(pipeline: Pipeline, units: Sequence[Unit]) -> list[Unit]:
    """Units from the highest claim to the lowest: priority of the source, place of the source, place of the unit."""
    places = {unit.id: place for place, unit in enumerate(units)}
    return sorted(units, key=lambda unit: (pipeline.sources[unit.source].priority, unit.source, places[unit.id]))


def identity(pipeline: Pipeline, units: Sequence[Unit], selected: str) -> str:
    """Name of this stage's folder: which documents there are, in which order, and what is asked."""
    asked = pipeline.dedup.to_dict() if pipeline.dedup else None
    known = [reference_identity(Path(path) / INDEX) for path in pipeline.dedup.against] if pipeline.dedup else []
    order = [unit.id for unit in rank_order(pipeline, units)]
    return fingerprint([selected, order, asked, known, pipeline.split.to_dict()])


def decide_all(pipeline: Pipeline, units: Sequence[Unit], folders: Mapping[str, StageFolder]) -> None:
    """Find the duplicates among all units, and write the verdicts."""
    selected = folders[select.STAGE]
    ordered = rank_order(pipeline, units)
    keys = [open_array(selected.array(unit.id, "exact")) for unit in ordered]
    known = _references(pipeline)
    offset = sum(map(len, known))
    total = offset + sum(map(len, keys))
    ranks = np.arange(total, dtype=np.int64)
    roots = ranks.copy()
    verdict = np.zeros(total, dtype=np.uint8)
    if pipeline.dedup and pipeline.dedup.exact:
        roots = find_exact([*(corpus.keys for corpus in known), *keys], ranks, reference=offset)
        verdict[(roots != ranks) & (ranks >= offset)] = EXACT
    if pipeline.dedup and pipeline.dedup.near:
        signatures = [open_array(selected.array(unit.id, "near")) for unit in ordered]
        seen = [corpus.signatures for corpus in known if corpus.signatures is not None]
        clusters = find_near(
            [*seen, *signatures],
            ranks,
            pipeline.dedup.near,
            reference=offset,
            alive=verdict == KEEP,
            memory=BAND_MEMORY,
        )
        near = (clusters.root != ranks) & (verdict == KEEP) & (ranks >= offset)
        verdict[near] = NEAR
        roots = clusters.root[roots]
    verdict[(verdict != KEEP) & (roots < offset)] = KNOWN
    _write(pipeline, ordered, keys, verdict[offset:], roots[offset:] - offset, folders[STAGE])


def _write(
    pipeline: Pipeline,
    ordered: Sequence[Unit],
    keys: Sequence[npt.NDArray[np.uint64]],
    verdict: npt.NDArray[np.uint8],
    roots: Ints,
    folder: StageFolder,
) -> None:
    inside = roots >= 0
    sizes = np.bincount(roots[inside], minlength=len(verdict)).astype(np.int64)
    sizes[verdict != KEEP] = 0
    first = np.concatenate([key[:, 0] for key in keys]) if keys else np.empty(0, np.uint64)
    validation = _validation(first, verdict == KEEP, pipeline.split.validation_fraction)
    starts = np.cumsum([0, *map(len, keys)])
    for unit, start, stop in zip(ordered, starts[:-1].tolist(), starts[1:].tolist()):
        write_array(folder.array(unit.id, "verdict"), verdict[start:stop])
        write_array(folder.array(unit.id, "validation"), validation[start:stop])
        write_array(folder.array(unit.id, "cluster"), sizes[start:stop])
    counts = {reason: int((verdict == code).sum()) for code, reason in REASONS.items()}
    folder.finish(ALL, {"documents": len(verdict), "found": counts})


def _validation(key: npt.NDArray[np.uint64], kept: npt.NDArray[np.bool_], fraction: float) -> npt.NDArray[np.bool_]:
    """Which documents are for validation: those whose hash falls below the fraction, so that more text moves none.

    A cluster of duplicates is on one side whatever the hash, since only one of its documents is kept; where duplicates
    are not removed, equal texts have equal hashes. In a corpus so small that all fall on one side, the lowest hash is
    for validation, or the highest for training.
    """
    nothing: npt.NDArray[np.bool_] = np.zeros(len(key), dtype=bool)
    if fraction == 0 or not kept.any():
        return nothing
    lowest, highest = key[kept].min(), key[kept].max()
    if lowest == highest:
        return nothing
    below: npt.NDArray[np.bool_] = key.astype(np.float64) / 2.0**64 < fraction
    chosen: npt.NDArray[np.bool_] = kept & ((below & (key != highest)) | (key == lowest))
    return chosen


def read_verdicts(folder: StageFolder, selected: StageFolder, unit: str) -> Verdicts:
    """The verdicts about the documents of a unit."""
    return Verdicts(
        read_array(folder.array(unit, "verdict")),
        read_array(folder.array(unit, "validation")),
        read_array(folder.array(unit, "cluster")),
        read_array(selected.array(unit, "exact")),
    )


def _references(pipeline: Pipeline) -> list[Reference]:
    """The corpora that are only read."""
    if pipeline.dedup is None:
        return []
    return [open_reference(Path(corpus) / INDEX, pipeline.dedup.near) for corpus in pipeline.dedup.against]
