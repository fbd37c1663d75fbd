"""Build a corpus from a pipeline file, look at what it would do, and show what came out."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_trainer.common.errors import DataError, UserError
from llm_trainer.common.files import human_bytes, read_json, write_json
from llm_trainer.common.hashing import fingerprint
from llm_trainer.common.leases import lease
from llm_trainer.corpus import open_dataset, open_paths
from llm_trainer.corpus.filters.classifier import train_quality_classifier
from llm_trainer.corpus.pipeline import result
from llm_trainer.corpus.pipeline.build import Build
from llm_trainer.corpus.pipeline.definition import Pipeline
from llm_trainer.corpus.pipeline.downloads import download_sources
from llm_trainer.corpus.pipeline.engines import make_engine
from llm_trainer.corpus.pipeline.finish import BYTES_PER_TOKEN
from llm_trainer.corpus.pipeline.loading import load_pipeline
from llm_trainer.corpus.pipeline.plan import make_plan
from llm_trainer.corpus.pipeline.preview import describe as describe_trace
from llm_trainer.corpus.pipeline.preview import preview
from llm_trainer.corpus.pipeline.stages import POLL_SECONDS, StageProgress
from llm_trainer.corpus.report.describe import describe
from llm_trainer.corpus.report.scale import describe_scale
from llm_trainer.corpus.report.statistics import Statistics
from llm_trainer.corpus.report.write import REPORT_HTML, REPORT_JSON, write_report
from llm_trainer.corpus.sources.registry import licences, registered
from llm_trainer.tokenizer import load_tokenizer
from llm_trainer.workflows.pack import pack_text
from llm_trainer.workflows.perplexity import install_scorers

CACHE = "cache"
CACHE_NOTE = "cache.json"
PROGRESS_SECONDS = 2.0
Echo = Callable[[str], None]


def build_corpus(path: Path, overrides: Sequence[str], *, engine: str, workers: int | None, echo: Echo) -> str:
    """Build a corpus and, if the pipeline asks for it, its token cache; returns the closing lines.

    Args:
        path: the pipeline file.
        overrides: ``section.key=value`` words.
        engine: ``process``, ``serial`` or ``ray``.
        workers: processes; None for one on each core.
        echo: called with lines for the person.

    Raises:
        UserError: with what to do about it; what is finished is kept, and the same command goes on from there.
    """
    pipeline = load_pipeline(path, overrides)
    if pipeline.cache and not pipeline.tokenizer:
        echo("no tokenizer is named: one will be trained on the finished documents")
    begin = time.monotonic()
    # Only where a model judges: importing PyTorch takes every worker of every stage three seconds.
    setup = install_scorers if "perplexity" in pipeline.filters else None
    build = Build(pipeline, make_engine(engine, workers), Throttled(echo), echo, setup)
    try:
        summary = build.run()
    except KeyboardInterrupt:
        echo("interrupted: what is finished is kept, and the same command goes on from there")
        raise
    echo(f"built in {time.monotonic() - begin:,.0f} s\n")
    documents = pipeline.folder / result.DOCUMENTS
    if not summary["documents"]["kept"]:
        raise DataError(
            f"no document is left:\n{describe(summary)}",
            hint=f"{pipeline.folder / REPORT_HTML} shows what was dropped; llm-trainer data preview does it one by one",
        )
    lines = [describe(summary), f"documents: {documents}", f"report:    {pipeline.folder / REPORT_HTML}"]
    if pipeline.cache:
        lines.append(_pack(pipeline, documents, workers, echo))
        lines.append(f"train on it: llm-trainer train configs/small_model.yaml data.cache={pipeline.folder / CACHE}")
    else:
        lines.append(f"train on it: llm-trainer train configs/small_model.yaml data.dataset_name={documents}")
    return "\n".join(lines)


def _pack(pipeline: Pipeline, documents: Path, workers: int | None, echo: Echo) -> str:
    assert pipeline.cache is not None
    _forget_other_cache(pipeline)
    return pack_text(
        pipeline.folder / CACHE,
        tokenizer_dir=Path(pipeline.tokenizer) if pipeline.tokenizer else None,
        paths=None,
        dataset=str(documents),
        split="train",
        seq_len=pipeline.cache.seq_len,
        packing=pipeline.cache.packing,
        compression=pipeline.cache.compression,
        validation_fraction=pipeline.split.validation_fraction,
        workers=workers or 1,
        echo=echo,
    )


def _forget_other_cache(pipeline: Pipeline) -> None:
    """Delete the cache of documents or settings that are no longer those of the corpus; a note says what it is of.

    A cache without a note was made by someone else, and stays: packing into it is refused.
    """
    assert pipeline.cache is not None
    identity = read_json(pipeline.folder / result.MANIFEST)["identity"]
    wanted = {"of": fingerprint([identity, pipeline.cache.to_dict()])}
    note = pipeline.folder / CACHE_NOTE
    while not note.exists() or read_json(note) != wanted:
        with lease(note) as mine:
            if mine and note.exists() and read_json(note) != wanted and (pipeline.folder / CACHE).exists():
                shutil.rmtree(pipeline.folder / CACHE)
            if mine:
                write_json(note, wanted)
        if not mine:  # another process of this build is at it
            time.sleep(POLL_SECONDS)


def preview_corpus(path: Path, overrides: Sequence[str], *, documents: int, echo: Echo) -> None:
    """Show what would become of the first documents of every source; writes nothing but downloads."""
    pipeline = load_pipeline(path, overrides)
    install_scorers()
    download_sources(pipeline, echo)
    traces, losses = preview(pipeline, make_plan(pipeline), documents)
    for trace in traces:
        echo("\n".join(describe_trace(trace)))
    for reason, count in sorted(losses.counts.items()):
        echo(f"could not be read: {count:,} {reason}, for example {losses.examples[reason][0]}")
    kept = sum(not trace.reasons for trace in traces)
    echo(f"{kept} of {len(traces)} documents would be kept")


def show_report(folder: Path) -> str:
    """The figures of a finished corpus as text; its page is drawn again, so that an old corpus gets the newest one."""
    path = folder / REPORT_JSON
    if not path.is_file():
        raise UserError(
            f"{folder} holds no {REPORT_JSON}: it is not a corpus, or its build did not finish",
            hint="build it: llm-trainer data build PIPELINE.yaml",
        )
    summary: dict[str, Any] = read_json(path)
    page = write_report(summary, folder)[1]
    total = summary["total"]
    scale = f"\n\n{describe_scale(total['bytes'], total['bytes_per_token'])}" if total.get("bytes_per_token") else ""
    return f"{describe(summary)}{scale}\nreport: {page} ({human_bytes(page.stat().st_size)})"


def show_licences(path: Path | None, overrides: Sequence[str]) -> str:
    """What is known about the licences of a pipeline's sources or, without one, of well-known data sets."""
    if path is None:
        head = ("name", "size as published", "licence", "commercial use", "on the hub")
        sets = [(data.name, data.size, data.licence, data.commercial, data.hub or "-") for data in registered()]
        return (
            _table(head, sets) + "\nFigures and licences as published by their makers; what is known, not legal advice."
        )
    pipeline = load_pipeline(path, overrides)
    rows = licences([(source.name, source.kind, source.license, source.category) for source in pipeline.sources])
    return _table(
        ("source", "kind", "licence", "commercial use", "attribution", "share alike", "notes"),
        [
            (row.source, row.kind, row.licence, row.commercial, _yes(row.attribution), _yes(row.share_alike), row.notes)
            for row in rows
        ],
    )


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need, the last one open."""
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    return "\n".join("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths)).rstrip() for row in [head, *rows])


def train_classifier(good: Path, bad: Path, output: Path, echo: Echo) -> None:
    """Train the filter ``classifier`` from two folders of examples."""
    classifier = train_quality_classifier(good, bad)
    classifier.save(output)
    echo(f"{output}: trained; on texts held out: {_scores(classifier.report)}")


def _scores(report: Mapping[str, Any]) -> str:
    names = {"held_out": "texts", "accuracy": "accuracy", "auc": "area under the curve"}
    return ", ".join(f"{label} {report[key]}" for key, label in names.items() if report.get(key) is not None)


def text_statistics(paths: Sequence[Path], dataset: str, split: str, tokenizer_dir: Path | None) -> str:
    """Sizes of texts as they are: documents, words, tokens, and what model they are enough for.

    Args:
        paths: files and folders; none takes the data set.
        dataset: name of a data set.
        split: of the data set.
        tokenizer_dir: a saved tokenizer to count tokens with; None estimates four bytes each.
    """
    handle = (
        open_paths(paths, split, validation_fraction=0.0)
        if paths
        else open_dataset(dataset, split=split, validation_fraction=0.0)
    )
    statistics = Statistics()
    tokenizer = load_tokenizer(tokenizer_dir) if tokenizer_dir else None
    for document in handle:
        statistics.enter(document.source)
        statistics.add(document, {}, tokens=len(tokenizer.encode(document.text)) if tokenizer else None)
    total = statistics.total.summary()
    words = total["words_per_document"]
    if not words:
        raise DataError(f"{handle.description} has no text")
    ratio = total["bytes"] / total["tokens"] if tokenizer else BYTES_PER_TOKEN
    return "\n".join(
        [
            f"{handle.description}: {total['documents']:,} documents, {human_bytes(total['bytes'])}",
            f"Average length: {words['mean']:.1f} words",
            f"Median length: {words['median']:.1f} words",
            f"Max length: {words['max']} words",
            f"Min length: {words['min']} words",
            "" if tokenizer else "(no tokenizer is named, so tokens are estimated)",
            describe_scale(total["bytes"], ratio),
        ]
    )


class Throttled:
    """Passes progress on to people: the first and the last moment of a stage, and one every two seconds between."""

    def __init__(self, echo: Echo) -> None:
        self._echo = echo
        self._last = 0.0

    def __call__(self, progress: StageProgress) -> None:
        """Print the moment, unless one was printed just before."""
        done, total = progress.units
        if done == total or time.monotonic() - self._last >= PROGRESS_SECONDS:
            self._last = time.monotonic()
            self._echo(progress.describe())
