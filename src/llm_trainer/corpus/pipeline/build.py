"""A whole build: from the definition to documents, statistics and a report, resumable at every unit.

Stages are maps over units with files between them, so that any engine can run them, and one global step in the middle
that looks at keys only. What an earlier build made with the same settings is used as it is.
"""

from __future__ import annotations

import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from llm_trainer.common.errors import DataError, UserError
from llm_trainer.common.hashing import fingerprint
from llm_trainer.common.leases import held_leases, is_held, lease, others_at_work, packer_at_work
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.pipeline import contamination, deduplicate, finish, passages, prepare, result, select
from llm_trainer.corpus.pipeline.definition import Pipeline
from llm_trainer.corpus.pipeline.downloads import download_sources
from llm_trainer.corpus.pipeline.engines import Engine
from llm_trainer.corpus.pipeline.loading import save_pipeline
from llm_trainer.corpus.pipeline.plan import PLAN, CorpusPlan, make_plan
from llm_trainer.corpus.pipeline.stages import POLL_SECONDS, Progress, run_stage
from llm_trainer.corpus.pipeline.store import StageFolder
from llm_trainer.corpus.pipeline.tasks import STAGES, Identities, Setup, Task, only_one
from llm_trainer.corpus.report.statistics import Statistics

PIPELINE = "pipeline.yaml"
_BUILDING = re.compile(r"\.build-([0-9a-f]{8})-[0-9a-f]{8}\.lease")
_STAGE = re.compile(r"[a-z0-9-]+-[0-9a-f]{12}")
Notice = Callable[[str], None]


@dataclass
class Build:
    """One build of a corpus.

    Args:
        pipeline: the definition.
        engine: who works on the units.
        progress: called after every unit.
        notice: called with a sentence about what is done.
        setup: run once in every process that works; see :data:`~llm_trainer.corpus.pipeline.tasks.Setup`.
    """

    pipeline: Pipeline
    engine: Engine
    progress: Progress = field(default=lambda _: None)
    notice: Notice = field(default=lambda _: None)
    setup: Setup | None = None

    def run(self) -> dict[str, Any]:
        """Build the corpus, or what is missing of it; returns the figures of the report.

        Raises:
            UserError: a source that does not exist, a full disk, a limit that was passed; what is finished is kept.
        """
        if self.setup is not None:
            self.setup()
        identities = Identities.of(self.pipeline)
        root = self.pipeline.folder
        require_own_folder(root)
        with packer_at_work(root), one_pipeline(root, fingerprint(self.pipeline.to_dict())[:8]):
            summary = self._run(identities)
            if not others_at_work(root):
                self._remove_leftovers()
        return summary

    def _run(self, identities: Identities) -> dict[str, Any]:
        root = self.pipeline.folder
        download_sources(self.pipeline, self.notice)
        plan = make_plan(self.pipeline)
        plan.write(root)
        save_pipeline(self.pipeline, root / PIPELINE)
        prepared = self._folder(prepare.STAGE, identities.prepare)
        self._forget_vanished(prepared, plan)
        self._stage(prepare.STAGE, prepare.prepare_unit, plan, {prepare.STAGE: prepared})
        self._require_readable(plan, prepared)

        folders = {prepare.STAGE: prepared, select.STAGE: self._folder(select.STAGE, identities.select)}
        self._stage(select.STAGE, select.select_unit, plan, folders)

        name = deduplicate.identity(self.pipeline, plan.units, identities.select)
        folders[deduplicate.STAGE] = self._folder(deduplicate.STAGE, name)
        self._global(deduplicate.STAGE, folders, plan, deduplicate.decide_all)
        self._passages(plan, folders, name)

        benchmarks = contamination.benchmark_identity(self.pipeline)
        finished = self._folder(finish.STAGE, finish.identity(self.pipeline, name, benchmarks))
        folders[finish.STAGE] = finished
        contamination.write_index(self.pipeline, finished, self.notice)
        self._stage(finish.STAGE, finish.finish_unit, plan, folders)

        statistics = self._statistics(plan, [prepared, folders[select.STAGE], finished])
        self._require_enough(statistics)
        summary = result.write_result(self.pipeline, plan, folders, statistics, self.notice)
        if not others_at_work(root):
            self._remove_others(folders.values())
        return summary

    def _passages(self, plan: CorpusPlan, folders: dict[str, StageFolder], identity: str) -> None:
        settings = passages.settings_of(self.pipeline)
        for number in range(settings.passes if settings else 0):
            stage = passages.stage_name(number)
            folders[stage] = self._folder(stage, identity)
            found = folders[stage].is_done(deduplicate.ALL)
            if not found and not passages.fits_in_memory(self.pipeline, plan.units, folders):
                self._stage(stage, partial(passages.collect_unit, number=number), plan, folders)
            self._global(stage, folders, plan, partial(passages.find_all, number=number))

    def _folder(self, stage: str, identity: str) -> StageFolder:
        return StageFolder(self.pipeline.folder / STAGES / f"{stage}-{identity[:12]}")

    def _stage(
        self, name: str, work: Callable[[Task], str | None], plan: CorpusPlan, folders: dict[str, StageFolder]
    ) -> None:
        tasks = [Task(self.pipeline, self.pipeline.folder, unit, dict(folders), self.setup) for unit in plan.units]
        run_stage(name, work, tasks, folders[name], self.engine, self.progress)

    def _global(
        self,
        name: str,
        folders: dict[str, StageFolder],
        plan: CorpusPlan,
        work: Callable[[Pipeline, Sequence[Any], dict[str, StageFolder]], None],
    ) -> None:
        """A step over all units: one process does it, the others wait for it."""
        folder = folders[name]
        wait_for(folder, lambda: work(self.pipeline, plan.units, folders))
        facts = folder.facts(deduplicate.ALL)
        found = ", ".join(f"{count:,} {reason}" for reason, count in facts["found"].items())
        self.notice(f"{name}: {facts['documents']:,} documents; {found or 'nothing to do'}")

    def _forget_vanished(self, prepared: StageFolder, plan: CorpusPlan) -> None:
        """Try the units again whose files were away or changing the last time, and forget what was made of them."""
        again = [unit.id for unit in plan.units if prepared.is_done(unit.id) and prepared.facts(unit.id)["vanished"]]
        if not again or others_at_work(self.pipeline.folder):  # they use what was made of them
            return
        self._remove_others([prepared])  # first: what is left of an interrupted clean-up must not be taken for whole
        for unit in again:
            prepared.manifest(unit).unlink(missing_ok=True)

    def _require_readable(self, plan: CorpusPlan, folder: StageFolder) -> None:
        statistics = self._statistics(plan, [folder])
        limit = self.pipeline.limits.max_lost_fraction
        lost = sum(losses.total for losses in statistics.losses.values())
        if lost > limit * statistics.records:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in _all_losses(statistics).counts.items())
            raise DataError(
                f"{lost:,} of {statistics.records:,} records cannot be read ({reasons}); "
                f"limits.max_lost_fraction allows {limit:.2%}"
            )
        if not statistics.entered.total():
            shown = [f"{reason} ({places[0]})" for reason, places in _all_losses(statistics).examples.items()]
            raise DataError("no source gave a document" + (f": {'; '.join(shown)}" if shown else ""))

    def _require_enough(self, statistics: Statistics) -> None:
        limit = self.pipeline.limits.max_dropped_fraction
        dropped = sum(reasons.total() for reasons in statistics.dropped.values())
        if dropped > limit * statistics.entered.total():
            raise DataError(
                f"{dropped:,} of {statistics.entered.total():,} documents are dropped; "
                f"limits.max_dropped_fraction allows {limit:.2%}",
                hint="llm-trainer data preview shows what is dropped and why",
            )

    def _statistics(self, plan: CorpusPlan, folders: Sequence[StageFolder]) -> Statistics:
        total = Statistics()
        for folder in folders:
            for unit in plan.units:
                total.merge(Statistics.from_dict(folder.facts(unit.id)["statistics"]))
        return total

    def _remove_others(self, folders: Any) -> None:
        """Delete the stages of settings that are no longer asked for; the disk is not endless."""
        keep = {folder.path for folder in folders}
        stages = self.pipeline.folder / STAGES
        for path in stages.iterdir() if stages.is_dir() else ():
            if path.is_dir() and path not in keep and _STAGE.fullmatch(path.name):
                shutil.rmtree(path)

    def _remove_leftovers(self) -> None:
        """Delete what processes that were killed had not finished writing."""
        root = self.pipeline.folder
        shutil.rmtree(root / result.BASKETS, ignore_errors=True)
        places = [root, *(root / name for name in (result.DOCUMENTS, deduplicate.INDEX)), *(root / STAGES).iterdir()]
        for path in (path for place in places if place.is_dir() for path in place.glob(".*")):
            if path.suffix == ".tmp" or (path.suffix == ".lease" and not is_held(path)):
                path.unlink(missing_ok=True)


@contextmanager
def one_pipeline(folder: Path, settings: str) -> Iterator[None]:
    """Say for the block which settings a folder is built with; others would write over each other.

    Raises:
        UserError: another process builds there with other settings.
    """
    for path in held_leases(folder):
        found = _BUILDING.fullmatch(path.name)
        if found and found[1] != settings:
            raise UserError(
                f"{folder} is being built with other settings by another process",
                hint="wait until it is done, or choose another output_dir",
            )
    with lease(folder / f"build-{settings}-{uuid.uuid4().hex[:8]}"):
        yield


def require_own_folder(root: Path) -> None:
    """Refuse to write over what no build made: documents and stages of other settings are deleted by a build.

    Raises:
        UserError: the folder holds something of these names, and no plan of a corpus.
    """
    if (root / PLAN).exists():
        return
    names = (PIPELINE, STAGES, result.DOCUMENTS, deduplicate.INDEX, result.MANIFEST)
    if found := [name for name in names if (root / name).exists()]:
        raise UserError(
            f"{root} holds {', '.join(found)}, which no build of a corpus made",
            hint="set output_dir to a folder of its own",
        )


def _all_losses(statistics: Statistics) -> Losses:
    together = Losses()
    for losses in statistics.losses.values():
        together.merge(losses)
    return together


def wait_for(folder: StageFolder, work: Callable[[], None]) -> None:
    """Do a global step, or wait until another process has done it."""
    while not folder.is_done(deduplicate.ALL):
        with only_one(folder, deduplicate.ALL) as mine:
            if mine:
                work()
        if not folder.is_done(deduplicate.ALL):
            time.sleep(POLL_SECONDS)
