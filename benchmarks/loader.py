"""How fast does the token cache pack and read, and does training ever wait for it? Beside a plain memory-mapped file.

- **packing**: fitting alone (documents a second), and the whole of it with the share that tokenizing takes; 8 times the
  text against 8 times the time.
- **size**: of each codec against plain uint16 and int64.
- **reading**: sequences in the shuffled order and one after the other, from the page cache, on one thread, for each
  codec; beside ``numpy.memmap`` as nanoGPT reads it (random offsets of a plain uint16 file, the same batches).
- **waiting**: the share of the time of a training step (4 layers, 128 wide, 12 x 64 tokens: the fastest CPU shape
  there is) that is spent waiting for the next batch.

    python benchmarks/loader.py                       # sources of the running Python
    python benchmarks/loader.py --text FILE FOLDER    # your text

The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import fail, machine, now, print_table

from llm_trainer.config import ModelConfig
from llm_trainer.corpus import open_paths
from llm_trainer.data import PackedLoader, TokenCache, build_cache, pack
from llm_trainer.data.codecs import CODECS
from llm_trainer.data.encoding import document_texts, encode_documents
from llm_trainer.data.order import EpochOrder
from llm_trainer.data.token_files import export_tokens
from llm_trainer.models import TransformerLM
from llm_trainer.tokenizer import BPETokenizer

SEQ_LEN = 512
BATCH = 64
ROUNDS = 3
UNIT_TOKENS = 2_000_000


def best_of(work: Callable[[], Any], rounds: int = ROUNDS) -> tuple[float, Any]:
    """The smallest processor time of some rounds, and what the work gave."""
    times, result = [], None
    for _ in range(rounds):
        start = now()
        result = work()
        times.append(now().cpu - start.cpu)
    return min(times), result


def read_all(cache: TokenCache, order: np.ndarray) -> int:
    """Read sequences in batches, as int64 copies; returns the tokens."""
    tokens = 0
    for first in range(0, len(order), BATCH):
        for sequence in cache.read(order[first : first + BATCH]):
            tokens += len(sequence.tokens.astype(np.int64))
    return tokens


def scan_all(cache: TokenCache) -> int:
    """Go through all blocks in order, as int64 copies; returns the tokens."""
    return sum(len(block.tokens.astype(np.int64)) for block in cache.scan())


def read_memmap(path: Path, rows: int, offsets: np.ndarray) -> int:
    """The same number of sequences from a plain file, as nanoGPT reads them."""
    tokens = 0
    for first in range(0, rows, BATCH):
        data = np.memmap(path, dtype=np.uint16, mode="r")  # it opens the file for each batch
        for offset in offsets[first : first + BATCH].tolist():
            tokens += len(data[offset : offset + SEQ_LEN].astype(np.int64))
    return tokens


def measure_packing(texts: list[str], tokenizer: BPETokenizer, folder: Path) -> dict[str, float]:
    """Fitting alone, the whole, and how both grow."""
    lengths = np.random.default_rng(0).lognormal(6.2, 1.1, 1_000_000).astype(np.int64) + 1
    fitting, _ = best_of(lambda: pack(lengths[:125_000], SEQ_LEN), rounds=2)
    fitting8, _ = best_of(lambda: pack(lengths, SEQ_LEN), rounds=2)
    ends = np.cumsum(lengths)
    borders = [0, *np.searchsorted(ends, np.arange(UNIT_TOKENS, ends[-1], UNIT_TOKENS)).tolist(), len(lengths)]
    in_units, _ = best_of(lambda: [pack(lengths[a:b], SEQ_LEN) for a, b in pairwise(borders)], rounds=1)
    encoding, _ = best_of(lambda: sum(len(b.tokens) for b in encode_documents(document_texts(texts), tokenizer)), 1)

    def build(number: list[int], documents: list[str]) -> TokenCache:
        number[0] += 1
        return build_cache(documents, tokenizer, folder / f"pack-{number[0]}", seq_len=SEQ_LEN)

    count = [0]
    whole, cache = best_of(lambda: build(count, texts), 1)
    part, _ = best_of(lambda: build(count, texts[: len(texts) // 8]), 1)
    share = sum(map(len, texts)) / max(1, sum(map(len, texts[: len(texts) // 8])))
    return {
        "fitting_documents_per_second": len(lengths) / fitting8,
        "fitting_8x": fitting8 / fitting,
        "fitting_in_units_documents_per_second": len(lengths) / in_units,
        "tokens_per_second": cache.manifest.totals()["tokens"] / whole,
        "tokenizing_share": encoding / whole,
        "text_ratio": share,
        "time_ratio": whole / part,
    }


def measure_reading(cache: TokenCache, plain: Path) -> dict[str, float]:
    """Shuffled and sequential, in tokens a second of processor time; the plain file with as many random reads."""
    rows = len(cache)
    order = EpochOrder(cache.block_starts, rows, seed=0).indices(0, rows)
    offsets = np.random.default_rng(0).integers(0, plain.stat().st_size // 2 - SEQ_LEN, rows)
    cache.verify()  # everything is in the page cache then
    shuffled, tokens = best_of(lambda: read_all(TokenCache.open(cache.folder), order))
    sequential, _ = best_of(lambda: scan_all(TokenCache.open(cache.folder)))
    mapped, mapped_tokens = best_of(lambda: read_memmap(plain, rows, offsets))
    return {
        "shuffled": tokens / shuffled,
        "sequential": tokens / sequential,
        "memmap": mapped_tokens / mapped,
    }


def measure_waiting(cache: TokenCache, steps: int, seq_len: int = 64) -> dict[str, float]:
    """The share of a step's time spent waiting for the batch, with one worker thread."""
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=8192, d_model=128, n_heads=4, n_layers=4, max_seq_len=seq_len)
    model = TransformerLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    batches = iter(PackedLoader(cache, 12, num_workers=1).batches(0))
    waits, wholes = [], []
    for step in range(steps + 5):
        start = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - start
        loss = model(batch["input_ids"], labels=batch["labels"], document_ids=batch.get("document_ids")).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= 5:
            waits.append(waited)
            wholes.append(time.perf_counter() - start)
    return {"share": sum(waits) / sum(wholes), "step_ms": 1000 * statistics.median(wholes)}


def documents(paths: list[str], megabytes: float) -> Iterator[str]:
    """Texts up to a size."""
    left = megabytes * 1e6
    for document in open_paths(paths, validation_fraction=0):
        yield document.text
        left -= len(document.text)
        if left <= 0:
            return


def main() -> None:
    """Measure all of it and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="+", help="files or folders; left out: Python's own sources")
    parser.add_argument("--megabytes", type=float, default=60, help="of text")
    parser.add_argument("--steps", type=int, default=200, help="training steps in which to look for waiting")
    options = parser.parse_args()
    torch.set_num_threads(1)
    texts = list(documents(options.text or [sysconfig.get_path("stdlib")], options.megabytes))
    if sum(map(len, texts)) < 1e6:
        fail("give at least a megabyte of text")
    tokenizer = BPETokenizer().train_from_iterator(texts[: len(texts) // 2], 8192, allow_smaller=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result: dict[str, Any] = {"megabytes": sum(map(len, texts)) / 1e6}
        result["packing"] = measure_packing(texts, tokenizer, folder)
        rows = []
        for codec in CODECS:
            cache = build_cache(texts, tokenizer, folder / codec, seq_len=SEQ_LEN, codec=codec)
            (plain,) = export_tokens(cache, folder / f"{codec}.bin", "nanogpt")
            reading = measure_reading(cache, plain)
            saved = cache.manifest.totals()["size_reduction"]
            result[codec] = {**reading, "saved": saved}
            rows.append(
                [
                    codec,
                    f"{reading['shuffled'] / 1e6:.0f} M/s",
                    f"{reading['sequential'] / 1e6:.0f} M/s",
                    f"{reading['memmap'] / 1e6:.0f} M/s",
                    f"{saved['uint16']:.0%}",
                    f"{saved['int64']:.0%}",
                ]
            )
        torch.set_num_threads(2)
        short = build_cache(texts, tokenizer, folder / "short", seq_len=64)
        result["waiting"] = measure_waiting(short, options.steps)
    print_table([["codec", "shuffled", "in order", "memmap, random", "less than uint16", "less than int64"], *rows])
    packing = result["packing"]
    print(
        f"\nfitting alone: {packing['fitting_documents_per_second'] / 1e6:.2f} M documents/s "
        f"(8x the documents: {packing['fitting_8x']:.1f}x the time; in units of {UNIT_TOKENS // 1_000_000} M tokens: "
        f"{packing['fitting_in_units_documents_per_second'] / 1e6:.2f} M)\n"
        f"packing from text: {packing['tokens_per_second'] / 1e6:.2f} M tokens/s, {packing['tokenizing_share']:.0%} of "
        f"it tokenizing; {packing['text_ratio']:.1f}x the text: {packing['time_ratio']:.1f}x the time\n"
        f"waiting for data: {result['waiting']['share']:.2%} of a step of {result['waiting']['step_ms']:.1f} ms"
    )
    print(json.dumps({**result, **machine(1)}))


if __name__ == "__main__":
    main()
