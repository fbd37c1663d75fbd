"""The stand-ins with which the documented snippets run on any machine, offline: small local texts and tiny models.

The snippets themselves are never changed. Three numbers are, because a test may not take hours: a vocabulary may turn
out smaller than asked for (the texts are small), scripts and examples stop after two steps, and the text that every
machine has is replaced by the small one.
"""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import Any

import pytest

import llm_trainer.cli.train
from llm_trainer.tokenizer import BPETokenizer
from llm_trainer.training import Trainer

REPOSITORY = Path(__file__).parents[2]
HUB_NAMES = ("mistralai/Mistral-7B-Instruct-v0.2", "microsoft/DialoGPT-medium")
SHORTER = {"max_steps": 2, "gradient_accumulation_steps": 1, "batch_size": 2, "device": "cpu", "report_to": []}
SHORTER_WORDS = [
    *(f"training.{key}={value}" for key, value in SHORTER.items()),
    "data.max_length=32",
    "model.n_layers=1",
]


def sentences(count: int, seed: int) -> list[str]:
    """Random sentences of a few dozen words."""
    generator = random.Random(seed)
    words = ["river", "house", "letter", "reads", "opens", "slowly", "the", "a", "and", "quiet", "Ω", "naïve", "🙂"]
    return [" ".join(generator.choices(words, k=40)) for _ in range(count)]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a clone, with the named data sets and models beside it."""
    home = tmp_path / "clone"
    home.mkdir()
    for name in ("scripts", "configs", "examples"):
        (home / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(home)
    texts = tmp_path / "texts"
    write_texts(texts / "wikitext" / "wikitext-2-raw-v1", {"train": 20, "validation": 3})
    write_texts(texts / "your_dataset", {"train": 20})
    write_texts(texts / "HuggingFaceTB" / "cosmopedia-20k", {"train": 5})
    monkeypatch.setenv("LLM_TRAINER_DATA", str(texts))
    accept_small_vocabularies(monkeypatch)
    return home


def write_texts(folder: Path, splits: dict[str, int]) -> None:
    """A data set as a folder with one JSON-lines file a split."""
    import json

    folder.mkdir(parents=True)
    for seed, (split, count) in enumerate(splits.items()):
        lines = [json.dumps({"text": text}) for text in sentences(count, seed)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def accept_small_vocabularies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train on small texts although a vocabulary of tens of thousands was asked for."""
    original = BPETokenizer.train_from_iterator

    @functools.wraps(original)  # what can be chosen is read from the signature
    def smaller(self: BPETokenizer, *arguments: Any, **options: Any) -> BPETokenizer:
        return original(self, *arguments, **{**options, "allow_smaller": True})

    monkeypatch.setattr(BPETokenizer, "train_from_iterator", smaller)


@pytest.fixture
def hub_models(workplace: Path) -> Path:
    """Folders with the names that the snippets load from the hub."""
    transformers = pytest.importorskip("transformers")
    tokenizer = BPETokenizer().train_from_iterator(sentences(20, 0), vocab_size=300)
    for name in HUB_NAMES:
        tokenizer.save_pretrained(workplace / name)
    shape = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64, "vocab_size": tokenizer.vocab_size}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape)).save_pretrained(workplace / "gpt2")
    return workplace


@pytest.fixture
def shorter(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts and examples stop after two small steps, on a small text."""
    from llm_trainer.corpus import resolve

    small = workplace.parent / "builtin"
    small.mkdir()
    for number, text in enumerate(sentences(40, 2)):
        (small / f"{number}.txt").write_text(text, encoding="utf-8")
    options = resolve.ReadOptions(text_column="text", documents="file", encoding="utf-8")
    monkeypatch.setattr(resolve, "BuiltinSource", lambda: resolve.PathSource([small], "builtin", options))
    original_training = llm_trainer.cli.train.run_training

    def run_training(config: str | None, overrides: list[str], **options: Any) -> None:
        original_training(config, [*SHORTER_WORDS, *overrides], **options)

    original_trainer = Trainer.__init__

    def new_trainer(self: Trainer, *arguments: Any, **options: Any) -> None:
        original_trainer(self, *arguments, **options)
        for name, value in SHORTER.items():
            setattr(self.config, name, value)

    monkeypatch.setattr(llm_trainer.cli.train, "run_training", run_training)
    monkeypatch.setattr(Trainer, "__init__", new_trainer)
