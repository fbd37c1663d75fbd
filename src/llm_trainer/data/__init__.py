"""Text in, batches of tokens out: packing, the cache on disk, its order, and the loader.

``build_cache(documents, tokenizer, folder, seq_len=512)`` makes a :class:`TokenCache`;
``PackedLoader(cache, batch_size).batches()`` serves it.
"""

from llm_trainer.data.build import build_cache
from llm_trainer.data.cache import TokenCache
from llm_trainer.data.chunk import PackedSequence
from llm_trainer.data.collate import Batch, collate
from llm_trainer.data.loader import PackedLoader
from llm_trainer.data.manifest import rebuild_manifest
from llm_trainer.data.order import EpochOrder
from llm_trainer.data.packing import Packing, pack
from llm_trainer.data.progress import PackProgress, format_progress
from llm_trainer.data.threads import ThreadedDataLoader

__all__ = [
    "Batch",
    "EpochOrder",
    "PackProgress",
    "PackedLoader",
    "PackedSequence",
    "Packing",
    "ThreadedDataLoader",
    "TokenCache",
    "build_cache",
    "collate",
    "format_progress",
    "pack",
    "rebuild_manifest",
]
