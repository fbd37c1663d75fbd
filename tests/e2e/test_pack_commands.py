"""The token cache from the command line: pack, look, damage, repair, train on it while it grows, mix."""

from __future__ import annotations

import math
import re
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from llm_trainer.common.files import write_bytes
from llm_trainer.common.leases import packer_at_work
from llm_trainer.data import TokenCache
from llm_trainer.data.chunk import ChunkReader
from llm_trainer.data.growing import GrowingLoader
from llm_trainer.data.manifest import chunk_files
from llm_trainer.monitoring.metrics import read_metrics
from llm_trainer.workflows.pack import pack_text
from tests.e2e.conftest import TINY, llm_trainer
from tests.e2e.test_scripts_and_examples import run_script

SCRIPT = "scripts/sequence_packing_cache.py"


@pytest.fixture
def packed(corpus: Path, workplace: Path) -> Path:
    """A cache of several chunks, made by the documented script."""
    outcome = run_script(SCRIPT, "--text", corpus, "--seq_len", 64, "--chunk_mb", 0.002, "-o", "my_cache")
    assert outcome.code == 0, outcome.err
    return workplace / "my_cache"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in chunk_files(folder)}


@pytest.mark.covers("R207", "R216", "R226")
def test_the_script_packs_and_says_how_far_it_is(corpus: Path, workplace: Path) -> None:
    outcome = run_script(SCRIPT, "--text", corpus, "--seq_len", 64)
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("SEQUENCE PACKING CACHE GENERATION\n=====")
    assert re.search(
        r"Progress: \d+/\d+ samples \(100\.0%\)\nCache: \d+ chunks? created\nSpeed: [\d,]+ samples/sec", outcome.out
    )
    assert "100.00% of the tokens kept" in outcome.out
    (folder,) = (workplace / "cache").iterdir()
    assert len(TokenCache.open(folder)) > 10
    assert (folder / "tokenizer" / "tokenizer.json").is_file()


@pytest.mark.covers("R208", "R228")
def test_what_is_damaged_is_named_with_the_command_that_repairs_it(corpus: Path, packed: Path) -> None:
    before = contents(packed)
    assert "all blocks good" in llm_trainer("data", "verify", packed).out
    first, second, third = chunk_files(packed)[:3]
    first.unlink()
    third.write_bytes(third.read_bytes()[:-1] + b"?")
    outcome = llm_trainer("data", "verify", packed)
    outcome.assert_one_message("missing or damaged: chunks 0, 2 (documents ", "--mode inverse")
    again = ["--text", corpus, "--seq_len", 64, "--chunk_mb", 0.002, "-o", packed]
    kept = second.stat().st_mtime_ns
    outcome = run_script(SCRIPT, *again, "--mode", "inverse")
    assert outcome.code == 0, outcome.err
    assert "missing: chunks 0, 2 (documents " in outcome.out
    assert contents(packed) == before
    assert second.stat().st_mtime_ns == kept
    assert "all blocks good" in llm_trainer("data", "verify", packed).out


@pytest.mark.covers("R209")
def test_force_rebuild_makes_everything_again(corpus: Path, packed: Path) -> None:
    before = contents(packed)
    kept = chunk_files(packed)[0].stat().st_mtime_ns
    outcome = run_script(
        SCRIPT, "--text", corpus, "--seq_len", 64, "--chunk_mb", 0.002, "-o", packed, "--force-rebuild"
    )
    assert outcome.code == 0, outcome.err
    assert contents(packed) == before
    assert chunk_files(packed)[0].stat().st_mtime_ns != kept
    outcome = run_script(SCRIPT, "--text", corpus, "--seq_len", 32, "-o", packed)
    outcome.assert_one_message("holds another cache: seq_len 64 (not 32)", "--force-rebuild")
    run_script(SCRIPT, "--text", corpus, "--mode", "sideways", "-o", packed).assert_one_message("no mode 'sideways'")
    run_script(SCRIPT, "--text", corpus, "--mode", "inverse", "-o", "new").assert_one_message("no cache with gaps")
    assert not Path("new").exists()


@pytest.mark.covers("R225")
def test_training_needs_nothing_but_the_cache(corpus: Path, workplace: Path) -> None:
    pack = ["--text", corpus, "--seq_len", 64, "--validation_fraction", 0.2, "-o", "c"]
    assert llm_trainer("data", "pack", *pack).code == 0
    words = [word for word in TINY if not word.startswith(("data.", "tokenizer."))]
    outcome = llm_trainer("train", "data.cache=c", *words, "--output_dir", "run")
    assert outcome.code == 0, outcome.err
    assert "tokenizer.path = c/tokenizer: the one that the cache was made with" in outcome.out
    assert "validation loss" in outcome.out
    outcome = llm_trainer("train", "data.cache=c", f"data.dataset_name={corpus}", *words, "--output_dir", "other")
    outcome.assert_one_message("either a packed cache or the text itself")
    llm_trainer("train", "data.cache=nowhere", *words, "--output_dir", "x").assert_one_message("plan.json")
    assert not (workplace / "x").exists()


@pytest.mark.covers("R220")
def test_training_takes_in_what_is_packed_meanwhile(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All chunks but two are taken away, and come back one after the other once the run has begun."""
    away = [(path, path.read_bytes()) for path in chunk_files(packed)[2:]]
    for path, _ in away:
        path.unlink()
    (packed / "manifest.json").unlink()

    def bring_back() -> None:
        for path, content in away:
            write_bytes(path, content)
            time.sleep(0.02)

    packer = threading.Thread(target=bring_back)
    grow = GrowingLoader.grow

    def grow_and_begin(loader: GrowingLoader, units: list[int]) -> None:
        grow(loader, units)
        if len(loader.segments) == 1:
            packer.start()

    monkeypatch.setattr(GrowingLoader, "grow", grow_and_begin)
    words = [word for word in TINY if not word.startswith(("data.", "tokenizer.", "training.max_steps"))]
    outcome = llm_trainer("train", f"data.cache={packed}", "training.num_epochs=1", *words, "--output_dir", "run")
    packer.join()
    assert outcome.code == 0, outcome.err
    assert "2 of" in outcome.out
    assert "the cache has grown" in outcome.out + outcome.err
    total = sum(ChunkReader(path).info.sequences for path in chunk_files(packed))
    assert read_metrics(Path("run"))[-1]["step"] == math.ceil(total / 4)


def test_a_mixture_is_named_in_the_configuration(corpus: Path, workplace: Path, tmp_path: Path) -> None:
    (workplace / "other.txt").write_text("One more text about rivers and windows. " * 200)
    Path("mix.yaml").write_text(f"data: {{mixture: {{{corpus}: 75, other.txt: 25}}, validation_fraction: 0.2}}\n")
    words = [word for word in TINY if not word.startswith("data.")]
    outcome = llm_trainer("train", "mix.yaml", "data.max_length=64", *words, "--output_dir", "run")
    assert outcome.code == 0, outcome.err
    shares = [
        float(share) for share in re.findall(r"(\d+\.\d)%", outcome.out.split("of the tokens,")[1].split("\n")[0])
    ]
    assert shares == pytest.approx([75, 25], abs=1)
    Path("mix.yaml").write_text("data: {mixture: {gone/: 75}}\n")
    llm_trainer("train", "mix.yaml", *words, "--output_dir", "x").assert_one_message("no file or folder gone/")
    Path("mix.yaml").write_text("data: {mixture: {a: 0}}\n")
    llm_trainer("train", "mix.yaml", *words, "--output_dir", "x").assert_one_message("share of a must be above 0")


def test_a_mixture_of_caches_needs_no_text_and_no_tokenizer_and_validates_in_its_shares(
    corpus: Path, workplace: Path
) -> None:
    pack = ["data", "pack", "--text", corpus, "--seq_len", 64, "--validation_fraction", 0.2]
    assert llm_trainer(*pack, "-o", "a").code == 0
    assert llm_trainer(*pack, "--packing", "concat", "--tokenizer", "a/tokenizer", "-o", "b").code == 0
    Path("mix.yaml").write_text("data: {mixture: {a: 75, b: 25}}\n")
    words = [word for word in TINY if not word.startswith(("data.", "tokenizer."))]
    outcome = llm_trainer("train", "mix.yaml", *words, "--output_dir", "run")
    assert outcome.code == 0, outcome.err
    assert "tokenizer.path = a/tokenizer: the one that the cache was made with" in outcome.out
    assert "validation loss" in outcome.out
    Path("mix.yaml").write_text(f"data: {{mixture: {{a: 75, {corpus}: 25}}, validation_fraction: 0.2}}\n")
    outcome = llm_trainer("train", "mix.yaml", *words, "--output_dir", "with_text")
    assert outcome.code == 0, outcome.err
    assert "validation loss" in outcome.out
    assert llm_trainer("train", "mix.yaml", *words, "--dry-run").code == 0


@pytest.mark.covers("R209", "R225")
def test_the_tokenizer_in_the_cache_is_the_one_it_was_packed_with(corpus: Path, packed: Path) -> None:
    """Rebuilt with another tokenizer, the cache must not keep the old one inside."""
    Path("other.txt").write_text("another zebra quickly xylophone " * 50)
    other = ["--text", "other.txt", "--seq_len", 64, "-o", "other"]
    assert llm_trainer("data", "pack", *other).code == 0
    again = ["--text", corpus, "--seq_len", 64, "--tokenizer", "other/tokenizer", "-o", packed]
    inside = (packed / "tokenizer" / "tokenizer.json").read_bytes()
    llm_trainer("data", "pack", *again).assert_one_message("holds another cache: tokenizer", "--force-rebuild")
    assert (packed / "tokenizer" / "tokenizer.json").read_bytes() == inside
    assert llm_trainer("data", "pack", *again, "--force-rebuild").code == 0
    assert (packed / "tokenizer" / "tokenizer.json").read_bytes() != inside
    words = [word for word in TINY if not word.startswith(("data.", "tokenizer."))]
    assert llm_trainer("train", f"data.cache={packed}", *words, "--output_dir", "run").code == 0


@pytest.mark.covers("R227")
def test_without_its_cache_a_run_packs_the_text_again(corpus: Path, workplace: Path) -> None:
    losses = []
    for name in ("first", "second"):
        outcome = llm_trainer("train", f"data.dataset_name={corpus}", *TINY, "--output_dir", name)
        assert outcome.code == 0, outcome.err
        losses.append([row["train/loss"] for row in read_metrics(Path(name)) if "train/loss" in row])
        assert any(Path("cache").rglob("manifest.json"))
        shutil.rmtree("cache")
    assert losses[0] == losses[1] != []


@pytest.mark.covers("R220")
def test_training_begins_before_there_is_a_plan(corpus: Path, workplace: Path) -> None:
    """The packer is still training its tokenizer when the run is started, as the documentation shows it."""
    begun = threading.Event()

    def pack() -> None:
        with packer_at_work(Path("late")):
            begun.set()
            time.sleep(0.3)
            pack_text(
                Path("late"),
                tokenizer_dir=None,
                paths=[str(corpus)],
                dataset="builtin",
                split="train",
                seq_len=64,
                packing="bfd",
                compression="lz4",
                validation_fraction=0.2,
                unit_bytes=2000,
                mode="normal",
                workers=1,
                force_rebuild=False,
                echo=lambda line: None,
            )

    packer = threading.Thread(target=pack)
    packer.start()
    begun.wait()
    words = [word for word in TINY if not word.startswith(("data.", "tokenizer.", "training.max_steps"))]
    outcome = llm_trainer("train", "data.cache=late", "training.num_epochs=1", *words, "--output_dir", "run")
    packer.join()
    assert outcome.code == 0, outcome.err
    assert read_metrics(Path("run"))[-1]["step"] == math.ceil(len(TokenCache.open("late")) / 4)


def test_tokens_go_to_nanogpt_and_back(packed: Path) -> None:
    assert llm_trainer("data", "export", packed, "-o", "train.bin").code == 0
    tokens = np.fromfile("train.bin", dtype=np.uint16)
    cache = TokenCache.open(packed)
    assert len(tokens) == cache.manifest.totals()["tokens"]
    back = ["data", "import", "train.bin", "--tokenizer", packed / "tokenizer", "-o", "again", "--seq_len", 64]
    assert llm_trainer(*back).code == 0
    assert TokenCache.open("again").manifest.totals()["tokens"] == len(tokens)
    llm_trainer(*back).assert_one_message("holds a cache already")
