"""Train on a packed cache by its folder: a finished one, or one that is still being packed."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

from llm_trainer.common.errors import DataError
from llm_trainer.common.leases import held_leases
from llm_trainer.config import RunConfig, TrainingConfig
from llm_trainer.corpus.document import Document
from llm_trainer.data import TokenCache
from llm_trainer.data.growing import GrowingCache, GrowingLoader
from llm_trainer.data.plan import PLAN, Plan
from llm_trainer.training.loader_options import loader_options

WAIT_SECONDS = 0.5
TOKENIZER = "tokenizer"
VALIDATION = "validation"
"""Folders inside a cache: the tokenizer that it was made with, and the cache of the text that was held out."""


class CachedText:
    """What is known of the text of a cache. The text itself is gone: only its tokens are there.

    Args:
        folder: of the cache.

    Raises:
        DataError: there is no cache.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.plan = Plan.read(self.folder)
        self.name = self.folder.name
        self.split = "train"
        self.split_documents = self.plan.documents
        self.total_bytes = self.plan.text_bytes
        self.fingerprint = self.plan.fingerprint

    @property
    def description(self) -> str:
        """The cache, and what it was packed from."""
        return f"the packed cache {self.folder} of {self.plan.origin.source or 'text without a description'}"

    def validation(self, split: str | None = None) -> None:
        """The held-out *text* is not kept; :func:`validation_cache` has its tokens."""

    def __iter__(self) -> Iterator[Document]:
        raise DataError(
            f"{self.folder} holds tokens, not text", hint="name the text with data.dataset_name or data.paths instead"
        )


def use_cache_settings(run: RunConfig) -> list[tuple[str, object, str]]:
    """Set what a cache decides and a person left out: tokenizer and sequence length.

    Args:
        run: changed in place.

    Returns:
        What was set: key, value and reason; nothing where no packed cache is named, alone or in a mixture.

    Raises:
        DataError: there is no cache, or it has no tokenizer and none is named.
    """
    if run.data.cache is not None:
        folder = Path(run.data.cache)
        _wait_for_plan(folder)
    else:
        folders = [Path(name) for name in run.data.mixture or {} if (Path(name) / PLAN).is_file()]
        if not folders:
            return []
        folder = folders[0]
    plan = Plan.read(folder)
    chosen: list[tuple[str, object, str]] = []
    if run.tokenizer.path is None:
        if not (folder / TOKENIZER).is_dir():
            raise DataError(
                f"{folder} does not say which tokenizer it was made with", hint="name it with tokenizer.path"
            )
        # What a file says about training a tokenizer is void: the tokens are there already.
        run.tokenizer = type(run.tokenizer)(path=str(folder / TOKENIZER))
        chosen.append(("tokenizer.path", run.tokenizer.path, "the one that the cache was made with"))
    if run.data.max_length is None:
        run.data.max_length = plan.origin.config.seq_len
        chosen.append(("data.max_length", run.data.max_length, "the sequences of the cache"))
    return chosen


def _wait_for_plan(folder: Path) -> None:
    """Wait while a packer is at work that has not planned yet: it may be training the tokenizer."""
    told = False
    while not (folder / PLAN).is_file() and folder.is_dir() and held_leases(folder):
        if not told:
            logging.getLogger(__name__).warning("waiting for the packer: %s has no plan yet", folder)
        told = True
        time.sleep(WAIT_SECONDS)


def open_cached_loader(folder: str | Path, config: TrainingConfig, *, tokenizer: str, seq_len: int) -> GrowingLoader:
    """A loader over what is in the cache now and what comes to it.

    Args:
        folder: of the cache.
        config: batch size, seed, workers.
        tokenizer: fingerprint of the model's tokenizer.
        seq_len: tokens of a sequence.

    Raises:
        DataError: there is no cache, or it is of another tokenizer or length.
    """
    cache = GrowingCache.open_growing(folder, expect_tokenizer=tokenizer, expect_seq_len=seq_len)
    return GrowingLoader(cache, config.batch_size, **loader_options(config))


def validation_cache(folder: str | Path, *, tokenizer: str, seq_len: int) -> TokenCache | None:
    """The tokens held out when the cache was packed, if any were."""
    path = Path(folder) / VALIDATION
    if not path.is_dir():
        return None
    return TokenCache.open(path, expect_tokenizer=tokenizer, expect_seq_len=seq_len)
