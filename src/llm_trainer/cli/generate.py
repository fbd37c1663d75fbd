"""``llm-trainer generate``, ``chat`` and ``evaluate``: use a trained model."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm_trainer.cli.options import (
    Checkpoint,
    Device,
    MaxNewTokens,
    MinP,
    RepetitionPenalty,
    RunArgument,
    RunsDir,
    Seed,
    Stop,
    Temperature,
    Texts,
    TopK,
    TopP,
)

if TYPE_CHECKING:
    from llm_trainer.config import GenerationConfig


def generate(
    run: RunArgument = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="Text to continue; left out: read from standard input.")
    ] = None,
    max_new_tokens: MaxNewTokens = 128,
    temperature: Temperature = 0.8,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = 1.0,
    num_beams: Annotated[int, typer.Option("--num_beams", "--num-beams", help="More than 1: beam search.")] = 1,
    stop: Stop = None,
    seed: Seed = None,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Continue a prompt; answer it, fill its gaps ([MASK]) or label it, if that is what the model has learnt.

    Example: llm-trainer generate --prompt "The future of AI is" --temperature 0.7
    """
    from llm_trainer.config import GenerationConfig
    from llm_trainer.workflows.load import load_model

    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        num_beams=num_beams,
        stop=stop or [],
        seed=seed,
    )
    prompt = prompt if prompt is not None else _read_prompt()
    loaded = load_model(run, runs_dir=runs_dir, checkpoint=checkpoint, device=device)
    if loaded.model.config.family == "encoder":
        from llm_trainer.workflows.answers import encoder_answer

        typer.echo(encoder_answer(loaded.model, loaded.tokenizer, prompt))
    elif config.uses_beams:
        typer.echo(loaded.generator.generate(prompt, config))
    else:
        _stream(loaded.generator.stream(prompt, config))


def chat(
    run: RunArgument = None,
    max_new_tokens: MaxNewTokens = 200,
    temperature: Temperature = 0.8,
    top_k: TopK = None,
    top_p: TopP = 0.95,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = 1.1,
    seed: Seed = None,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Talk to a model: it answers in turns if its tokenizer has a chat template, else goes on with what you write.

    A model that was only pretrained continues text, it does not answer questions: give it a beginning. An
    encoder-decoder answers a text, an encoder fills its gaps ([MASK]) or labels it.
    """
    from llm_trainer.common.errors import UserError
    from llm_trainer.config import GenerationConfig
    from llm_trainer.workflows.answers import encoder_answer
    from llm_trainer.workflows.load import load_model

    loaded = load_model(run, runs_dir=runs_dir, checkpoint=checkpoint, device=device)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    family = loaded.model.config.family
    in_turns = loaded.tokenizer.chat_template is not None and family != "encoder"
    invitation = "Write a message; it answers." if in_turns else INVITATIONS[family]
    commands = f"{CHAT_COMMANDS}, /new (another conversation)" if in_turns else CHAT_COMMANDS
    typer.echo(f"{loaded.description}\n{invitation} Commands: {commands}")
    messages: list[dict[str, str]] = []
    while (line := _next_line()) is not None:
        if line in ("/quit", "/exit"):
            break
        if line == "/new" and in_turns:
            messages.clear()
        elif line.startswith("/"):
            _chat_command(line, config)
        elif line:
            try:
                if family == "encoder":
                    typer.echo(encoder_answer(loaded.model, loaded.tokenizer, line))
                elif in_turns:
                    message = {"role": "user", "content": line}
                    answer = _stream(loaded.generator.reply([*messages, message], config))
                    messages += [message, {"role": "assistant", "content": answer}]
                else:
                    _stream(loaded.generator.stream(line, config))
            except UserError as error:  # of this line: the next one may do
                typer.echo(str(error), err=True)


def evaluate(
    run: RunArgument = None,
    text: Texts = None,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Bits per byte and perplexity on held-out text, next to what xz reaches on the same text."""
    from llm_trainer.workflows.evaluate import evaluate_run

    paths = [str(path) for path in text] if text else None
    typer.echo(evaluate_run(run, paths=paths, runs_dir=runs_dir, checkpoint=checkpoint, device=device))


INVITATIONS = {
    "decoder": "Write the beginning of a text; it goes on.",
    "encoder_decoder": "Write a text; it answers.",
    "encoder": "Write a text; it fills the gaps ([MASK]) or labels it.",
}
CHAT_COMMANDS = "/temperature 0.5, /tokens 100, /seed 1, /quit"


def _read_prompt() -> str:
    if sys.stdin.isatty():
        return typer.prompt("prompt")  # type: ignore[no-any-return]
    return sys.stdin.read().rstrip("\n")


def _next_line() -> str | None:
    """The next line a person writes, or None at the end of the input."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None


def _stream(pieces: Iterable[str]) -> str:
    """Print a text as it comes; return it whole."""
    written = []
    for piece in pieces:
        typer.echo(piece, nl=False)
        sys.stdout.flush()
        written.append(piece)
    typer.echo()
    return "".join(written)


def _chat_command(line: str, config: GenerationConfig) -> None:
    """Change a setting between two texts; what is wrong is said and changes nothing."""
    from llm_trainer.common.errors import ConfigError

    word, _, raw = line[1:].partition(" ")
    fields = {"temperature": ("temperature", float), "tokens": ("max_new_tokens", int), "seed": ("seed", int)}
    if word not in fields:
        typer.echo(f"unknown command; there are: {CHAT_COMMANDS}")
        return
    name, kind = fields[word]
    try:
        setattr(config, name, kind(raw))
    except ValueError:
        typer.echo(f"/{word}: {raw!r} is not a number")
    except ConfigError as error:
        typer.echo(f"/{word}: {'; '.join(error.problems)}")
    else:
        typer.echo(f"{name} = {getattr(config, name)}")
