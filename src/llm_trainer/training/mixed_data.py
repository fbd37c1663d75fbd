"""The data sets of a mixture: texts that are packed for this run, and caches that are packed already."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from llm_trainer.common.devices import rank, world_size
from llm_trainer.config import DataConfig, TrainingConfig
from llm_trainer.corpus import DatasetHandle, open_dataset
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.joined import JoinedDatasets
from llm_trainer.data import TokenCache
from llm_trainer.data.mixture import MixtureLoader, MixtureSource, temperature_weights, tokens_of
from llm_trainer.data.plan import PLAN
from llm_trainer.training.cached_data import CachedText, validation_cache
from llm_trainer.training.loader_options import loader_options


class MixtureText:
    """What is known of the text behind ``data.mixture``; iterating gives the documents that are there as text.

    Args:
        config: its ``mixture`` is given; encoding, column, split and hold-out hold for all of its data sets.

    Raises:
        DataError: one of them is not there.
    """

    def __init__(self, config: DataConfig) -> None:
        assert config.mixture is not None
        self.entries: dict[str, DatasetHandle | CachedText] = {
            name: CachedText(name) if (Path(name) / PLAN).is_file() else _open(name, config) for name in config.mixture
        }
        self.name = "mixture"
        self.split = config.split

    @property
    def texts(self) -> list[DatasetHandle]:
        """Those that are there as text."""
        return [entry for entry in self.entries.values() if isinstance(entry, DatasetHandle)]

    def __iter__(self) -> Iterator[Document]:
        return iter(JoinedDatasets(self.texts))

    @property
    def description(self) -> str:
        """The data sets, in one line."""
        return "a mixture of " + "; ".join(entry.description for entry in self.entries.values())

    @property
    def total_bytes(self) -> int | None:
        """Their sizes together; None where one is not known."""
        sizes = [entry.total_bytes for entry in self.entries.values()]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def split_documents(self) -> int | None:
        """Their documents together; None where one has not counted them."""
        counts = [entry.split_documents for entry in self.entries.values()]
        return None if None in counts else sum(count for count in counts if count is not None)

    def validation(self, split: str | None = None) -> JoinedDatasets | None:
        """What is held out of those that are there as text."""
        return JoinedDatasets([handle.validation(split) for handle in self.texts]) if self.texts else None


def mixture_loader(
    text: MixtureText,
    data: DataConfig,
    config: TrainingConfig,
    *,
    pack: Callable[[DatasetHandle], TokenCache],
    tokenizer: str,
    seq_len: int,
) -> MixtureLoader:
    """A loader over all of them, in their shares.

    Args:
        text: the data sets.
        data: the shares.
        config: batch size, seed, workers.
        pack: makes or finds the cache of a text.
        tokenizer: fingerprint of the model's tokenizer.
        seq_len: tokens of a sequence.

    Raises:
        DataError: a cache is unfinished, or of another tokenizer or length.
    """
    assert data.mixture is not None
    caches = [
        TokenCache.open(entry.folder, expect_tokenizer=tokenizer, expect_seq_len=seq_len)
        if isinstance(entry, CachedText)
        else pack(entry)
        for entry in text.entries.values()
    ]
    weights = list(data.mixture.values())
    if data.mixture_temperature is not None:
        by_size = temperature_weights([tokens_of(cache) for cache in caches], data.mixture_temperature)
        weights = [weight * size for weight, size in zip(weights, by_size, strict=True)]
    sources = [
        MixtureSource(name, cache, weight, data.mixture_max_epochs)
        for name, cache, weight in zip(text.entries, caches, weights, strict=True)
    ]
    return MixtureLoader(sources, config.batch_size, **loader_options(config))


def mixture_validation(
    text: MixtureText,
    data: DataConfig,
    config: TrainingConfig,
    *,
    pack: Callable[[DatasetHandle], TokenCache],
    tokenizer: str,
    seq_len: int,
) -> MixtureLoader | None:
    """A loader over what is held out of each, in the same shares, so that any first part of it has the composition of
    the training; None if nothing is held out. Arguments and errors are those of :func:`mixture_loader`."""
    assert data.mixture is not None
    wanted = data.validation_split is not None or data.validation_fraction > 0
    sources = []
    for (name, entry), weight in zip(text.entries.items(), data.mixture.values(), strict=True):
        cache: TokenCache | None = None
        if isinstance(entry, CachedText):
            cache = validation_cache(entry.folder, tokenizer=tokenizer, seq_len=seq_len)
        elif wanted:
            cache = pack(entry.validation(data.validation_split))
        if cache is not None:
            sources.append(MixtureSource(name, cache, weight, max_epochs=1))
    if not sources:
        return None
    loader = MixtureLoader(sources, config.batch_size, shuffle=False, rank=rank(), world_size=world_size())
    loader.limit = max(1, data.validation_tokens // seq_len)
    return loader


def _open(name: str, config: DataConfig) -> DatasetHandle:
    return open_dataset(
        name,
        None,
        config.split,
        config.text_column,
        encoding=config.encoding,
        documents=config.documents,
        validation_fraction=config.validation_fraction,
    )
