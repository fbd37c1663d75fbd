"""The race on characters: nanoGPT's documented recipe for a CPU against ours, on the same text, split and evaluation.

Both sides train in fresh processes of their own and leave snapshots, which are evaluated here afterwards by the same
code: the whole validation text in windows of 64 characters. ``time_to_loss.py`` starts this.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nanogpt_train
import numpy as np
import torch
from common import clean_environment, fail, run_python
from curves import Point, Snapshots, first_at_or_below, snapshot, windows_loss
from peers import load_module
from torch import Tensor

from llm_trainer.config import ModelConfig, TrainingConfig
from llm_trainer.models import TransformerLM
from llm_trainer.training import Trainer
from llm_trainer.training.utils import seed_everything

TRAIN_SHARE = 0.9
ENDLESS = 1_000_000_000
Settings = Mapping[str, Any]


# ---------------------------------------------------------------------- text


def write_text(text: str, folder: Path) -> int:
    """Write the text as nanoGPT's loader expects it: ids in the order of the characters, the first 90 % to train on.

    Returns:
        The number of different characters.
    """
    characters = sorted(set(text))
    numbers = {character: index for index, character in enumerate(characters)}
    ids = np.array([numbers[character] for character in text], dtype=np.uint16)
    border = int(len(ids) * TRAIN_SHARE)
    folder.mkdir(parents=True)
    ids[:border].tofile(folder / "train.bin")
    ids[border:].tofile(folder / "val.bin")
    # nanoGPT reads the size of the vocabulary from a pickle; we only write it.
    import pickle

    content = {"vocab_size": len(characters), "stoi": numbers, "itos": dict(enumerate(characters))}
    (folder / "meta.pkl").write_bytes(pickle.dumps(content))
    return len(characters)


def read_ids(file: Path) -> Tensor:
    """(tokens,) int64."""
    return torch.from_numpy(np.fromfile(file, dtype=np.uint16).astype(np.int64))


class RandomWindows:
    """Windows that begin anywhere, as nanoGPT draws them; the loader that ``Trainer.fit`` takes.

    A window has one character more than the block, so that each of its positions has a target, as nanoGPT's do.
    """

    fingerprint = "characters"

    def __init__(self, ids: Tensor, block: int, batch_size: int, seed: int) -> None:
        self._ids, self._length, self._batch_size, self._seed = ids, block + 1, batch_size, seed

    def __len__(self) -> int:
        return ENDLESS

    def batches(self, start: int, stop: int | None) -> Iterator[dict[str, Tensor]]:
        """Without end: the Trainer decides when it has enough."""
        generator = torch.Generator().manual_seed(self._seed)
        offsets = torch.arange(self._length)
        while True:
            starts = torch.randint(len(self._ids) - self._length + 1, (self._batch_size, 1), generator=generator)
            input_ids = self._ids[starts + offsets]  # (batch, block + 1)
            labels = input_ids.clone()
            labels[:, 0] = -100
            yield {"input_ids": input_ids, "labels": labels}


# ---------------------------------------------------------------------- both sides


@dataclass
class Run:
    """One side, one seed."""

    points: list[Point]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def last(self) -> Point:
        """Where it ended."""
        return self.points[-1]


def train(spec: Settings) -> dict[str, Any]:
    """Our side, in a process of its own."""
    torch.set_num_threads(spec["threads"])
    config = TrainingConfig.from_dict({"device": "cpu", **spec["training"], "seed": spec["seed"]})
    seed_everything(config.seed)
    shape = {"vocab_size": spec["vocabulary"], "max_seq_len": spec["block"] + 1, **spec["model"]}
    model = TransformerLM(ModelConfig.from_dict(shape))
    clock = Snapshots(Path(spec["folder"]), steps=spec["every"])
    data = RandomWindows(read_ids(Path(spec["data"]) / "train.bin"), spec["block"], config.batch_size, config.seed)
    trainer = Trainer(model, None, config, callbacks=[clock])
    clock.begin()
    result = trainer.fit(data)
    facts = {"steps": result.step, "tokens": result.tokens, "parameters": model.num_parameters(), **clock.chosen}
    return {"moments": clock.moments, "facts": facts}


def run_ours(settings: Settings, limit: Settings, race: Race, seed: int) -> Run:
    """Train ours and evaluate its snapshots.

    Args:
        settings: ``model``, ``training`` and ``every`` (steps between snapshots).
        limit: ``max_steps`` or ``max_minutes``.
        race: the text and the rest.
        seed: of weights and data.
    """
    folder = race.fresh_folder()
    spec = {
        "model": settings["model"],
        "training": {**settings["training"], **limit},
        "every": settings["every"],
        "vocabulary": race.vocabulary,
        "block": race.block,
        "data": str(race.data),
        "folder": str(folder),
        "seed": seed,
        "threads": race.threads,
    }
    answer = run_python(Path(__file__), spec, clean_environment(race.threads), name="ours on characters")
    points = []
    for moment in answer["moments"]:
        model = TransformerLM.from_pretrained(snapshot(folder, int(moment["step"])))
        points.append(Point(loss=race.evaluate(_logits_of(model)), **moment))
    shutil.rmtree(folder)
    return Run(points, answer["facts"])


def _logits_of(model: Any) -> Callable[[Tensor], Tensor]:
    def logits(ids: Tensor) -> Tensor:
        result: Tensor = model(ids).logits
        return result

    return logits


def run_nanogpt(checkout: Path, race: Race, seed: int) -> Run:
    """Run nanoGPT's recipe and evaluate its checkpoints."""
    folder = race.fresh_folder()
    (folder / "data").mkdir()
    shutil.copytree(race.data, folder / "data" / "shakespeare_char")
    shutil.copy(checkout / "configurator.py", folder)  # train.py looks for it in the current folder
    recipe = [str(checkout / "config" / "train_shakespeare_char.py"), *nanogpt_train.RECIPE]
    recipe += nanogpt_train.QUICK if race.quick else []
    steps = nanogpt_train.QUICK_STEPS if race.quick else nanogpt_train.STEPS
    # Every evaluation leaves a checkpoint, or there would be no curve.
    spec = {"checkout": str(checkout), "arguments": [*recipe, "--always_save_checkpoint=True"], "seed": seed}
    script = Path(nanogpt_train.__file__)
    run_python(script, spec, clean_environment(race.threads), name="nanoGPT's train.py", folder=folder)
    times = nanogpt_train.read_times(json.loads((folder / nanogpt_train.LOG).read_text(encoding="utf-8")))
    module = load_module("nanogpt_model", checkout / "model.py")
    points = []
    for file in sorted((folder / nanogpt_train.CHECKPOINTS).glob("*.pt")):
        saved = torch.load(file, weights_only=True)
        with contextlib.redirect_stdout(sys.stderr):  # it prints its size
            model = module.GPT(module.GPTConfig(**saved["model_args"])).eval()
        model.load_state_dict(saved["model"])
        step = int(saved["iter_num"])
        # Given targets, it returns the logits of all positions.
        loss = race.evaluate(lambda ids, model=model: model(ids, ids)[0])  # type: ignore[misc]
        points.append(Point(step, times.wall[step], times.cpu[step], loss))
    shutil.rmtree(folder)
    if not points or points[-1].step != steps:
        fail(f"nanoGPT's train.py in {checkout} left no checkpoint of step {steps}")
    return Run(points, {"own_estimate": times.estimates[steps]})


# ---------------------------------------------------------------------- the race


class Race:
    """The text, and who has run."""

    def __init__(self, text: str, folder: Path, *, block: int, threads: int, quick: bool = False) -> None:
        self.data, self.block, self.threads, self.quick = folder / "text", block, threads, quick
        self.vocabulary = write_text(text, self.data)
        self._folder, self._runs = folder, 0
        self._validation = read_ids(self.data / "val.bin")
        if len(self._validation) <= block:
            fail(f"the text is too short: its last {1 - TRAIN_SHARE:.0%} are fewer than {block} characters")

    def fresh_folder(self) -> Path:
        """For one run."""
        self._runs += 1
        folder = self._folder / f"run-{self._runs}"
        folder.mkdir()
        return folder

    def evaluate(self, logits: Callable[[Tensor], Tensor]) -> float:
        """Nats per character of the whole validation text."""
        return windows_loss(logits, self._validation, self.block)

    def hold(self, settings: Settings, checkout: Path | None, seeds: int) -> dict[str, list[Run]]:
        """Every side once per seed, in changing order: nanoGPT, ours to its own end, ours for nanoGPT's time."""
        runs: dict[str, list[Run]] = {"ours": []}
        if checkout is not None:
            runs |= {"nanoGPT": [], "ours, same time": []}
        for seed in range(seeds):
            order = ["nanoGPT", "ours"] if seed % 2 == 0 else ["ours", "nanoGPT"]
            for name in [*order, "ours, same time"]:
                if name not in runs:
                    continue
                if name == "nanoGPT":
                    assert checkout is not None
                    run = run_nanogpt(checkout, self, seed)
                elif name == "ours":
                    run = run_ours(settings, {"max_steps": settings["steps"]}, self, seed)
                else:
                    run = run_ours(settings, {"max_minutes": runs["nanoGPT"][-1].last.wall / 60}, self, seed)
                runs[name].append(run)
                at = run.last
                print(
                    f"characters, seed {seed}: {name} ends at {at.loss:.4f} after {at.step:,} steps, "
                    f"{at.wall:.1f} s ({at.cpu:.1f} s of processor time)",
                    flush=True,
                )
        return runs


def summary(runs: Mapping[str, list[Run]]) -> dict[str, Any]:
    """Who needed how long to nanoGPT's final loss, seed by seed, and the medians."""
    result: dict[str, Any] = {
        "unit": "nats per character",
        "runs": {
            name: [{"points": [point.to_dict() for point in run.points], **run.facts} for run in side]
            for name, side in runs.items()
        },
    }
    if "nanoGPT" not in runs:
        return result
    seeds = [
        compare(theirs, ours, equal)
        for theirs, ours, equal in zip(runs["nanoGPT"], runs["ours"], runs["ours, same time"], strict=True)
    ]
    result["seeds"] = seeds
    for key in ("times_faster", "times_less_processor_time", "loss_gain_in_equal_time"):
        known = [seed[key] for seed in seeds if seed[key] is not None]
        # A seed that never got there makes the median of the others a lie.
        result[key] = round(statistics.median(known), 4) if len(known) == len(seeds) else None
    return result


def compare(theirs: Run, ours: Run, equal_time: Run) -> dict[str, Any]:
    """One seed. ``times_faster`` is None if ours never reached their final loss."""
    target = theirs.last
    reached = first_at_or_below(ours.points, target.loss)
    return {
        "their_final_loss": round(target.loss, 4),
        "their_own_estimate": theirs.facts.get("own_estimate"),
        "their_seconds": round(target.wall, 2),
        "their_cpu_seconds": round(target.cpu, 2),
        "our_seconds_to_it": None if reached is None else round(reached.wall, 2),
        "our_cpu_seconds_to_it": None if reached is None else round(reached.cpu, 2),
        "our_steps_to_it": None if reached is None else reached.step,
        "times_faster": None if reached is None else round(target.wall / reached.wall, 3),
        "times_less_processor_time": None if reached is None else round(target.cpu / reached.cpu, 3),
        "our_loss_in_equal_time": round(equal_time.last.loss, 4),
        "our_seconds_in_equal_time": round(equal_time.last.wall, 2),
        "loss_gain_in_equal_time": round(target.loss - equal_time.last.loss, 4),
    }


if __name__ == "__main__":
    print(json.dumps(train(json.loads(sys.argv[1]))))
