"""Evaluate a trained model on held-out text, its run's own or any other."""

from __future__ import annotations

from pathlib import Path

from llm_trainer.common.errors import UserError
from llm_trainer.common.files import human_bytes
from llm_trainer.config import load_config
from llm_trainer.corpus import open_paths
from llm_trainer.evaluation import compressor_baselines, evaluate_documents
from llm_trainer.training.preparation import open_training_data, open_validation_data
from llm_trainer.workflows.load import LoadedModel, load_model
from llm_trainer.workflows.pretrain import write_evaluation
from llm_trainer.workflows.tasks import evaluate_task, open_task_data, prepare_task


def evaluate_run(
    run: str | None,
    *,
    paths: list[str] | None = None,
    runs_dir: Path = Path("runs"),
    checkpoint: str = "best",
    device: str = "auto",
) -> str:
    """Bits per byte and perplexity, as a few lines of text.

    Args:
        run: a run, or a folder with a model; see :func:`~llm_trainer.workflows.load.load_model`.
        paths: text to evaluate on; the run's own held-out text when left out. Only the latter is kept in the run.
        runs_dir: the folder that holds the runs.
        checkpoint: which checkpoint.
        device: where to compute.
    """
    loaded = load_model(run, runs_dir=runs_dir, checkpoint=checkpoint, device=device)
    if loaded.model.config.family != "decoder":
        return _evaluate_task(loaded, paths, device, keep=checkpoint == "best")
    if paths is not None:
        texts = [document.text for document in open_paths(paths, validation_fraction=0)]
    else:
        if loaded.run_dir is None:
            raise UserError("a model without a run has no held-out text of its own", hint="name some with --text")
        data = load_config(loaded.run_dir / "config.yaml").run.data
        held_out = open_validation_data(data, open_training_data(data))
        if held_out is None and data.cache is not None:
            raise UserError(
                f"the run was trained on the packed cache {data.cache}, which holds no text",
                hint="name some with --text",
            )
        if held_out is None:
            raise UserError("the run was trained with validation_fraction: 0", hint="name text with --text")
        texts = [document.text for document in held_out]
    result = evaluate_documents(loaded.model, loaded.tokenizer, texts)
    baselines = compressor_baselines(texts)
    if paths is None and loaded.run_dir is not None and checkpoint == "best":
        write_evaluation(loaded.run_dir, result, baselines)
    lines = [
        loaded.description,
        f"text            {result.documents:,} documents, {human_bytes(result.bytes)}, {result.tokens:,} tokens",
        f"loss            {result.loss:.4f} nats per token",
        f"perplexity      {result.perplexity:.2f}",
        f"bits per byte   {result.bits_per_byte:.4f}",
        *(f"  {name:<13} {value:.4f}" for name, value in baselines.items()),
    ]
    return "\n".join(lines)


def _evaluate_task(loaded: LoadedModel, paths: list[str] | None, device: str, *, keep: bool) -> str:
    """Loss and accuracy of a model that does not predict text from left to right, on its run's own held-out data."""
    if paths is not None or loaded.run_dir is None:
        raise UserError(
            f"a model of family {loaded.model.config.family} is evaluated on what its run held out",
            hint="name the run, without --text",
        )
    run = load_config(loaded.run_dir / "config.yaml").run
    data = prepare_task(run, open_task_data(run), loaded.tokenizer, progress=None, notice=_silence)
    try:
        if data.validation is None:
            raise UserError("the run held nothing out (validation_fraction: 0)", hint="train one that does")
        figures = evaluate_task(loaded.model, run, data.validation, device=device)
    finally:
        data.close()
    if keep:
        write_evaluation(loaded.run_dir, None, {}, task=figures)
    lines = [loaded.description, f"objective       {run.objective}"]
    return "\n".join([*lines, *(f"{name:<16}{value:.4f}" for name, value in figures.items())])


def _silence(text: str) -> None:
    """Nothing to say: it was said while training."""
