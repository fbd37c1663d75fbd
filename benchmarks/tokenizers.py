"""Is our byte-level BPE slower than Hugging Face's ``tokenizers``? Same text, same cut, same merges, same ids.

- **training**: 32,000 tokens from the same documents. Each side in a process of its own, taking turns for several
  rounds. The merges must be equal, one by one and in order.
- **encoding**: one long document, and a batch of documents of 4,000 characters as lists and as arrays, by both sides in
  turns in one process.
  The ids must be equal.

Times are processor seconds of all threads and processes, the smallest of the rounds: other programs on the machine
change them least. Memory is the peak of the resident memory of a process and those it starts.

    python benchmarks/tokenizers.py                          # sources of the running Python and its packages
    python benchmarks/tokenizers.py --text FILE FOLDER ...    # your text

The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

# The folder of this file must not be searched first: it would be found when `tokenizers` is imported.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

PATTERN = "gpt4-digits3"
DOCUMENT_CHARACTERS = 4_000
SIDES = ("ours", "tokenizers")


# ---- text ----


def gather(paths: list[str], megabytes: float, target: Path) -> int:
    """Write the text of files and folders, or of Python's own sources, to one file; returns its bytes."""
    roots = [Path(path) for path in paths] or [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    names = (name for root in roots for name in (sorted(root.rglob("*")) if root.is_dir() else [root]))
    wanted = int(megabytes * 1e6)
    size = 0
    with target.open("w", encoding="utf-8", newline="") as out:
        for name in names:
            if size >= wanted:
                break
            if not name.is_file() or (not paths and name.suffix != ".py"):
                continue
            try:
                text = name.read_bytes().decode("utf-8")
            except UnicodeDecodeError:
                continue
            # A letter of the newest Unicode is a letter to some regular expressions only, so cuts would differ.
            if not any(unicodedata.category(character) == "Cn" for character in set(text)):
                size += out.write(text + "\n")
    return target.stat().st_size


def documents(path: str) -> Iterator[str]:
    """The text as documents of about 4,000 characters, read as a stream."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        while text := file.read(DOCUMENT_CHARACTERS):
            yield text + file.readline()


# ---- training ----


def train_ours(path: str, vocab_size: int, threads: int) -> list[list[str]]:
    """Our trainer; returns the merges in GPT-2's printable spelling."""
    from llm_trainer.tokenizer import BPETokenizer
    from llm_trainer.tokenizer.vocabulary import printable

    tokenizer = BPETokenizer().train_from_iterator(documents(path), vocab_size, pattern=PATTERN, workers=threads)
    return [[printable(left), printable(right)] for left, right in tokenizer.vocabulary.merges]


def train_theirs(path: str, vocab_size: int, threads: int) -> list[list[str]]:
    """The trainer of ``tokenizers`` with the same cut; its number of threads is in the environment."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    from llm_trainer.tokenizer.pretokenize import split_pattern

    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(split_pattern(PATTERN)), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,  # ours counts the end-of-text token
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents(path), trainer)
    merges: list[list[str]] = json.loads(tokenizer.to_str())["model"]["merges"]
    return merges


def train_in_process(side: str, path: str, vocab_size: int, threads: int) -> dict[str, Any]:
    """Train in a fresh process and watch its memory from here."""
    import psutil

    command = [sys.executable, __file__, "--child", side, path, str(vocab_size), str(threads)]
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    peak = 0

    def watch() -> None:
        nonlocal peak
        parent = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                family = [parent, *parent.children(recursive=True)]
                peak = max(peak, sum(one.memory_info().rss for one in family))
            except psutil.NoSuchProcess:
                pass  # it ended between being listed and being asked
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    watcher.join()
    if process.returncode:
        sys.exit(f"training by {side} failed")
    result: dict[str, Any] = json.loads(output)
    return {**result, "peak_mb": max(peak / 1e6, result["peak_mb"])}


def child(side: str, path: str, vocab_size: str, threads: str) -> None:
    """Train one side and print what it took and what it learned."""
    import resource

    train = train_ours if side == "ours" else train_theirs
    started = time.perf_counter()
    merges = train(path, int(vocab_size), int(threads))
    seconds = time.perf_counter() - started
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    unit = 1e-6 if sys.platform == "darwin" else 1024e-6
    print(json.dumps({"cpu": cpu, "seconds": seconds, "peak_mb": usages[0].ru_maxrss * unit, "merges": merges}))


def compare_training(path: str, vocab_size: int, threads: int, rounds: int) -> dict[str, Any]:
    """Both sides in turns; the merges must be equal."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for number in range(rounds):
        for side in SIDES if number % 2 == 0 else SIDES[::-1]:
            runs[side].append(train_in_process(side, path, vocab_size, threads))
    merges = {side: results[0].pop("merges") for side, results in runs.items()}
    if merges["ours"] != merges["tokenizers"]:
        first = next(i for i, (a, b) in enumerate(zip(*merges.values())) if a != b)
        sys.exit(f"the merges differ from number {first}: {[merges[side][first] for side in SIDES]}")
    figures = ("cpu", "seconds", "peak_mb")
    best = {side: {name: round(min(run[name] for run in runs[side]), 2) for name in figures} for side in SIDES}
    return {"threads": threads, "merges": len(merges["ours"]), **best}


# ---- encoding ----


def compare_encoding(path: str, vocab_size: int, megabytes: float, rounds: int) -> dict[str, Any]:
    """Both sides in turns on one thread; the ids must be equal. Figures are MB of UTF-8 text a processor second."""
    import numpy as np
    from tokenizers import Tokenizer as TheirTokenizer

    from llm_trainer.tokenizer import BPETokenizer

    ours = BPETokenizer().train_from_iterator(documents(path), vocab_size, pattern=PATTERN)
    with tempfile.TemporaryDirectory() as folder:
        ours.save_pretrained(folder)
        theirs = TheirTokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    texts = list(islice(documents(path), int(megabytes * 1e6) // DOCUMENT_CHARACTERS))
    whole = "".join(texts)
    size = len(whole.encode("utf-8"))
    contests: dict[str, dict[str, Callable[[], Any]]] = {
        "one document": {"ours": lambda: ours.encode(whole), "tokenizers": lambda: theirs.encode(whole).ids},
        "batch": {
            "ours": lambda: ours.encode_batch(texts),
            "tokenizers": lambda: [row.ids for row in theirs.encode_batch(texts)],
        },
        # Their call for those who need no offsets.
        "batch, fast": {
            "ours": lambda: ours.encode_batch(texts),
            "tokenizers": lambda: [row.ids for row in theirs.encode_batch_fast(texts)],
        },
        # What packing asks for.
        "batch, arrays": {
            "ours": lambda: ours.encode_arrays(texts),
            "tokenizers": lambda: [np.array(row.ids) for row in theirs.encode_batch_fast(texts)],
        },
    }
    result: dict[str, Any] = {"bytes": size}
    for name, sides in contests.items():
        best = dict.fromkeys(SIDES, float("inf"))
        for _ in range(rounds):
            ids = {}
            for side in SIDES:
                started = time.process_time()
                ids[side] = sides[side]()
                best[side] = min(best[side], time.process_time() - started)
            first, second = ids.values()
            if not (all(map(np.array_equal, first, second)) if name == "batch, arrays" else first == second):
                sys.exit(f"{name}: the ids differ")
        result[name] = {side: round(size / 1e6 / seconds, 2) for side, seconds in best.items()}
        result[name]["times"] = round(best["tokenizers"] / best["ours"], 1)
    return result


def main() -> None:
    """Measure, print two tables and one JSON line."""
    if sys.argv[1:2] == ["--child"]:
        return child(*sys.argv[2:])
    os.environ["RAYON_NUM_THREADS"] = "1"  # before tokenizers is imported here, for encoding
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="+", default=[], metavar="PATH", help="files and folders; left out: Python")
    parser.add_argument("--megabytes", type=float, default=50, help="text to train on")
    parser.add_argument("--encode_megabytes", type=float, default=5, help="text to encode")
    parser.add_argument("--vocab_size", type=int, default=32_000)
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="threads or processes for training")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        size = gather(options.text, options.megabytes, text)
        print(f"{size / 1e6:.1f} MB of text, {options.vocab_size:,} tokens, tokenizers {version('tokenizers')}")
        training = [compare_training(str(text), options.vocab_size, n, options.rounds) for n in options.threads]
        print(f"\n{'training':<14}{'threads':>8}{'CPU s':>9}{'wall s':>9}{'peak MB':>9}")
        for row in training:
            for side in SIDES:
                figures = row[side]
                print(
                    f"{side:<14}{row['threads']:>8}{figures['cpu']:>9.1f}{figures['seconds']:>9.1f}"
                    f"{figures['peak_mb']:>9.0f}"
                )
        encoding = compare_encoding(str(text), options.vocab_size, options.encode_megabytes, max(5, options.rounds))
    print(f"\n{'encoding, MB/s':<16}{'ours':>8}{'tokenizers':>12}{'times':>8}")
    for name in ("one document", "batch", "batch, fast", "batch, arrays"):
        figures = encoding[name]
        print(f"{name:<16}{figures['ours']:>8.1f}{figures['tokenizers']:>12.2f}{figures['times']:>8.1f}")
    print(json.dumps({"benchmark": "tokenizers", "bytes": size, "training": training, "encoding": encoding}))
    return None


if __name__ == "__main__":
    main()
