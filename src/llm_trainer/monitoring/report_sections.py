"""The sections of the report: each takes a run's data and gives HTML, or nothing if there is nothing to show.

Every text that comes from a run goes through :func:`escape`; the only markup is what stands in this file.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from llm_trainer.common.files import human_bytes
from llm_trainer.common.web_page import escape
from llm_trainer.monitoring.accounting import peak_memory
from llm_trainer.monitoring.charts import run_charts
from llm_trainer.monitoring.diagnosis import diagnose
from llm_trainer.monitoring.metrics_file import Record, is_number
from llm_trainer.monitoring.naming import human_count
from llm_trainer.monitoring.plots import html_legend, svg_chart
from llm_trainer.monitoring.report_data import RunData
from llm_trainer.monitoring.report_html import folded, table, tile
from llm_trainer.monitoring.text import format_duration, format_moment, without_home

# Enough to see the model learn to write; all of them are in samples.md.
_SAMPLES_SHOWN = 8
_SAMPLE_CHARACTERS = 1500
_CHECKPOINTS_SHOWN = 20

_STATE_CLASS = {"finished": "good", "running": "info", "interrupted": "warn", "failed": "bad", "died": "bad"}


def header(run: RunData) -> str:
    """The run's name, its state, and one line on what it is."""
    facts = []
    if run.parameters is not None:
        facts.append(f"{human_count(run.parameters)} parameters")
    if run.step is not None:
        facts.append(f"{run.step:,} steps")
    if run.seconds is not None:
        facts.append(f"{format_duration(run.seconds)} of training")
    cpu, torch = run.environment.get("cpu"), run.environment.get("torch")
    devices = torch.get("devices") if isinstance(torch, dict) else None
    if devices and isinstance(devices, list):
        facts.append(f"{len(devices)} x {devices[0].get('name', 'accelerator')}")
    elif isinstance(cpu, dict):
        facts.append(f"{cpu.get('model', 'CPU')}, {cpu.get('usable_cores', '?')} cores")
    state = f'<span class="state {_STATE_CLASS.get(run.status.state, "warn")}">{escape(run.status.state)}</span>'
    return (
        f'<header><h1>{escape(run.name)} {state}</h1><p class="muted">{escape(" · ".join(facts))}</p></header>'
        if facts
        else f"<header><h1>{escape(run.name)} {state}</h1></header>"
    )


def notice(run: RunData) -> str:
    """What a reader must know first: the run is not over, or it did not end well."""
    state, message = run.status.state, run.status.message
    seen = format_moment(run.status.time)
    paragraphs = {
        "running": [f"This run is still going. The figures are those of {seen}; make the report again for newer ones."],
        "interrupted": [f"This run was interrupted at {seen}. It can be continued from its newest checkpoint."],
        "failed": [f"This run failed at {seen}."],
        "died": [
            f"This run stopped without a word; its last sign of life was at {seen}. Its process was killed, ran out of "
            "memory, or the machine went down. It can be continued from its newest checkpoint."
        ],
        "unknown": ["This run has no readable status: it was never started, or its status.json is damaged."],
    }.get(state, [])
    if message and state != "finished":
        paragraphs.append(message)
    if run.log.damaged_lines:
        paragraphs.append(f"{run.log.damaged_lines} damaged lines of metrics.jsonl were left out.")
    if not run.log.records:
        paragraphs.append("There are no metrics yet: a run writes its first ones after training.logging_steps steps.")
    if not paragraphs:
        return ""
    inner = "".join(f"<p>{escape(without_home(text))}</p>" for text in paragraphs)
    return f'<div class="panel notice {_STATE_CLASS.get(state, "warn")}">{inner}</div>'


def headline(run: RunData) -> str:
    """The numbers that one would tell a colleague, the tokenizer-independent one first."""
    tiles: list[tuple[str, str, str]] = []
    held_out = run.held_out
    source = "on held-out text" if held_out else "on validation text"
    if run.bits_per_byte is not None:
        note = f"{source}; {_versus(run)}" if _versus(run) else source
        tiles.append(("bits per byte", f"{run.bits_per_byte:.3f}", note))
    perplexity = held_out.get("perplexity", run.log.last("validation/perplexity"))
    if perplexity is not None:
        tiles.append(("perplexity", f"{perplexity:,.1f}" if perplexity < 1e5 else f"{perplexity:.1e}", source))
    loss = run.log.last("train/loss")
    if loss is not None:
        validation = run.log.last("validation/loss")
        note = "nats per token" + (f"; validation {validation:.3f}" if validation is not None else "")
        tiles.append(("training loss", f"{loss:.3f}", note))
    tokens = run.log.last("train/tokens")
    if tokens is not None:
        epochs = run.log.last("train/epoch")
        tiles.append(("tokens seen", human_count(round(tokens)), f"{epochs:.2f} epochs" if epochs is not None else ""))
    if run.tokens_per_second is not None:
        used = run.log.last("train/mfu")
        note = "median" + (f"; {100 * used:.0f} % of the peak arithmetic" if used is not None else "")
        tiles.append(("tokens/s", f"{run.tokens_per_second:,.0f}", note))
    memory = peak_memory(run.log)
    if memory is not None:
        tiles.append(("peak memory", human_bytes(memory[0]), memory[1]))
    if run.seconds is not None:
        tiles.append(("training time", format_duration(run.seconds), ""))
    if run.parameters is not None:
        tiles.append(("parameters", human_count(run.parameters), f"{run.parameters:,}"))
    skipped = run.log.last("train/skipped_steps")
    if skipped:
        tiles.append(("skipped steps", f"{skipped:,.0f}", "gradients that were not finite"))
    return f'<section class="tiles">{"".join(tile(*entry) for entry in tiles)}</section>' if tiles else ""


def comparison(run: RunData) -> str:
    """The model beside compressors on the same text, as bars: shorter is better."""
    own = run.held_out.get("bits_per_byte")
    if own is None or not run.baselines:
        return ""
    entries = [(own, "this model", "own"), *((value, name, "") for name, value in run.baselines.items())]
    rows = [(name, value, kind) for value, name, kind in sorted(entries)]
    longest = max(value for _, value, _ in rows)
    bars = "".join(
        f'<span>{escape(name)}</span><span><i class="{kind}" style="width:{100 * value / longest:.1f}%"></i></span>'
        f"<b>{value:.3f}</b>"
        for name, value, kind in rows
    )
    size, count = run.held_out.get("bytes"), run.held_out.get("documents")
    about = [f"{count:,.0f} documents" if count else "", human_bytes(size) if size else ""]
    text = ", ".join(part for part in about if part)
    return (
        "<h2>Against compressors on the same held-out text</h2>"
        f'<div class="panel"><p class="muted">Bits per byte of text{f" ({text})" if text else ""} that the model has '
        "never seen; lower is better. A compressor also learns from the text as it goes.</p>"
        f'<div class="bars">{bars}</div></div>'
    )


def fit(run: RunData) -> str:
    """The remark on over- and underfitting."""
    if not run.log.records:
        return ""
    diagnosis = diagnose(run.log)
    kind = {"overfitting": "bad", "not learning": "bad", "learning": "info", "levelled off": "good"}
    return (
        f'<h2>How well it fits</h2><div class="panel notice {kind.get(diagnosis.verdict, "warn")}">'
        f"<p>{escape(diagnosis.text)}</p></div>"
    )


def curves(run: RunData) -> str:
    """All charts; the first, the loss, over the whole width."""
    charts = run_charts(run.log)
    if not charts:
        return ""
    panels = []
    for index, chart in enumerate(charts):
        if index == 0:
            wide = f'<div class="wide">{svg_chart(chart, width=1080, height=340)}</div>'
            drawing = f'{wide}<div class="narrow">{svg_chart(chart)}</div>'
        else:
            drawing = svg_chart(chart)
        title = f"{chart.title}, {chart.unit}" if chart.unit else chart.title
        whole = " whole" if index == 0 else ""
        panels.append(f'<div class="panel{whole}"><h3>{escape(title)}</h3>{html_legend(chart)}{drawing}</div>')
    return f'<h2>Curves</h2><section class="charts">{"".join(panels)}</section>'


def samples(run: RunData) -> str:
    """What the model wrote: at its end at several temperatures, and over the course of training."""
    if not run.samples:
        return ""
    last = max(sample["step"] for sample in run.samples)
    final = {
        (sample.get("prompt"), sample.get("temperature")): sample for sample in run.samples if sample["step"] == last
    }
    at_end = sorted(final.values(), key=lambda sample: (str(sample.get("prompt")), _temperature(sample)))
    parts = [f"<h2>Samples at step {last:,}</h2>", _sample_list(at_end[: 2 * _SAMPLES_SHOWN], "temperature")]
    earlier = [sample for sample in run.samples if sample["step"] < last]
    if earlier:
        first_prompt = earlier[0].get("prompt")
        course = _spread([sample for sample in earlier if sample.get("prompt") == first_prompt], _SAMPLES_SHOWN)
        parts += ["<h2>Samples while it learned</h2>", _sample_list(course, "step")]
    return "".join(parts)


def checkpoints(run: RunData) -> str:
    """The newest checkpoints."""
    if not run.checkpoints:
        return ""
    rows = [
        (
            escape(info.label),
            f"{info.step:,}",
            "unknown" if info.loss is None else f"{info.loss:.4f}",
            human_bytes(info.size),
            format_moment(info.time),
        )
        for info in reversed(run.checkpoints[-_CHECKPOINTS_SHOWN:])
    ]
    cells = table(("checkpoint", "step", "loss", "size", "saved"), rows, numbers=(1, 2, 3))
    return f'<h2>Checkpoints</h2><div class="panel scroll">{cells}</div>'


def next_steps(run: RunData) -> str:
    """The commands that go on from here."""
    path = _shell_path(run.path)
    commands = []
    if run.status.state in ("interrupted", "failed", "died"):
        commands.append(("Continue the run where it stopped", f"llm-trainer train --resume --output_dir {path}"))
    if run.checkpoints:
        commands.append(("Talk to the model", f"llm-trainer chat {path}"))
        commands.append(("Let it continue a text", f"llm-trainer generate {path} --prompt 'Once upon a time'"))
        commands.append(("Measure it on held-out text", f"llm-trainer evaluate {path}"))
    commands.append(("Look at the files and figures", f"llm-trainer runs show {path}"))
    if run.config:
        config = _shell_path(run.path / "config.yaml")
        commands.append(("Train again with changes", f"llm-trainer train {config} --output_dir runs/second_try"))
    items = "".join(f'<div>{escape(what)}<span class="command">{escape(how)}</span></div>' for what, how in commands)
    return f'<h2>How to go on</h2><div class="panel">{items}</div>'


def configuration(run: RunData) -> str:
    """What was chosen for the person and why, then the whole configuration."""
    parts = []
    if run.derived:
        rows = [
            (
                f"<code>{escape(note.get('key'))}</code>",
                escape(without_home(str(note.get("value")))),
                escape(note.get("reason", "")),
            )
            for note in run.derived
        ]
        cells = table(("derived value", "is", "because"), rows)
        parts.append(f'<div class="panel scroll">{cells}</div><br>')
    if run.config:
        groups = {key: value for key, value in run.config.items() if isinstance(value, dict)}
        single = {key: value for key, value in run.config.items() if key not in groups}
        for name, values in [*groups.items(), *([("run", single)] if single else [])]:
            parts.append(folded(f"{name} ({len(values)} settings)", values))
    return f"<h2>Configuration</h2>{''.join(parts)}" if parts else ""


def environment(run: RunData) -> str:
    """Hardware and software."""
    return f"<h2>Environment</h2>{folded('hardware and software', run.environment)}" if run.environment else ""


def footer() -> str:
    """Where it comes from."""
    files = "metrics.jsonl, config.yaml, environment.json, samples.jsonl, evaluation.json and checkpoints/"
    return f"<footer>Made by LLM Trainer from the files of the run: {files}.</footer>"


def _versus(run: RunData) -> str:
    """``"12 % below xz -9e (2.104)"``."""
    own, name = run.held_out.get("bits_per_byte"), "xz -9e"
    reference = run.baselines.get(name)
    if own is None or not reference:
        return ""
    difference = 100 * (own / reference - 1)
    return f"{abs(difference):.0f} % {'below' if difference < 0 else 'above'} {name} ({reference:.3f})"


def _sample_list(items: Iterable[Record], what: str) -> str:
    return f'<section class="samples">{"".join(_sample(item, what) for item in items)}</section>'


def _sample(sample: Record, what: str) -> str:
    prompt, text = str(sample.get("prompt") or ""), sample["text"]
    continuation = text.removeprefix(prompt)
    if len(continuation) > _SAMPLE_CHARACTERS:
        continuation = continuation[:_SAMPLE_CHARACTERS] + " ..."
    title = f"step {sample['step']:,}" if what == "step" else f"temperature {_temperature(sample):g}"
    if what == "temperature" and _temperature(sample) == 0:
        title += " (always the likeliest token)"
    return (
        f'<div class="panel sample"><h3>{escape(title)}</h3>'
        f'<pre><span class="prompt">{escape(prompt)}</span>{escape(continuation)}</pre></div>'
    )


def _temperature(sample: Record) -> float:
    value = sample.get("temperature")
    return float(value) if value is not None and is_number(value) else 1.0


def _spread(items: Sequence[Record], count: int) -> list[Record]:
    """``count`` of the items, evenly over all, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(index * (len(items) - 1) / (count - 1))] for index in range(count)]


def _shell_path(path: Path) -> str:
    """The path as it can be typed, relative to the working folder where it lies below it."""
    absolute, here = path.absolute(), Path.cwd()
    if absolute.is_relative_to(here):
        return shlex.quote(str(absolute.relative_to(here)))
    return without_home(shlex.quote(str(absolute)))
