"""One unit of work: texts in, a chunk on disk out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from llm_trainer.data.chunk import ChunkInfo, PackedSequence, TokenArray, write_chunk
from llm_trainer.data.encoding import TextEncoder, encode_documents
from llm_trainer.data.manifest import Origin, chunk_metadata
from llm_trainer.data.order import stable_permutation
from llm_trainer.data.packing import IntArray, Packing, pack
from llm_trainer.data.plan import Unit
from llm_trainer.data.progress import Tally


def make_chunk(
    path: Path, unit: Unit, texts: list[str], tokenizer: TextEncoder, origin: Origin, *, last: bool, tally: Tally
) -> ChunkInfo:
    """Tokenize, pack and write one unit. The bytes depend on the texts, the unit's number and ``origin`` alone.

    Args:
        path: the file to make.
        unit: its place in the plan.
        texts: its documents.
        tokenizer: what turns text into ids.
        origin: how chunks are made.
        last: whether it is the last unit of the plan.
        tally: told what was done.
    """
    parts: list[TokenArray] = []
    sizes: list[IntArray] = []
    for batch in encode_documents(texts, tokenizer):
        parts.append(batch.tokens.astype(origin.config.dtype))
        sizes.append(batch.lengths)
        tally.add(batch)
    info = write_unit(path, unit, np.concatenate(parts), np.concatenate(sizes), origin, last=last)
    tally.wrote(info)
    return info


def write_unit(
    path: Path, unit: Unit, tokens: TokenArray, lengths: IntArray, origin: Origin, *, last: bool
) -> ChunkInfo:
    """Pack the documents of one unit, end to end in ``tokens``, and write its chunk.

    Args:
        path: the file to make.
        unit: its place in the plan.
        tokens: (tokens,), in the stored type.
        lengths: tokens of each document. (documents,)
        origin: how chunks are made.
        last: whether it is the last unit of the plan.
    """
    config = origin.config
    packing = pack(lengths, config.seq_len, config.packer)
    if config.packer == "bfd":
        # They come longest piece first; mixed, any first part of a cache is a fair sample of it.
        packing = packing.reorder(stable_permutation(len(packing), "unit", unit.number))
    return write_chunk(
        path,
        list(_sequences(tokens, lengths, packing)),
        seq_len=config.seq_len,
        dtype=config.dtype,
        codec=config.codec,
        documents=unit.documents,
        text_bytes=unit.text_bytes,
        tokens_in=len(tokens),
        metadata=chunk_metadata(origin, unit.number, last=last),
    )


def _sequences(tokens: TokenArray, lengths: IntArray, packing: Packing) -> Iterator[PackedSequence]:
    """The rows of a packing, filled with tokens."""
    offsets = (np.cumsum(lengths) - lengths)[packing.document]
    firsts, stops = (offsets + packing.start).tolist(), (offsets + packing.stop).tolist()
    sizes = (packing.stop - packing.start).astype(np.uint32)
    bounds = packing.row_bounds.tolist()
    for begin, end in pairwise(bounds):
        pieces = [tokens[first:stop] for first, stop in zip(firsts[begin:end], stops[begin:end])]
        yield PackedSequence(np.concatenate(pieces), sizes[begin:end])
