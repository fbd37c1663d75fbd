"""One configuration in, one run folder out: tokenizer, packed cache, training, evaluation, samples, report."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_trainer.common.devices import resolve_device
from llm_trainer.common.errors import UserError
from llm_trainer.common.files import explain_os_errors, human_bytes, write_json
from llm_trainer.config import RunConfig, TrainingConfig, load_config
from llm_trainer.data import PackProgress, TokenCache, format_progress
from llm_trainer.data.growing import GrowingLoader
from llm_trainer.data.mixture import MixtureLoader
from llm_trainer.evaluation import HeldOutResult, compressor_baselines, evaluate_documents, generation_quality
from llm_trainer.generation import TextGenerator
from llm_trainer.models.extensions import COPIES, copy_extensions, find_extensions, import_extensions
from llm_trainer.models.factory import build_model
from llm_trainer.monitoring.accounting import resource_summary
from llm_trainer.monitoring.metrics import METRICS_FILE, read_metrics_log
from llm_trainer.monitoring.progress import format_eta
from llm_trainer.monitoring.report import write_report
from llm_trainer.monitoring.runs import next_run_name, validate_run_name
from llm_trainer.tokenizer import Tokenizer, load_tokenizer
from llm_trainer.tokenizer.kinds import train_configured
from llm_trainer.training import Trainer, TrainResult
from llm_trainer.training.cached_data import use_cache_settings
from llm_trainer.training.checkpoint import list_checkpoints
from llm_trainer.training.parallel import data_parallel
from llm_trainer.training.preparation import PreparedData, TrainingText, dataset_label
from llm_trainer.training.reporting import RunReporter
from llm_trainer.training.run_folder import CONFIG, TOKENIZER, RunDescriber
from llm_trainer.training.tuning import Tuning
from llm_trainer.training.utils import seed_everything
from llm_trainer.workflows.derive import Derivation, derive
from llm_trainer.workflows.estimate import Estimate, estimate
from llm_trainer.workflows.load import load_model
from llm_trainer.workflows.samples import SampleWriter, draw_sample, forget_samples, write_sample
from llm_trainer.workflows.start_from import adopt_start, load_start
from llm_trainer.workflows.tasks import (
    TaskData,
    adapt_model,
    evaluate_task,
    make_objective,
    open_task_data,
    prepare_task,
    sample_prompts,
    special_tokens,
)

Echo = Callable[[str], None]
PACK_LINES_SECONDS = 5.0
"""Packing that takes longer than this says how far it is, this often."""
FINAL_TEMPERATURES = (0.0, 0.5, 0.8, 1.0)


@dataclass(frozen=True)
class RunPlan:
    """What would be trained."""

    run: RunConfig
    derivations: list[Derivation]
    estimate: Estimate
    data: TrainingText
    tuning: Tuning
    task: TaskData


@dataclass(frozen=True)
class FinalSample:
    """A text of the finished model."""

    prompt: str
    temperature: float
    continuation: str


@dataclass(frozen=True)
class RunResult:
    """A run that has ended."""

    run_dir: Path
    training: TrainResult
    held_out: HeldOutResult | None
    """Of a model that predicts text."""
    baselines: dict[str, float]
    report: Path
    samples: list[FinalSample] = field(default_factory=list)
    task: dict[str, float] = field(default_factory=dict)
    """Loss, perplexity and accuracy on all held-out data, of any other model."""

    def summary(self) -> str:
        """A few lines for the person."""
        done = self.training
        lines = [
            f"{done.outcome} at step {done.step:,} after {format_eta(done.elapsed)}; training loss {done.loss:.4f}"
        ]
        if self.held_out is not None:
            figures = f"{self.held_out.bits_per_byte:.3f} bits per byte, perplexity {self.held_out.perplexity:.2f}"
            lines.append(f"held-out text ({human_bytes(self.held_out.bytes)}): {figures}")
        if self.task:
            figures = f"accuracy {self.task['accuracy']:.1%}, loss {self.task['loss']:.4f} nats per target"
            lines.append(f"held-out data: {figures}")
        if self.baselines:
            compressors = ", ".join(f"{name} {value:.3f}" for name, value in self.baselines.items())
            lines.append(f"compressors on the same text, bits per byte: {compressors}")
        used = resource_summary(read_metrics_log(self.run_dir))
        if used is not None:
            lines.append(f"training used: {used}")
        lines.append(f"run:    {self.run_dir}")
        lines.append(f"report: {self.report}")
        if done.outcome == "interrupted":
            lines.append(f"go on:  llm-trainer train --resume --output_dir {self.run_dir}")
        return "\n".join(lines)


def plan_run(run: RunConfig, *, resume: bool = False) -> RunPlan:
    """Look at the data and this machine, fill in what was left out, estimate the cost. Writes nothing.

    Args:
        run: what to do. The files that its ``model.extensions`` names are run.
        resume: the configuration comes from a run's folder: its files are run only if they are trusted.

    Raises:
        UserError: the data set or the device is not there, or a file of the person's own fails.
    """
    run = run.model_copy(deep=True)
    adopt_start(run, run_dir=Path(run.output_dir) if resume and run.output_dir is not None else None)
    import_extensions(run.model.extensions, named_by_person=not resume)
    fixed = [Derivation(*note) for note in use_cache_settings(run)]
    task = open_task_data(run)
    derived = derive(run, task.text_bytes)
    cost = estimate(run, task.text_bytes)
    return RunPlan(run, [*fixed, *derived.notes], cost, task.texts, derived.tuning, task)


def describe_plan(plan: RunPlan) -> str:
    """The text of ``--dry-run``."""
    import yaml

    cost = plan.estimate
    lines = [yaml.safe_dump(plan.run.to_dict(), sort_keys=False, allow_unicode=True, width=110)]
    lines += ["Derived:", *(f"  {note}" for note in plan.derivations), "", f"Data: {plan.data.description}", "Cost:"]
    lines.append(f"  parameters      {cost.parameters:,}")
    lines.append(f"  memory          about {human_bytes(cost.memory_bytes)} at most:")
    lines += [f"    {name:<13} {human_bytes(size)}" for name, size in cost.memory.parts().items()]
    lines.append(f"  arithmetic      {cost.flops_per_token / 1e6:.1f} MFLOP a token, forward and backward")
    lines.append(
        f"  speed           about {cost.tokens_per_second:,.0f} tokens/s (35 % of the matrix rate measured now)"
    )
    if cost.tokens is not None:
        lines.append(f"  tokens          about {cost.tokens:,}")
    if cost.seconds is not None:
        lines.append(f"  time            about {format_eta(cost.seconds)}")
    return "\n".join(lines)


def train_run(run: RunConfig, *, resume: bool = False, echo: Echo = print, quiet: bool = False) -> RunResult:
    """Train a model from a configuration, from text to report.

    Args:
        run: what to do. ``output_dir`` names the run's folder; left out, a new one is made under ``runs/``.
        resume: continue the newest good checkpoint in that folder.
        echo: called with each line for the person.
        quiet: no live progress.

    Raises:
        UserError: with what to do about it. A checkpoint that was saved stays good.
    """
    with data_parallel.process_group(resolve_device(run.training.device)):
        return _train_run(run, resume=resume, echo=echo if data_parallel.is_main() else _silence, quiet=quiet)


def _train_run(run: RunConfig, *, resume: bool, echo: Echo, quiet: bool) -> RunResult:
    if run.training.use_peft:
        raise UserError(
            "training.use_peft trains adapters of a model that exists, and a configuration file starts a new one",
            hint="from Python: Trainer(model, tokenizer, TrainingConfig(use_peft=True)).fit(data)",
        )
    if run.output_dir is not None:
        _refuse_existing_run(Path(run.output_dir), resume=resume)
        if resume:
            _keep_what_was_measured(run, Path(run.output_dir))
            find_extensions(run.model, Path(run.output_dir))
    plan = plan_run(run, resume=resume)
    run = plan.run
    # Every rank measured for itself; all of them compute in what rank 0 measured.
    run.training = TrainingConfig.from_dict(
        json.loads(data_parallel.from_main(lambda: json.dumps(run.training.to_dict())))
    )
    run_dir = Path(data_parallel.from_main(lambda: str(_choose_run_dir(run, plan, resume=resume))))
    run.name = run.name or run_dir.name
    for note in plan.derivations:
        echo(str(note))
    with _removed_if_it_fails(run_dir):
        _keep_extensions(run, run_dir)
        tokenizer = _tokenizer(plan, run_dir, echo)
        if run.tokenizer.path is None:
            run.tokenizer.vocab_size = tokenizer.vocab_size
        run.model.vocab_size = max(tokenizer.vocab_size, run.model.vocab_size if run.model.given("vocab_size") else 0)
        adapt_model(run, plan.task, tokenizer)
        data = prepare_task(run, plan.task, tokenizer, progress=_pack_printer(echo), notice=echo)
    try:
        return _train_on(data, plan, run_dir, tokenizer, resume=resume, echo=echo, quiet=quiet)
    finally:
        data.close()


def _train_on(
    data: PreparedData, plan: RunPlan, run_dir: Path, tokenizer: Tokenizer, *, resume: bool, echo: Echo, quiet: bool
) -> RunResult:
    """The part of a run after its data is ready."""
    run = plan.run
    seed_everything(run.training.seed)
    model = build_model(run.model)
    if run.training.init_from is not None and not list_checkpoints(run_dir / "checkpoints"):
        load_start(model, run.training.init_from)
        echo(f"starting from the weights in {run.training.init_from}")
    echo(f"{_describe_data(data)}\nmodel: {model.num_parameters():,} parameters")
    notes = [{"key": note.key, "value": str(note.value), "reason": note.reason} for note in plan.derivations]
    callbacks = [
        RunReporter(run_dir, run.training, quiet=quiet),
        RunDescriber(run_dir, run, notes, plan.tuning),
        SampleWriter(run_dir, sample_prompts(run), run.generation),
    ]
    objective = make_objective(run)
    trainer = Trainer(model, tokenizer, run.training, objective=objective, run_dir=run_dir, callbacks=callbacks)
    try:
        result = trainer.fit(data.train, data.validation, resume=resume)
    except BaseException:
        if data_parallel.is_main() and (run_dir / METRICS_FILE).exists():
            write_report(run_dir)
        raise
    if not data_parallel.is_main():
        return RunResult(run_dir, result, None, {}, run_dir / "report.html")
    return _finish(run, run_dir, result, data, echo)


def _keep_what_was_measured(run: RunConfig, run_dir: Path) -> None:
    """A resumed run computes as it did before, not as a measurement of today would have it."""
    if not (run_dir / CONFIG).exists():
        return
    saved = load_config(run_dir / CONFIG).run.training
    names = ["num_threads", "reuse_memory", "compile"]
    if run.training.use_amp is None:
        names.append("precision")
    micro_batch = ["batch_size", "gradient_accumulation_steps"]
    if not any(map(run.training.given, micro_batch)):
        names += micro_batch
    for name in names:
        if not run.training.given(name):
            setattr(run.training, name, getattr(saved, name))


def _keep_extensions(run: RunConfig, run_dir: Path) -> None:
    """Copy the person's files into the run's folder, and go on with the copies."""
    if not run.model.extensions:
        return
    if data_parallel.is_main():
        copy_extensions(run.model.extensions, run_dir / COPIES)
    data_parallel.barrier()
    find_extensions(run.model, run_dir)
    import_extensions(run.model.extensions, named_by_person=False)


def _silence(text: str) -> None:
    """Ranks other than the first have nothing to say."""


def _choose_run_dir(run: RunConfig, plan: RunPlan, *, resume: bool) -> Path:
    """The run's folder, made; an existing run in it is never overwritten."""
    root = Path("runs")
    if run.output_dir is not None:
        run_dir = Path(run.output_dir)
    else:
        label = dataset_label(run.data)
        name = run.name or next_run_name(root, plan.estimate.parameters, label, run.data.max_length or 0)
        run_dir = root / validate_run_name(name)
    _refuse_existing_run(run_dir, resume=resume)
    with explain_os_errors(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
    return run_dir


def _refuse_existing_run(run_dir: Path, *, resume: bool) -> None:
    if not resume and list_checkpoints(run_dir / "checkpoints"):
        raise UserError(
            f"{run_dir} already holds a run",
            hint="continue it with --resume, or name another folder with --output_dir",
        )


@contextlib.contextmanager
def _removed_if_it_fails(run_dir: Path) -> Iterator[None]:
    """A run that never began (no text, no disk space) leaves no folder behind, unless that held something before."""
    new = not any(run_dir.iterdir())
    try:
        yield
    except BaseException:
        if new and data_parallel.is_main():
            shutil.rmtree(run_dir, ignore_errors=True)
        raise


def _tokenizer(plan: RunPlan, run_dir: Path, echo: Echo) -> Tokenizer:
    """The tokenizer of a run that is resumed; of a new one, on one rank, train it or copy the one that is named."""
    folder = run_dir / TOKENIZER
    # One that a killed run left before its first checkpoint may be of other text or another size.
    keep = (folder / "tokenizer.json").exists() and bool(list_checkpoints(run_dir / "checkpoints"))
    if data_parallel.is_main() and not keep:
        if plan.run.tokenizer.path is not None:
            load_tokenizer(plan.run.tokenizer.path).save_pretrained(folder)
        else:
            _train_tokenizer(plan, echo).save_pretrained(folder)
    data_parallel.barrier()
    return load_tokenizer(folder)


def _train_tokenizer(plan: RunPlan, echo: Echo) -> Tokenizer:
    settings = plan.run.tokenizer
    size = settings.vocab_size
    assert size is not None
    echo(f"training a {settings.type} tokenizer of {size:,} tokens")
    # A size that we derived may be too large for the text; one that the person gave is a promise.
    derived = any(note.key == "tokenizer.vocab_size" for note in plan.derivations)
    texts = _texts(plan.data, settings.train_bytes)
    further = special_tokens(plan.run)
    tokenizer = train_configured(settings, texts, allow_smaller=derived, echo=echo, special_tokens=further)
    if tokenizer.vocab_size < size:
        echo(f"the text allows only {tokenizer.vocab_size:,} tokens; that is the vocabulary now")
    return tokenizer


def _texts(data: TrainingText, limit: int) -> Iterator[str]:
    """Documents up to ``limit`` bytes in all."""
    used = 0
    for document in data:
        yield document.text
        used += len(document.text.encode("utf-8"))
        if used >= limit:
            return


def _pack_printer(echo: Echo) -> Callable[[PackProgress], None]:
    last = time.monotonic()

    def show(progress: PackProgress) -> None:
        nonlocal last
        if time.monotonic() - last >= PACK_LINES_SECONDS:
            last = time.monotonic()
            echo(format_progress(progress))

    return show


def _describe_data(data: PreparedData) -> str:
    if isinstance(data.train, GrowingLoader):
        cache = data.train.cache
        return f"data: {data.description}; {len(cache.arrived()):,} of {len(cache.plan.units):,} chunks are there"
    if isinstance(data.train, MixtureLoader):
        shares = data.train.composition(0, min(len(data.train), 10_000))
        parts = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        return f"data: {len(data.train):,} sequences of {data.seq_len} an epoch; of the tokens, {parts}"
    served: object = data.train.cache
    if not isinstance(served, TokenCache):
        return f"data: {len(data.train):,} examples of at most {data.seq_len} tokens from {data.description}"
    facts = data.train.cache.manifest.totals()
    kept = f"{facts['tokens_kept']:.1%} of the tokens kept, {facts['utilisation']:.1%} of the positions used"
    return f"data: {facts['tokens']:,} tokens in {len(data.train):,} sequences of {data.seq_len} ({kept})"


def _finish(run: RunConfig, run_dir: Path, result: TrainResult, data: PreparedData, echo: Echo) -> RunResult:
    """Evaluate the best checkpoint on all held-out text, draw samples, write the report."""
    held_out: HeldOutResult | None = None
    baselines: dict[str, float] = {}
    samples: list[FinalSample] = []
    task: dict[str, float] = {}
    if result.outcome == "finished":
        loaded = load_model(str(run_dir), device=run.training.device)
        if run.objective != "causal_lm":
            if data.validation is not None:
                echo("evaluating on all held-out data")
                task = evaluate_task(loaded.model, run, data.validation, device=run.training.device)
        elif data.held_out is not None:
            echo("evaluating on all held-out text")
            texts = [document.text for document in data.held_out]
            held_out = evaluate_documents(loaded.model, loaded.tokenizer, texts)
            baselines = compressor_baselines(texts)
        samples = _final_samples(run, run_dir, result.step, loaded.generator)
        write_evaluation(run_dir, held_out, baselines, samples, task)
    return RunResult(run_dir, result, held_out, baselines, write_report(run_dir), samples, task)


def _final_samples(run: RunConfig, run_dir: Path, step: int, generator: TextGenerator) -> list[FinalSample]:
    """Continue every prompt at several temperatures, and keep the texts with the run."""
    samples = []
    forget_samples(run_dir, from_step=step)
    decoder = run.model.family == "decoder"
    for prompt in sample_prompts(run):
        # What fills a gap is not drawn at random.
        for temperature in FINAL_TEMPERATURES if run.model.family != "encoder" else (0.0,):
            settings = run.generation.model_copy()
            settings.temperature, settings.num_beams = temperature, 1
            text = draw_sample(generator, prompt, settings, return_full_text=False)
            write_sample(run_dir, step, prompt, prompt + text if decoder else text, temperature)
            samples.append(FinalSample(prompt, temperature, text))
    return samples


def write_evaluation(
    run_dir: Path,
    result: HeldOutResult | None,
    baselines: dict[str, float],
    samples: Sequence[FinalSample] = (),
    task: Mapping[str, float] | None = None,
) -> None:
    """evaluation.json: what the report and ``runs list`` read."""
    content: dict[str, Any] = {"baselines": baselines}
    if result is not None:
        content["held_out"] = result.to_dict()
    elif task:
        content["held_out"] = dict(task)
    if samples:
        content["samples"] = generation_quality([sample.continuation for sample in samples])
    write_json(run_dir / "evaluation.json", content)
