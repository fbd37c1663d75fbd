"""How soon a small model is good: our recipe beside the documented one of nanoGPT, and beside the usual one on prose.

Characters: nanoGPT's recipe for a CPU (its README; 2,000 steps, validation loss 1.88), run by its own train.py, and
ours on the same text, split and evaluation. Asked is how long ours takes to nanoGPT's final loss, and how far it comes
in nanoGPT's time. Prose: a GPT-2 block with AdamW at its best learning rate of a small grid, and our recipe, both of
our own code, for the same minutes.

    python benchmarks/time_to_loss.py --nanogpt FOLDER --text tinyshakespeare.txt --prose FOLDER --plot curves.png

Time is training only: evaluation and saving are off the clock on both sides. Sides take turns, seed by seed, and
processor seconds are reported beside wall-clock ones. What is fair about it and what is not is in
docs/how_to/benchmarks.md. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import characters
import nanogpt_train
import prose
from common import default_threads, fail, machine
from contest import checkouts
from curves import Point, draw

from llm_trainer.common.errors import UserError

# Our recipes. ``steps``: the schedule's end in the race to nanoGPT's loss; ``every``: steps between evaluations.
CHARACTERS: dict[str, Any] = {
    "model": {
        "d_model": 128,
        "n_heads": 4,
        "n_layers": 4,
        "qk_norm": True,
        "activation": "relu2",
        "bigram_embedding": 4096,
    },
    "training": {
        "optimizer": "muon",
        "learning_rate": 1.2e-2,
        "muon_learning_rate": 0.02,
        "batch_size": 32,
        "lr_scheduler": "wsd",
        "min_learning_rate_ratio": 0.0,
    },
    "steps": 130,
    "every": 10,
}
PROSE: dict[str, Any] = {
    "model": {"d_model": 256, "n_heads": 4, "n_layers": 4, "qk_norm": True, "activation": "relu2"},
    "training": {
        "optimizer": "muon",
        "learning_rate": 1.2e-2,
        "batch_size": 16,
        "lr_scheduler": "wsd",
        "min_learning_rate_ratio": 0.0,
    },
}
# The usual recipe: GPT-2's block, fused AdamW with nanoGPT's betas and decay, warm-up and cosine to a tenth.
PROSE_USUAL: dict[str, Any] = {
    "model": {
        "d_model": 256,
        "n_heads": 4,
        "n_layers": 4,
        "position": "learned",
        "norm": "layernorm",
        "activation": "gelu_tanh",
        "bias": True,
    },
    "training": {
        "optimizer": "adamw",
        "beta2": 0.95,
        "weight_decay": 0.1,
        "batch_size": 16,
        "lr_scheduler": "cosine",
        "warmup_ratio": 0.05,
        "min_learning_rate_ratio": 0.1,
    },
}
PROSE_USUAL_RATES = (1e-3, 2e-3, 4e-3)
PROSE_VOCABULARY, PROSE_LENGTH = 4096, 256
PARTS = ("characters", "prose")
QUICK: dict[str, Any] = {"d_model": 32, "n_heads": 2, "n_layers": 1}


def race_characters(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], dict[str, list[list[Point]]]]:
    """The first part: its result, and its curves by name."""
    settings, block = CHARACTERS, nanogpt_train.BLOCK
    if options.quick:
        settings = {**CHARACTERS, "model": {**CHARACTERS["model"], **QUICK}, "steps": 20, "every": 10}
    text = options.text.read_text(encoding="utf-8")
    checkout = checkouts(nanogpt=options.nanogpt).get("nanogpt")
    if checkout is None:
        print("skipped nanoGPT: --nanogpt FOLDER must name a checkout of github.com/karpathy/nanoGPT")
    race = characters.Race(text, folder, block=block, threads=options.threads, quick=options.quick)
    runs = race.hold(settings, None if checkout is None else Path(checkout), options.seeds)
    result = characters.summary(runs)
    if "seeds" in result:
        _say_characters(result)
    return {"settings": settings, **result}, {name: [run.points for run in side] for name, side in runs.items()}


def _say_characters(result: dict[str, Any]) -> None:
    for number, seed in enumerate(result["seeds"]):
        reached = seed["our_seconds_to_it"]
        soon = "ours never reached it" if reached is None else f"ours was there after {reached} s"
        print(
            f"seed {number}: nanoGPT's loss {seed['their_final_loss']} (its own estimate {seed['their_own_estimate']}) "
            f"after {seed['their_seconds']} s; {soon}; in equal time ours comes to {seed['our_loss_in_equal_time']}"
        )
    faster, cheaper = result["times_faster"], result["times_less_processor_time"]
    if faster is not None:
        print(f"median: {faster:.2f} times faster by the clock, {cheaper:.2f} times less processor time")


def race_prose(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], dict[str, list[list[Point]]]]:
    """The second part: its result, and its curves by name."""
    usual, ours = PROSE_USUAL, PROSE
    rates: tuple[float, ...] = PROSE_USUAL_RATES
    sizes = {"vocabulary": PROSE_VOCABULARY, "length": PROSE_LENGTH, "evaluations": 6}
    sizes |= {"curve_bytes": 60_000, "final_bytes": 400_000}
    source: dict[str, Any] = {} if options.prose is None else {"paths": [str(options.prose)]}
    if options.quick:
        usual, ours = ({**each, "model": {**each["model"], **QUICK}} for each in (usual, ours))
        rates, sizes = rates[1:2], {**sizes, "vocabulary": 300, "length": 32, "evaluations": 2}
        sizes |= {"curve_bytes": 2000, "final_bytes": 4000}
        source |= {"max_documents": 5}
    race = prose.ProseRace(source, folder, minutes=options.minutes, threads=options.threads, **sizes)
    outcome = race.hold(usual, rates, ours, options.seeds)
    result = prose.summary(outcome)
    for number, seed in enumerate(result["seeds"]):
        print(
            f"seed {number}: {seed['usual_bits_per_byte']} bits per byte with the usual recipe, "
            f"{seed['our_bits_per_byte']} with ours (gain {seed['gain']})"
        )
    settings = {"usual": usual, "ours": ours, "minutes": options.minutes, **sizes}
    curves = {name: [run.points for run in side] for name, side in outcome["runs"].items()}
    return {"settings": settings, **result}, curves


def main() -> int:
    """Parse, race, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, metavar="FOLDER", help="checkout of nanoGPT")
    parser.add_argument("--text", type=Path, metavar="FILE", help="text for the characters: tiny Shakespeare")
    parser.add_argument(
        "--prose",
        type=Path,
        metavar="PATH",
        help="text for the prose, about 20 MB (default: text that comes with Python)",
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: both")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each side (default: 3)")
    parser.add_argument("--minutes", type=float, default=3.0, help="training time of a prose run (default: 3)")
    parser.add_argument("--threads", type=int, default=default_threads(), help="threads of each run")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the curves")
    parser.add_argument("--quick", action="store_true", help="tiny models: only shows that it works")
    options = parser.parse_args()
    if options.seeds < 1 or options.minutes <= 0 or options.threads < 1:
        parser.error("--seeds and --threads must be at least 1, --minutes above 0")
    if options.text is not None and not options.text.is_file():
        fail(f"--text {options.text}: there is no such file")
    panels, results, skipped = [], {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for part in PARTS:
            if part not in options.parts:
                continue
            if part == "characters" and options.text is None:
                skipped[part] = "--text FILE must name the text, such as tiny Shakespeare"
                print(f"skipped {part}: {skipped[part]}")
                continue
            where = Path(folder, part)
            where.mkdir()
            race = race_characters if part == "characters" else race_prose
            results[part], curves = race(options, where)
            panels.append((part.capitalize(), results[part]["unit"], curves))
    if options.plot is not None and panels:
        draw(options.plot, panels)
        print(f"curves: {options.plot}")
    summary = {"benchmark": "time_to_loss", "machine": machine(options.threads), "quick": options.quick}
    print(json.dumps({**summary, "skipped": skipped, "results": results}))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        fail(str(error))
