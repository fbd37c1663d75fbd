"""Pack text into a cache on its own, to train on it later or elsewhere, or while it is still being packed."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from llm_trainer.common.errors import DataError
from llm_trainer.common.files import human_bytes
from llm_trainer.common.leases import packer_at_work
from llm_trainer.config import DataConfig
from llm_trainer.config.tokenizer import TokenizerConfig
from llm_trainer.corpus import DatasetHandle
from llm_trainer.data import TokenCache, build_cache, format_progress
from llm_trainer.data.build import UNIT_BYTES, Mode, find_gaps, require_something_to_fill
from llm_trainer.data.manifest import MANIFEST, REBUILD_HINT
from llm_trainer.data.plan import describe_gaps
from llm_trainer.data.progress import percent
from llm_trainer.data.token_files import import_tokens, open_token_file
from llm_trainer.tokenizer import Tokenizer, load_tokenizer
from llm_trainer.tokenizer.kinds import train_configured
from llm_trainer.training.cached_data import TOKENIZER, VALIDATION
from llm_trainer.training.preparation import dataset_label, open_training_data

VOCABULARY = 8192
SEQ_LEN = 512
TITLE = "SEQUENCE PACKING CACHE GENERATION"
Echo = Callable[[str], None]


def pack_text(
    output_dir: Path | None,
    *,
    tokenizer_dir: Path | None,
    paths: list[str] | None,
    dataset: str,
    split: str,
    seq_len: int,
    packing: str,
    compression: str,
    echo: Echo,
    validation_fraction: float = 0.0,
    unit_bytes: int = UNIT_BYTES,
    mode: Mode = "normal",
    workers: int = 1,
    force_rebuild: bool = False,
) -> str:
    """Tokenize and pack, printing progress; returns the closing lines.

    Args:
        output_dir: folder of the cache; left out, ``cache/NAME-LENGTH``.
        tokenizer_dir: a saved tokenizer; left out, the one in the cache, or a new one trained on the text.
        paths: files and folders of text.
        dataset: name of a data set, where there are no paths.
        split: of the data set.
        seq_len: tokens of a sequence.
        packing: ``bfd`` or ``concat``.
        compression: ``lz4``, ``zstd`` or ``none``.
        echo: called with lines for the person.
        validation_fraction: share of the documents that is kept out and packed into ``validation/`` of its own.
        unit_bytes: text that makes a chunk.
        mode: ``normal``, or ``inverse`` to fill gaps.
        workers: threads.
        force_rebuild: make everything again.

    Raises:
        UserError: with what to do about it.
    """
    given = {"paths": paths} if paths else {"dataset_name": dataset}
    how = {"max_length": seq_len, "packing": packing, "compression": compression}
    config = DataConfig.from_dict({**given, **how, "validation_fraction": validation_fraction, "split": split})
    folder = output_dir or Path("cache") / f"{dataset_label(config)}-{seq_len}"
    echo(f"{TITLE}\n{'=' * len(TITLE)}")
    handle = open_training_data(config)
    assert isinstance(handle, DatasetHandle)
    finished = (folder / MANIFEST).exists() and not force_rebuild
    # What is to fail leaves nothing behind.
    if mode == "inverse":
        require_something_to_fill(folder)
    if tokenizer_dir is not None:
        load_tokenizer(tokenizer_dir)
    with contextlib.nullcontext() if finished else packer_at_work(folder):
        return _pack(handle, folder, tokenizer_dir, config, unit_bytes, mode, workers, force_rebuild, echo)


def _pack(
    handle: DatasetHandle,
    folder: Path,
    tokenizer_dir: Path | None,
    config: DataConfig,
    unit_bytes: int,
    mode: Mode,
    workers: int,
    force_rebuild: bool,
    echo: Echo,
) -> str:
    tokenizer = _tokenizer(folder, tokenizer_dir, handle, echo, replace=force_rebuild)

    def build(text: DatasetHandle, target: Path) -> TokenCache:
        return build_cache(
            text,
            tokenizer,
            target,
            seq_len=config.max_length or SEQ_LEN,
            unit_bytes=unit_bytes,
            codec=config.compression,
            packer=config.packing,
            workers=workers,
            mode=mode if mode == "normal" or target.exists() else "normal",
            progress=lambda progress: echo(format_progress(progress)),
            notice=echo,
            source_fingerprint=text.fingerprint,
            source_description=text.description,
            force_rebuild=force_rebuild,
        )

    if config.validation_fraction > 0:
        # First, and it is small: who trains while the rest is packed can validate from the beginning.
        build(handle.validation(), folder / VALIDATION)
    cache = build(handle, folder)
    return _summary(cache, folder)


def verify_cache(folder: Path) -> str:
    """Check every byte of a cache, finished or not; returns what is there.

    Raises:
        DataError: something is missing or damaged; the message names it and the command that repairs it.
    """
    plan, gaps = find_gaps(folder)
    there = len(plan.units) - len(gaps)
    if not gaps and not (folder / MANIFEST).exists():
        raise DataError(f"{folder}: all {there:,} chunks are good, and the manifest is missing", hint=REBUILD_HINT)
    if gaps:
        raise DataError(
            f"{folder}: {there:,} of {len(plan.units):,} chunks are good; missing or damaged: {describe_gaps(gaps)}",
            hint="fill the gaps from the same text: llm-trainer data pack ... --mode inverse",
        )
    cache = TokenCache.open(folder)
    return f"{folder}: {len(cache):,} sequences in {there:,} chunk{'s' if there != 1 else ''}, all blocks good"


def import_token_file(source: Path, output_dir: Path, *, tokenizer_dir: Path, file_format: str, seq_len: int) -> str:
    """Pack another trainer's tokens into a cache, with its tokenizer inside; returns the closing lines."""
    tokenizer = load_tokenizer(tokenizer_dir)
    tokens = open_token_file(source, file_format, end_id=tokenizer.eos_token_id)
    cache = import_tokens(
        tokens, output_dir, tokenizer=tokenizer.fingerprint(), vocab_size=tokenizer.vocab_size, seq_len=seq_len
    )
    tokenizer.save_pretrained(output_dir / TOKENIZER)
    return _summary(cache, output_dir)


def _tokenizer(
    folder: Path, named: Path | None, handle: DatasetHandle, echo: Echo, *, replace: bool = False
) -> Tokenizer:
    """The tokenizer of the cache; it is kept inside, so that nobody has to remember which one it was."""
    inside = folder / TOKENIZER
    if named is not None:
        tokenizer = load_tokenizer(named)
        if replace and named.resolve() != inside.resolve():
            shutil.rmtree(inside, ignore_errors=True)
        if not inside.is_dir():
            _keep(tokenizer, inside)
        return tokenizer
    if not inside.is_dir():
        echo(f"training a tokenizer of {VOCABULARY:,} tokens on the text")
        settings = TokenizerConfig(vocab_size=VOCABULARY)
        texts = (document.text for document in handle)
        _keep(train_configured(settings, texts, allow_smaller=True), inside)
    return load_tokenizer(inside)


def _keep(tokenizer: Tokenizer, inside: Path) -> None:
    """Save a tokenizer whole or not at all; if another packer was faster, its tokenizer is the cache's."""
    inside.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{inside.name}-", dir=inside.parent) as name:
        tokenizer.save_pretrained(Path(name) / inside.name)
        try:
            (Path(name) / inside.name).rename(inside)
        except OSError:
            if not inside.is_dir():
                raise


def _summary(cache: TokenCache, folder: Path) -> str:
    facts, dtype = cache.manifest.totals(), cache.manifest.origin.config.dtype
    saved = facts["size_reduction"]
    return (
        f"{folder}: {len(cache):,} sequences of {cache.seq_len} tokens, {facts['tokens']:,} tokens "
        f"from {facts['documents']:,} documents\n"
        f"{facts['tokens_kept']:.2%} of the tokens kept, {facts['utilisation']:.2%} of the positions used, "
        f"{human_bytes(facts['bytes'])} on disk: {percent(saved[dtype])} less than {dtype}, "
        f"{percent(saved['int64'])} less than int64"
    )
