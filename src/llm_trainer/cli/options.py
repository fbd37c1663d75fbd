"""Options that several commands share, so that one flag means one thing everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunArgument = Annotated[
    str | None,
    typer.Argument(
        help="A run's name or folder, or a folder with a model. Left out: the newest run.", show_default=False
    ),
]
OutputDir = Annotated[
    Path | None,
    typer.Option("--output_dir", "--output-dir", "-o", help="Folder to write to.", show_default=False),
]
RunsDir = Annotated[Path, typer.Option("--runs_dir", "--runs-dir", help="Folder that holds the runs.")]
Texts = Annotated[
    list[Path] | None,
    typer.Option("--text", help="A file or folder of text; may be given several times.", show_default=False),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
Checkpoint = Annotated[
    str, typer.Option("--checkpoint", help="best (lowest validation loss), last, or the number of a step.")
]
MaxNewTokens = Annotated[int, typer.Option("--max_new_tokens", "--max-new-tokens", "-n", help="Tokens to generate.")]
Temperature = Annotated[
    float, typer.Option("--temperature", "-t", help="0 takes the most likely token; higher is more varied.")
]
TopK = Annotated[int | None, typer.Option("--top_k", "--top-k", help="Sample among the k likeliest tokens.")]
TopP = Annotated[float | None, typer.Option("--top_p", "--top-p", help="Sample from this much probability mass.")]
MinP = Annotated[
    float | None, typer.Option("--min_p", "--min-p", help="Drop tokens less likely than this times the likeliest.")
]
RepetitionPenalty = Annotated[
    float, typer.Option("--repetition_penalty", "--repetition-penalty", help="Above 1, repeats become less likely.")
]
Seed = Annotated[int | None, typer.Option("--seed", help="Same seed, same text.", show_default=False)]
Stop = Annotated[list[str] | None, typer.Option("--stop", help="End before this string; may be repeated.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
