"""From the name of a data set to loaders of packed sequences: find, pack (or find packed), load."""

from __future__ import annotations

import re
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from torch import nn

from llm_trainer.common.devices import available_cores
from llm_trainer.common.errors import CorruptionError, DataError, UserError
from llm_trainer.common.hashing import fingerprint
from llm_trainer.config import DataConfig, ModelConfig, TrainingConfig
from llm_trainer.corpus import DatasetHandle, open_dataset, open_paths
from llm_trainer.corpus.joined import JoinedDatasets
from llm_trainer.data import PackedLoader, PackProgress, TokenCache, build_cache
from llm_trainer.data.build import Mode
from llm_trainer.data.growing import GrowingCache
from llm_trainer.models import BaseLanguageModel
from llm_trainer.monitoring.runs import next_run_name
from llm_trainer.tokenizer import Tokenizer
from llm_trainer.training.cached_data import CachedText, open_cached_loader, validation_cache
from llm_trainer.training.loader_options import loader_options
from llm_trainer.training.mixed_data import MixtureText, mixture_loader, mixture_validation
from llm_trainer.training.objectives import refuse_other_families
from llm_trainer.training.parallel import data_parallel

Progress = Callable[[PackProgress], None]
TrainingText: TypeAlias = DatasetHandle | CachedText | MixtureText
HeldOutText: TypeAlias = DatasetHandle | JoinedDatasets


@dataclass
class PreparedData:
    """Loaders for a run, and the caches behind them."""

    train: PackedLoader
    validation: PackedLoader | None
    seq_len: int
    description: str
    held_out: HeldOutText | None
    _temporary: list[Path] = field(default_factory=list)

    def close(self) -> None:
        """Remove what was only packed for this run."""
        if data_parallel.is_main():
            for folder in self._temporary:
                shutil.rmtree(folder, ignore_errors=True)


def open_training_data(config: DataConfig) -> TrainingText:
    """The documents to train on; of a packed cache, what is known of them."""
    if config.cache is not None:
        return CachedText(config.cache)
    if config.mixture is not None:
        return MixtureText(config)
    if config.paths is not None:
        return open_paths(
            config.paths,
            config.split,
            config.text_column,
            encoding=config.encoding,
            documents=config.documents,
            validation_fraction=config.validation_fraction,
        )
    return open_dataset(
        config.dataset_name,
        config.dataset_config,
        config.split,
        config.text_column,
        encoding=config.encoding,
        documents=config.documents,
        validation_fraction=config.validation_fraction,
    )


def open_validation_data(config: DataConfig, training: TrainingText) -> HeldOutText | None:
    """The documents to validate on; None if the person wants none (``validation_fraction: 0``)."""
    if config.validation_split is None and config.validation_fraction == 0:
        return None
    return training.validation(config.validation_split)


def resolve_sequence_length(data: DataConfig, model: ModelConfig, training: TrainingConfig) -> int:
    """Tokens per packed sequence: ``data.max_length``, else ``training.sequence_length``, else the model's context.

    Raises:
        UserError: longer than the model's context.
    """
    length = data.max_length or training.sequence_length or model.max_seq_len
    if length > model.max_seq_len:
        raise UserError(
            f"sequences of {length} tokens are longer than the model's context of {model.max_seq_len}",
            hint="lower data.max_length or raise model.max_seq_len",
        )
    return length


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=3)


def prepare_data(
    data_config: DataConfig,
    tokenizer: Tokenizer,
    model_config: ModelConfig,
    training_config: TrainingConfig,
    *,
    progress: Progress | None = None,
    notice: Callable[[str], None] = _warn,
) -> PreparedData:
    """Pack the training and the validation text, unless that has been done already, and open loaders on both.

    Args:
        data_config: the text.
        tokenizer: the model's.
        model_config: its context is the sequence length unless another is given.
        training_config: batch size, seed, workers.
        progress: called while packing.
        notice: called with a sentence when a damaged cache has to be made again.

    Raises:
        DataError: the data set cannot be found or is empty.
        UserError: the tokenizer has ids that the model cannot embed.
    """
    if tokenizer.vocab_size > model_config.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size:,} tokens and the model only {model_config.vocab_size:,}",
            hint="set model.vocab_size to the tokenizer's size",
        )
    seq_len = resolve_sequence_length(data_config, model_config, training_config)
    training = open_training_data(data_config)
    if isinstance(training, CachedText):
        return _prepare_cached(training, data_config, tokenizer, training_config, seq_len)
    validation = open_validation_data(data_config, training)
    temporary = []
    if not training_config.use_packed_cache:
        temporary = [Path(data_parallel.from_main(lambda: tempfile.mkdtemp(prefix="llm-trainer-cache-")))]
    root = temporary[0] if temporary else Path(data_config.cache_dir or "cache")

    def pack(handle: HeldOutText, limit: int | None) -> TokenCache:
        how = [data_config.packing, data_config.compression, limit]
        identity = [handle.fingerprint, tokenizer.fingerprint(), seq_len, *how]
        folder = root / f"{slug(handle.name)}-{handle.split}-{fingerprint(identity)[:8]}".replace("/", "_")
        return _pack_on_one_rank(handle, limit, tokenizer, folder, seq_len, data_config, progress, notice)

    limit = data_config.max_documents
    if isinstance(training, MixtureText):
        train: PackedLoader = mixture_loader(
            training,
            data_config,
            training_config,
            pack=lambda handle: pack(handle, limit),
            tokenizer=tokenizer.fingerprint(),
            seq_len=seq_len,
        )
        held_out: PackedLoader | None = mixture_validation(
            training,
            data_config,
            training_config,
            pack=lambda handle: pack(handle, None),
            tokenizer=tokenizer.fingerprint(),
            seq_len=seq_len,
        )
    else:
        train = make_loader(pack(training, limit), training_config)
        held_out_cache = pack(validation, None) if validation is not None else None
        held_out = _validation_loader(held_out_cache, training_config, data_config.validation_tokens // seq_len)
    return PreparedData(
        train=train,
        validation=held_out,
        seq_len=seq_len,
        description=training.description,
        held_out=validation,
        _temporary=temporary,
    )


def _prepare_cached(
    text: CachedText, data_config: DataConfig, tokenizer: Tokenizer, config: TrainingConfig, seq_len: int
) -> PreparedData:
    identity = tokenizer.fingerprint()
    held_out = validation_cache(text.folder, tokenizer=identity, seq_len=seq_len)
    return PreparedData(
        train=open_cached_loader(text.folder, config, tokenizer=identity, seq_len=seq_len),
        validation=_validation_loader(held_out, config, data_config.validation_tokens // seq_len),
        seq_len=seq_len,
        description=text.description,
        held_out=None,
    )


def make_loader(cache: TokenCache, config: TrainingConfig, *, shuffle: bool = True) -> PackedLoader:
    """A loader with the configuration's batch size, seed and workers, for this rank."""
    options = loader_options(config)
    if not shuffle:
        options["epoch_fraction"] = 1.0
    return PackedLoader(cache, config.batch_size, shuffle=shuffle, **options)


def as_loader(data: Any, tokenizer: Any, model: nn.Module, config: TrainingConfig, *, shuffle: bool = True) -> Any:
    """Whatever a person passes as data, as something with ``batches(start, stop)``.

    Args:
        data: a loader, a :class:`TokenCache`, or texts: strings, records with a text column, a ``datasets.Dataset``.
        tokenizer: needed for texts.
        model: says how long sequences may be.
        config: batch size, seed, workers.
        shuffle: whether the order is shuffled.
    """
    if hasattr(data, "batches"):
        return data
    refuse_other_families(
        model, hint="pass a loader that makes its gaps (PackedLoader with a collator), or use llm-trainer train"
    )
    if isinstance(data, GrowingCache):
        identity = data.plan.origin.config.tokenizer
        return open_cached_loader(data.folder, config, tokenizer=identity, seq_len=data.seq_len)
    if isinstance(data, TokenCache):
        return make_loader(data, config, shuffle=shuffle)
    if tokenizer is None:
        raise UserError("training on texts needs a tokenizer: Trainer(model, tokenizer, config)")
    folder = Path(tempfile.mkdtemp(prefix="llm-trainer-cache-"))
    handle = open_dataset(data, validation_fraction=0)
    cache = build_cache(handle, tokenizer, folder, seq_len=config.sequence_length or _context_length(model))
    loader = make_loader(cache, config, shuffle=shuffle)
    weakref.finalize(loader, shutil.rmtree, folder, ignore_errors=True)
    return loader


def run_folder(model: nn.Module, data_config: DataConfig, seq_len: int, root: Path = Path("runs")) -> Path:
    """A new folder for a run, named after the real parameter count, the data set and the sequence length."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return root / next_run_name(root, parameters, dataset_label(data_config), seq_len)


def dataset_label(config: DataConfig) -> str:
    """A short name of the data for run names: the data set's, the cache's, or the first path's."""
    if config.cache is not None:
        return slug(Path(config.cache).name)
    if config.mixture is not None:
        return "mixture"
    if config.paths is not None:
        return slug(Path(config.paths[0]).stem)
    return slug(Path(config.dataset_name).stem or config.dataset_name)


def slug(name: str) -> str:
    """``name`` with only letters, digits, dots and dashes, at most 40 characters."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-.")[:40] or "data"


@dataclass(frozen=True)
class _First:
    """The first documents of a data set. Unlike an iterator, it can be read twice: to plan, and to pack."""

    handle: HeldOutText
    limit: int

    def __iter__(self) -> Iterator[Any]:
        return islice(self.handle, self.limit)


def _pack_on_one_rank(
    handle: HeldOutText,
    limit: int | None,
    tokenizer: Tokenizer,
    folder: Path,
    seq_len: int,
    config: DataConfig,
    progress: Progress | None,
    notice: Callable[[str], None],
) -> TokenCache:
    def build(mode: Mode) -> TokenCache:
        documents: Iterable[Any] = handle if limit is None else _First(handle, limit)
        return build_cache(
            documents,
            tokenizer,
            folder,
            seq_len=seq_len,
            codec=config.compression,
            packer=config.packing,
            workers=available_cores(),
            mode=mode,
            progress=progress,
            notice=notice,
            source_fingerprint=handle.fingerprint,
            source_description=handle.description,
        )

    if data_parallel.is_main():
        try:
            build("normal").verify()
        except CorruptionError as error:
            # The text is there, so what is damaged can be made again; but nobody should have to guess why it takes
            # longer.
            notice(f"{error.message}; making it again")
            build("inverse")
    data_parallel.barrier()
    cache = TokenCache.open(folder, expect_tokenizer=tokenizer.fingerprint(), expect_seq_len=seq_len)
    if len(cache) == 0:
        raise DataError(f"{handle.description} has no text", hint="name files or folders with text in them")
    return cache


def _validation_loader(cache: TokenCache | None, config: TrainingConfig, most: int) -> PackedLoader | None:
    if cache is None:
        return None
    loader = make_loader(cache, config, shuffle=False)
    loader.limit = max(1, most)
    return loader


def _context_length(model: nn.Module) -> int:
    if isinstance(model, BaseLanguageModel):
        return model.config.max_seq_len
    config = getattr(model, "config", None)
    length = getattr(config, "max_position_embeddings", None)
    if not isinstance(length, int):
        raise UserError("the model does not say how long its sequences may be", hint="set sequence_length")
    return length
