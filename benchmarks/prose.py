"""The race on prose: the usual GPT-2 block with AdamW against our recipe, both of our own code, for the same time.

Both get the same text, tokenizer, packed cache and minutes of training, and are evaluated on the same held-out
documents in bits per byte. What differs is the recipe alone. ``time_to_loss.py`` starts this.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from characters import Run
from common import clean_environment, in_turns, run_python
from curves import Point, Snapshots, first_at_or_below, snapshot

from llm_trainer.config import DataConfig, ModelConfig, TrainingConfig
from llm_trainer.evaluation import evaluate_documents
from llm_trainer.models import TransformerLM
from llm_trainer.tokenizer import BPETokenizer, load_tokenizer
from llm_trainer.training import Trainer
from llm_trainer.training.preparation import open_training_data, open_validation_data, prepare_data
from llm_trainer.training.utils import seed_everything

USUAL, OURS = "GPT-2 with AdamW", "ours"
TOKENIZER_BYTES = 10_000_000
Settings = Mapping[str, Any]


def train(spec: Settings) -> dict[str, Any]:
    """One side, in a process of its own."""
    torch.set_num_threads(spec["threads"])
    tokenizer = load_tokenizer(spec["tokenizer"])
    config = TrainingConfig.from_dict(
        {"device": "cpu", **spec["training"], "seed": spec["seed"], "max_minutes": spec["minutes"]}
    )
    shape = {"vocab_size": tokenizer.vocab_size, "max_seq_len": spec["length"], **spec["model"]}
    model_config = ModelConfig.from_dict(shape)
    data = prepare_data(DataConfig.from_dict(spec["data"]), tokenizer, model_config, config)
    seed_everything(config.seed)
    model = TransformerLM(model_config)
    clock = Snapshots(Path(spec["folder"]), seconds=60 * spec["minutes"] / spec["evaluations"])
    trainer = Trainer(model, tokenizer, config, callbacks=[clock])
    clock.begin()
    result = trainer.fit(data.train)
    facts = {"steps": result.step, "tokens": result.tokens, "parameters": model.num_parameters(), **clock.chosen}
    return {"moments": clock.moments, "facts": facts}


class ProseRace:
    """The text and its tokenizer, prepared once for everyone.

    Args:
        source: fields of DataConfig that say where the text is; none for the text that comes with Python.
        folder: for everything that is made on the way.
        vocabulary: tokens of the BPE tokenizer.
        length: tokens of a sequence.
        minutes: of training, for each run.
        evaluations: snapshots of a run.
        curve_bytes: held-out text that the snapshots are measured on.
        final_bytes: held-out text that the last one is measured on.
        threads: of each run.
    """

    def __init__(
        self,
        source: Settings,
        folder: Path,
        *,
        vocabulary: int,
        length: int,
        minutes: float,
        evaluations: int,
        curve_bytes: int,
        final_bytes: int,
        threads: int,
    ) -> None:
        self._folder, self._length, self._minutes = folder, length, minutes
        self._evaluations, self._threads, self._count = evaluations, threads, 0
        self._data = {**source, "max_length": length, "cache_dir": str(folder / "cache")}
        config = DataConfig.from_dict(self._data)
        training = open_training_data(config)
        texts = (document.text for document in training)
        tokenizer = BPETokenizer().train_from_iterator(
            _up_to(texts, TOKENIZER_BYTES), vocab_size=vocabulary, allow_smaller=True
        )
        tokenizer.save_pretrained(folder / "tokenizer")
        self._tokenizer = tokenizer
        held_out = open_validation_data(config, training)
        assert held_out is not None
        self._final = _up_to((document.text for document in held_out), final_bytes)
        self._curve = _up_to(self._final, curve_bytes)
        # Packing happens once, here, and not while a clock runs.
        model = ModelConfig(vocab_size=tokenizer.vocab_size, max_seq_len=length)
        prepare_data(config, tokenizer, model, TrainingConfig())

    def run(self, settings: Settings, seed: int, *, name: str) -> Run:
        """Train one side with one seed, and evaluate its snapshots."""
        self._count += 1
        folder = self._folder / f"run-{self._count}"
        folder.mkdir()
        spec = {
            "model": settings["model"],
            "training": settings["training"],
            "data": self._data,
            "tokenizer": str(self._folder / "tokenizer"),
            "folder": str(folder),
            "length": self._length,
            "minutes": self._minutes,
            "evaluations": self._evaluations,
            "seed": seed,
            "threads": self._threads,
        }
        answer = run_python(Path(__file__), spec, clean_environment(self._threads), name=f"{name} on prose")
        points = [
            Point(loss=self._bits_per_byte(folder, int(moment["step"]), self._curve), **moment)
            for moment in answer["moments"]
        ]
        final = self._bits_per_byte(folder, points[-1].step, self._final)
        shutil.rmtree(folder)
        print(
            f"prose, seed {seed}: {name} ends at {final:.4f} bits per byte after {points[-1].step:,} steps, "
            f"{points[-1].wall:.1f} s ({points[-1].cpu:.1f} s of processor time)",
            flush=True,
        )
        return Run(points, {**answer["facts"], "bits_per_byte": round(final, 4)})

    def _bits_per_byte(self, folder: Path, step: int, texts: Sequence[str]) -> float:
        model = TransformerLM.from_pretrained(snapshot(folder, step))
        return evaluate_documents(model, self._tokenizer, texts, context=self._length // 4).bits_per_byte

    def hold(self, usual: Settings, rates: Sequence[float], ours: Settings, seeds: int) -> dict[str, Any]:
        """Find the usual recipe's learning rate on the first seed, then both sides in turns for every seed."""
        grid = {rate: self.run(_with_rate(usual, rate), 0, name=f"{USUAL}, rate {rate:g}") for rate in rates}
        best = min(grid, key=lambda rate: float(grid[rate].facts["bits_per_byte"]))
        sides = {USUAL: _with_rate(usual, best), OURS: ours}
        runs: dict[str, list[Run]] = {USUAL: [grid[best]], OURS: []}
        for seed in range(seeds):
            for name in in_turns(list(sides), seed):
                if not (name == USUAL and seed == 0):  # that one is the grid's
                    runs[name].append(self.run(sides[name], seed, name=name))
        return {"rates": {f"{rate:g}": run.facts["bits_per_byte"] for rate, run in grid.items()}, "runs": runs}


def summary(outcome: Settings) -> dict[str, Any]:
    """Bits per byte of each seed and the medians, and how soon ours was where the usual recipe ended."""
    runs: dict[str, list[Run]] = outcome["runs"]
    seeds = []
    for usual, ours in zip(runs[USUAL], runs[OURS], strict=True):
        reached = first_at_or_below(ours.points, usual.last.loss)
        theirs, mine = usual.facts["bits_per_byte"], ours.facts["bits_per_byte"]
        seeds.append(
            {
                "usual_bits_per_byte": theirs,
                "our_bits_per_byte": mine,
                "gain": round(theirs - mine, 4),
                "our_seconds_to_their_end": None if reached is None else round(reached.wall, 2),
                "times_faster": None if reached is None else round(usual.last.wall / reached.wall, 3),
            }
        )
    return {
        "unit": "bits per byte",
        "usual_learning_rates": outcome["rates"],
        "seeds": seeds,
        "gain": round(statistics.median(seed["gain"] for seed in seeds), 4),
        "runs": {
            name: [{"points": [point.to_dict() for point in run.points], **run.facts} for run in side]
            for name, side in runs.items()
        },
    }


def _with_rate(settings: Settings, rate: float) -> dict[str, Any]:
    return {**settings, "training": {**settings["training"], "learning_rate": rate}}


def _up_to(texts: Any, limit: int) -> list[str]:
    """Whole documents until there are so many bytes; a longer one is cut to what is still wanted."""
    kept: list[str] = []
    used = 0
    for text in texts:
        if used >= limit:
            break
        data = text.encode("utf-8")[: limit - used]
        kept.append(data.decode("utf-8", errors="ignore"))
        used += len(data)
    return kept


if __name__ == "__main__":
    print(json.dumps(train(json.loads(sys.argv[1]))))
