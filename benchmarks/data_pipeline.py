"""The corpus pipeline beside datatrove: the same decisions rule by rule, how fast, and how many near duplicates.

- **rules**: every quality rule alone, ours against datatrove's own filter with all other rules off, on the documents
  and on the same documents after damage of random strength; each document that is judged differently is named with
  both values.
- **speed**: processor seconds of all filters over every document; of finding exact and near duplicates (datatrove: its
  four MinHash stages, 14 x 8); of both, one after the other. One process, one thread, from a cold start.
- **recall**: edited copies of excerpts at known Jaccard similarity: how many are found on both sides, and how many that
  are not similar enough are lost.
- **languages**: the declaration of human rights, if the samples are there.

    python benchmarks/data_pipeline.py --peer-python VENV/bin/python --text FILE FOLDER

datatrove is taken from the Python that ``--peer-python`` names (``pip install datatrove spacy tokenizers orjson
'xxhash<3.6'`` in an environment of its own: with newer versions of xxhash its hashes fail).
The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import HERE, clean_environment, fail, in_turns, machine, print_table, run_process
from corpus_texts import damaged, documents, with_copies, write
from language_samples import measure_languages

SIDES = ("ours", "datatrove")
SIMILARITIES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
SHOWN = 5
"""Documents that are named for each rule that differs."""

Ask = Callable[[str, str, Path], dict[str, Any]]
"""``(side, task, file of documents)`` -> answer."""


def asker(peer_python: str | None, folder: Path) -> Ask:
    """How to ask a side: a fresh process, whose answer comes in a file because it is long."""
    scripts = {"ours": (sys.executable, "corpus_side.py"), "datatrove": (peer_python or "", "datatrove_peer.py")}

    def ask(side: str, task: str, texts: Path) -> dict[str, Any]:
        python, script = scripts[side]
        answer = folder / f"{side}-{task}.json"
        spec = json.dumps({"task": task, "documents": str(texts), "answer": str(answer)})
        # A fixed seed for str hashes: what datatrove keeps of a set must be the same in every run.
        environment = clean_environment(1, PYTHONHASHSEED="0")
        run_process([python, "-W", "ignore", str(Path(HERE, script)), spec], environment, name=f"{side}: {task}")
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        return found

    return ask


def peer_is_there(python: str | None) -> bool:
    """Whether datatrove's filters can be imported by that Python; says so if not."""
    if python is None:
        print("datatrove is left out: name a Python that has it with --peer-python")
        return False
    done = subprocess.run(
        [python, "-c", "import datatrove.pipeline.filters, datatrove.pipeline.dedup, spacy, xxhash"],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        print(f"datatrove is left out: {python} cannot import it: {done.stderr.strip().splitlines()[-1:]}")
    return done.returncode == 0


# ---------------------------------------------------------------------- rules


def compare_rules(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """For every rule: how many documents each side drops, the share judged alike, and who is judged differently."""
    judged = set(theirs["values"])
    result = {}
    for rule, dropped in theirs["dropped"].items():
        mine, other = set(ours["dropped"].get(rule, ())) & judged, set(dropped)
        differing = sorted(mine ^ other)
        values = [
            {
                "document": name,
                "ours": ours["values"][name].get(rule),
                "datatrove": theirs["values"][name].get(rule),
            }
            for name in differing
        ]
        unequal = [name for name in judged if theirs["values"][name].get(rule, 0) != ours["values"][name].get(rule, 0)]
        result[rule] = {
            "documents": len(judged),
            "ours": len(mine),
            "datatrove": len(other),
            "equal": 1 - len(differing) / max(len(judged), 1),
            "equal_values": 1 - len(unequal) / max(len(judged), 1),
            "differing": values,
        }
    return result


def print_rules(title: str, result: dict[str, Any]) -> None:
    """A table, and the documents that differ."""
    print(f"\n{title}: {next(iter(result.values()))['documents']} documents")
    rows = [["rule", "ours drops", "datatrove drops", "decided alike", "same value"]]
    for rule, found in result.items():
        counts = [str(found["ours"]), str(found["datatrove"])]
        rows.append([rule, *counts, f"{found['equal']:.3%}", f"{found['equal_values']:.2%}"])
    print_table(rows)
    for rule, found in result.items():
        for one in found["differing"][:SHOWN]:
            print(f"  {rule}: {one['document']}: ours {one['ours']}, datatrove {one['datatrove']}")


def measure_rules(texts: Sequence[tuple[str, str]], ask: Ask, folder: Path) -> dict[str, Any]:
    """Rule by rule, on real and on damaged documents."""
    result = {}
    for title, some in (("as they are", texts), ("damaged", damaged(texts))):
        file = write(some, folder / "rules.jsonl")
        result[title] = compare_rules(ask("ours", "decisions", file), ask("datatrove", "decisions", file))
        print_rules(title, result[title])
    return result


# ---------------------------------------------------------------------- speed


def measure_speed(
    texts: Sequence[tuple[str, str]], sides: Sequence[str], ask: Ask, folder: Path, rounds: int
) -> dict[str, Any]:
    """Seconds and megabytes a second of the filters, of deduplication, and of both in a row."""
    size = sum(len(text.encode()) for _, text in texts) / 1e6
    every = write(texts, folder / "speed.jsonl")
    result: dict[str, Any] = {side: {"filters": [], "duplicates": [], "chain": []} for side in sides}
    for number in range(rounds):
        for side in in_turns(sides, number):
            judged = ask(side, "filters", every)
            kept = set(judged["kept"])
            clean = write([pair for pair in texts if pair[0] in kept], folder / "clean.jsonl")
            alone = ask(side, "near_duplicates", every)
            after = ask(side, "near_duplicates", clean)
            for clock in ("cpu", "wall"):
                result[side].setdefault(clock, []).append(
                    {
                        "filters": judged[clock],
                        "duplicates": alone[clock],
                        "chain": judged[clock] + after[clock],
                    }
                )
            result[side]["kept"] = {"filters": len(kept), "duplicates": len(alone["kept"]), "chain": len(after["kept"])}
    rows = [["", "MB/s of processor time", "MB/s of wall time", "documents kept", "ratio"]]
    summary: dict[str, Any] = {"megabytes": size, "documents": len(texts)}
    for part in ("filters", "duplicates", "chain"):
        speeds = {}
        for side in sides:
            cpu, wall = (
                size / statistics.median(one[part] for one in result[side][clock]) for clock in ("cpu", "wall")
            )
            speeds[side] = cpu
            ratio = f"{speeds['ours'] / cpu:.1f}x" if side != "ours" else ""
            rows.append([f"{part}, {side}", f"{cpu:.2f}", f"{wall:.2f}", str(result[side]["kept"][part]), ratio])
            summary.setdefault(part, {})[side] = {"cpu": cpu, "wall": wall, "kept": result[side]["kept"][part]}
        if "datatrove" in speeds:
            summary[part]["ratio"] = speeds["ours"] / speeds["datatrove"]
    print(f"\n{size:.1f} MB in {len(texts)} documents")
    print_table(rows)
    return summary


# ---------------------------------------------------------------------- recall


def measure_recall(texts: Sequence[tuple[str, str]], sides: Sequence[str], ask: Ask, folder: Path) -> dict[str, Any]:
    """Of edited copies at each similarity: the share that is removed. Below the threshold none should be."""
    copies = with_copies(texts, SIMILARITIES)
    file = write(copies, folder / "copies.jsonl")
    truth = ask("ours", "true_similarity", file)
    originals = [name for name, _ in copies if "~" not in name]
    result: dict[str, Any] = {"excerpts": len(originals)}
    rows = [["copies with similarity", "copies", *(f"removed by {side}" for side in sides)]]
    kept = {side: set(ask(side, "near_duplicates", file)["kept"]) for side in sides}
    for wanted in SIMILARITIES:
        # By their true similarity: an edit may fall on a word that occurs elsewhere too.
        near = [name for name, true in truth.items() if wanted <= true < wanted + 0.02]
        gone = {side: 1 - len(kept[side].intersection(near)) / max(len(near), 1) for side in sides}
        rows.append([f"{wanted:.2f} to {wanted + 0.02:.2f}", str(len(near)), *(f"{gone[side]:.2%}" for side in sides)])
        result[str(wanted)] = {"copies": len(near), **gone}
    unlike = [name for name, true in truth.items() if true < 0.65]
    for title, names in (("copies below 0.65", unlike), ("originals", originals)):
        gone = {side: 1 - len(kept[side].intersection(names)) / max(len(names), 1) for side in sides}
        rows.append([title, str(len(names)), *(f"{gone[side]:.2%}" for side in sides)])
        result[title] = {"texts": len(names), **gone}
    print("\nnear duplicates, threshold 0.8")
    print_table(rows)
    return result


def print_languages(result: dict[str, Any]) -> None:
    """One line, and the confusions."""
    print(
        f"\nlanguages: {result['accuracy']:.2%} of {result['pieces']} pieces in {result['languages']} languages "
        f"({result['accuracy_without_groups']:.2%} without groups), {result['pieces_per_second']:.0f} pieces/s; "
        + ", ".join(f"{pair}: {count}" for pair, count in result["confused"].items())
    )


def main() -> None:
    """Measure what was asked for and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="+", default=[], help="files or folders; left out: what comes with Python")
    parser.add_argument("--peer-python", help="a Python that can import datatrove and spacy")
    parser.add_argument("--megabytes", type=float, default=8, help="of text, taken evenly")
    parser.add_argument("--rounds", type=int, default=1, help="of the speed measurement")
    parser.add_argument("--languages", type=Path, help="udhr.zip of NLTK's corpora")
    parser.add_argument("--parts", nargs="+", default=["rules", "speed", "recall", "languages"])
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    texts = documents(options.text, options.megabytes)
    if sum(len(text) for _, text in texts) < 1e5:
        fail("give at least 100 KB of text")
    sides = SIDES if peer_is_there(options.peer_python) else SIDES[:1]
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ask = asker(options.peer_python, folder)
        if "rules" in options.parts and len(sides) == 2:
            result["rules"] = measure_rules(texts, ask, folder)
        if "speed" in options.parts:
            result["speed"] = measure_speed(texts, sides, ask, folder, options.rounds)
        if "recall" in options.parts:
            result["recall"] = measure_recall(texts, sides, ask, folder)
        if "languages" in options.parts and options.languages:
            result["languages"] = measure_languages(options.languages)
            print_languages(result["languages"])
    print(json.dumps({**result, **machine(1)}))


if __name__ == "__main__":
    main()
