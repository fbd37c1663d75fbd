"""What the tasks of all stages are given: plain data, for any process on any machine that sees the folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from time import process_time

from llm_trainer.common.files import explain_os_errors
from llm_trainer.common.hashing import fingerprint
from llm_trainer.common.leases import lease
from llm_trainer.corpus.pipeline.definition import Pipeline
from llm_trainer.corpus.pipeline.plan import Unit
from llm_trainer.corpus.pipeline.store import StageFolder
from llm_trainer.corpus.report.statistics import Statistics

VERSION = 1
"""Of the files between the stages and of what the stages do; a new one makes everything again."""
STAGES = "stages"
Setup = Callable[[], None]
"""A function of a module that prepares a process: it says who scores perplexity, which this package cannot know."""


@dataclass(frozen=True)
class Identities:
    """Names of the stages' folders: each is a hash of all that its output depends on.

    Unit ids say what was read; these say what was done with it.
    """

    prepare: str
    select: str

    @classmethod
    def of(cls, pipeline: Pipeline) -> Identities:
        """From the settings alone."""
        cleaners = [[cleaner.name, cleaner.to_dict()] for cleaner in pipeline.cleaners()]
        rules = pipeline.rules()
        prepare = fingerprint([VERSION, cleaners, [rule.tag_identity() for rule in rules]])
        near = pipeline.dedup.near.to_dict() if pipeline.dedup and pipeline.dedup.near else None
        redaction = pipeline.redaction.to_dict() if pipeline.redaction else None
        decisions = [[rule.name, rule.to_dict()] for rule in rules]
        return cls(prepare, fingerprint([prepare, decisions, redaction, near]))


@dataclass(frozen=True)
class Task:
    """One unit of one stage.

    Attributes:
        pipeline: the definition.
        root: folder of the corpus.
        unit: what to work on.
        folders: name of a stage -> its folder, for this stage and those before it.
        setup: see :data:`Setup`.
    """

    pipeline: Pipeline
    root: Path
    unit: Unit
    folders: dict[str, StageFolder]
    setup: Setup | None = None

    def prepare_process(self) -> None:
        """Run the set-up once in each process."""
        if self.setup is not None:
            _run_once(self.setup)


@lru_cache(maxsize=1)
def _run_once(setup: Setup) -> None:
    setup()


@contextmanager
def only_one(folder: StageFolder, unit: str) -> Iterator[bool]:
    """Whether this process is the one to make a unit; another may be at it, or have just finished."""
    with explain_os_errors(folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
    with lease(folder.manifest(unit)) as mine:
        yield mine and not folder.is_done(unit)


@contextmanager
def timed(statistics: Statistics, step: str) -> Iterator[None]:
    """Count the processor time of a block under the name of a step."""
    begin = process_time()
    try:
        yield
    finally:
        statistics.spend(step, process_time() - begin)
