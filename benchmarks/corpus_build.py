"""A whole build of a corpus, from files to documents and report: time, memory, and what a second worker brings.

- **documents**: that many synthetic documents (exact and near copies, repeated passages, addresses and benchmark items
  among them) through every stage; how long it takes, and where the time goes.
- **workers**: the same with one worker and with two, in turns; the ratio of the wall-clock times.
- **memory**: so many gigabytes of text; the largest sum of the resident memory of all its processes.

    python benchmarks/corpus_build.py --documents 100000 --gigabytes 2

The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml
from common import clean_environment, fail, in_turns, machine, print_table

COMMAND = "import sys; from llm_trainer.cli.app import main; sys.argv[0] = 'llm-trainer'; main()"
POLL_SECONDS = 0.1
LITTLE = "the of and to in a is that for it as was with be by on not he his but at are this have from which".split()  # noqa: SIM905
FILES = 16
ITEM = "How many of the nineteen lighthouse keepers had already left the island when the second storm finally arrived?"


def vocabulary(generator: np.random.Generator, size: int = 30_000) -> list[str]:
    """Made-up words of two to four syllables."""
    syllables = [a + b for a in "bdfglmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "il")]
    counts = generator.integers(2, 5, size)
    return ["".join(generator.choice(syllables, count)) for count in counts]


def write_texts(folder: Path, documents: int, words: float, seed: int = 0) -> int:
    """Write documents of about so many words as JSON lines into :data:`FILES` files; returns the bytes of text.

    Words follow Zipf's law, with little English words between them, so that the rules for quality see prose.
    Of a hundred documents about four are near copies and two exact copies of an earlier one, two hold a passage that
    others hold too, one an e-mail address, and one a benchmark item.
    """
    generator = np.random.default_rng(seed)
    known = vocabulary(generator)
    passage = " ".join(known[number] for number in generator.integers(0, len(known), 80))
    earlier: list[str] = []
    size = 0
    for number in range(FILES):
        with (folder / f"{number:03}.jsonl").open("w", encoding="utf-8") as file:
            for place in range(documents * number // FILES, documents * (number + 1) // FILES):
                text = _text(generator, known, words)
                kind = int(generator.integers(100))
                if kind < 6 and earlier:
                    text = earlier[int(generator.integers(len(earlier)))]
                    text = text if kind < 2 else f"{text}\n{known[place % len(known)].capitalize()} and more."
                elif kind < 8:
                    text = f"{text}\n{passage}.\n{_text(generator, known, 50)}"
                elif kind < 9:
                    text += f"\nWrite to {known[place % len(known)]}@{known[place % 977]}.org about it."
                elif kind < 10:
                    text += f"\n{ITEM}"
                if len(earlier) < 2000:
                    earlier.append(text)
                size += len(text.encode("utf-8"))
                file.write(json.dumps({"text": text, "url": f"https://site{place % 500}.org/{place}"}) + "\n")
    return size


def _text(generator: np.random.Generator, known: list[str], mean: float) -> str:
    count = max(60, int(generator.lognormal(np.log(mean), 0.6)))
    ranks = np.minimum(generator.zipf(1.2, count) - 1, len(known) - 1)
    little = generator.random(count) < 0.4
    small = generator.integers(0, len(LITTLE), count)
    words = [LITTLE[s] if is_little else known[rank] for rank, is_little, s in zip(ranks, little, small)]
    sentences = [" ".join(words[start : start + 14]).capitalize() + "." for start in range(0, count, 14)]
    return "\n\n".join(" ".join(sentences[start : start + 5]) for start in range(0, len(sentences), 5))


def write_pipeline(folder: Path, texts: Path) -> Path:
    """A pipeline with every stage."""
    (folder / "items.jsonl").write_text(json.dumps({"question": ITEM, "answer": "seven"}) + "\n", encoding="utf-8")
    definition = {
        "name": "benchmark",
        "unit_mb": 16,
        "sources": [{"name": "web", "paths": [str(texts)], "category": "web", "license": "CC0-1.0"}],
        "clean": {"unicode": {}, "boilerplate": {}, "markup": {}},
        "filters": {
            "length": {},
            "language": {"languages": ["en"], "min_score": 0.0},
            "gopher_quality": {},
            "gopher_repetition": {},
            "c4": {},
            "fineweb": {},
            "toxicity": {},
        },
        "redaction": {},
        "dedup": {"near": {}, "substring": {}},
        "decontaminate": {"benchmarks": [str(folder / "items.jsonl")]},
        "split": {"validation_fraction": 0.02},
        "mix": {"weights": {"web": 1}},
    }
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(definition, sort_keys=False), encoding="utf-8")
    return path


def build(pipeline: Path, output: Path, workers: int) -> dict[str, Any]:
    """Run one build in processes of its own; returns seconds, processor seconds and memory."""
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-c", COMMAND, "data", "build", str(pipeline), f"output_dir={output}"]
    command += ["--workers", str(workers)]
    log = output.with_suffix(".log")
    begin = time.perf_counter()
    peak, largest, children = 0, 0, 0.0
    with log.open("w", encoding="utf-8") as file:
        running = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=clean_environment(1))
        process = psutil.Process(running.pid)
        while running.poll() is None:
            total = 0
            for one in [process, *_children(process)]:
                try:
                    resident = one.memory_info().rss
                except psutil.Error:  # it has just ended
                    continue
                total += resident
                largest = max(largest, resident)
            peak = max(peak, total)
            time.sleep(POLL_SECONDS)
    seconds = time.perf_counter() - begin
    text = log.read_text(encoding="utf-8")
    if running.returncode:
        fail(f"the build failed:\n{text[-2000:]}")
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    children = sum(report["timings"].values())
    return {
        "seconds": round(seconds, 1),
        "processor_seconds_of_steps": round(children, 1),
        "memory_mb": round(peak / 1e6),
        "largest_process_mb": round(largest / 1e6),
        "steps": {name: round(value, 1) for name, value in report["timings"].items()},
        "documents": report["documents"],
        "duplicates": report["duplicates"],
    }


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def main() -> None:
    """Make the texts, build, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--documents", type=int, default=100_000, help="synthetic documents; 0 leaves the part out")
    parser.add_argument("--words", type=float, default=250.0, help="words of a document, about")
    parser.add_argument("--rounds", type=int, default=1, help="rounds of one worker against two; 0 leaves it out")
    parser.add_argument("--gigabytes", type=float, default=0.0, help="text for the memory test; 0 leaves it out")
    parser.add_argument("--folder", type=Path, help="where to work; left out, a temporary folder")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(1)}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        if arguments.documents:
            texts = folder / "texts"
            texts.mkdir()
            size = write_texts(texts, arguments.documents, arguments.words)
            pipeline = write_pipeline(folder, texts)
            print(f"{arguments.documents:,} documents, {size / 1e6:,.0f} MB")
            runs: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
            for number in range(max(1, arguments.rounds)):
                for workers in in_turns([2, 1] if arguments.rounds else [2], number):
                    found = build(pipeline, folder / "corpus", workers)
                    runs[workers].append(found)
                    print(f"{workers} worker(s): {found['seconds']} s, {found['memory_mb']} MB in all its processes")
            rows = [["step", "processor seconds", "MB/s"]]
            for step, seconds in sorted(runs[2][0]["steps"].items(), key=lambda item: -item[1]):
                rows.append([step, f"{seconds:.1f}", f"{size / 1e6 / max(seconds, 0.01):.1f}"])
            print_table(rows)
            result["documents"] = {"count": arguments.documents, "bytes": size, "runs": runs}
            if arguments.rounds:
                ratios = [one["seconds"] / two["seconds"] for one, two in zip(runs[1], runs[2])]
                print(f"two workers against one: {', '.join(f'{ratio:.2f}' for ratio in ratios)} times as fast")
                result["two_workers"] = ratios
            shutil.rmtree(texts)
        if arguments.gigabytes:
            texts = folder / "large"
            texts.mkdir()
            documents = int(arguments.gigabytes * 1e9 / (arguments.words * 8))
            size = write_texts(texts, documents, arguments.words, seed=1)
            found = build(write_pipeline(folder, texts), folder / "corpus", 2)
            print(f"{size / 1e9:.2f} GB of text: {found['memory_mb']} MB resident at most, {found['seconds']} s")
            result["memory"] = {"bytes": size, **found}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
