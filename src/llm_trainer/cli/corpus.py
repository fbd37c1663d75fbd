"""``llm-trainer data build|preview|report|licenses|...``: from the world's text to a corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_trainer.cli.options import Texts

PipelineFile = Annotated[Path, typer.Argument(help="The pipeline's .yaml file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Settings to change: filters.length.min_characters=50.", show_default=False),
]
Workers = Annotated[int | None, typer.Option("--workers", help="Processes. Left out: one for each core.")]


def build(
    pipeline: PipelineFile,
    overrides: Overrides = None,
    engine: Annotated[
        str, typer.Option("--engine", help="process (this machine), serial (one process) or ray (a cluster).")
    ] = "process",
    workers: Workers = None,
) -> None:
    """Build a corpus: read, clean, filter, redact, deduplicate, decontaminate, split, mix, write, report.

    Interrupted, it goes on when it is run again; run several times at once on one folder, the processes share the
    work. A changed threshold repeats only what depends on it.

    Example: llm-trainer data build pipeline.yaml filters.language.min_score=0.8
    """
    from llm_trainer.workflows.corpus import build_corpus

    typer.echo(build_corpus(pipeline, overrides or [], engine=engine, workers=workers, echo=typer.echo))


def preview(
    pipeline: PipelineFile,
    overrides: Overrides = None,
    documents: Annotated[int, typer.Option("--documents", "-n", min=1, help="Documents of each source.")] = 10,
) -> None:
    """Show the first documents of every source through each step, with what is dropped and why."""
    from llm_trainer.workflows.corpus import preview_corpus

    preview_corpus(pipeline, overrides or [], documents=documents, echo=typer.echo)


def report(corpus: Annotated[Path, typer.Argument(help="Folder of a corpus.")]) -> None:
    """Show what a corpus is made of, and draw its page anew."""
    from llm_trainer.workflows.corpus import show_report

    typer.echo(show_report(corpus))


def licenses(
    pipeline: Annotated[
        Path | None, typer.Argument(help="A pipeline's .yaml file. Left out: well-known data sets.", show_default=False)
    ] = None,
    overrides: Overrides = None,
) -> None:
    """List sources with their licences, sizes and warnings."""
    from llm_trainer.workflows.corpus import show_licences

    typer.echo(show_licences(pipeline, overrides or []))


def sources() -> None:
    """List the kinds of sources that a pipeline can read, with their options."""
    from llm_trainer.corpus.sources.kinds import MODULES, find_kind

    for name in MODULES:
        kind = find_kind(name)
        endings = f" ({', '.join(kind.suffixes)})" if kind.suffixes else ""
        typer.echo(f"{name}: {kind.description}{endings}")
        for option, field in kind.options.model_fields.items():
            described = " ".join((field.description or "").split())
            typer.echo(f"    {option} = {field.get_default(call_default_factory=True)!r}: {described}")


def stats(
    text: Texts = None,
    dataset: Annotated[str, typer.Option("--dataset", help="Name of a data set, when no --text is given.")] = "builtin",
    split: Annotated[str, typer.Option("--split", help="Split of it.")] = "train",
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", help="Folder of a tokenizer to count tokens with.", show_default=False)
    ] = None,
) -> None:
    """Count documents, words and tokens, and say what size of model they are enough for."""
    from llm_trainer.workflows.corpus import text_statistics

    typer.echo(text_statistics(text or [], dataset, split, tokenizer))


def classifier(
    good: Annotated[Path, typer.Argument(help="Folder or file of texts as they should be.")],
    bad: Annotated[Path, typer.Argument(help="Folder or file of texts as they should not be.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The classifier's file.")] = Path("quality.npz"),
) -> None:
    """Train the quality classifier of a pipeline from two piles of text.

    Example: llm-trainer data classifier good_texts/ bad_texts/ -o quality.npz
    """
    from llm_trainer.workflows.corpus import train_classifier

    train_classifier(good, bad, output, typer.echo)


def add_to(app: typer.Typer) -> None:
    """Make these commands of a group."""
    app.command("build")(build)
    app.command("preview")(preview)
    app.command("report")(report)
    app.command("licenses")(licenses)
    app.command("sources")(sources)
    app.command("stats")(stats)
    app.command("classifier")(classifier)
