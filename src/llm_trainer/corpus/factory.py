"""The hook for data that no reader knows: subclass :class:`DatasetFactory`, register it, use it by name.

.. code-block:: python

    class ForumThreads(DatasetFactory):
        def create_custom_dataset(self, data_path):
            for file in sorted(Path(data_path).glob("*.thread")):
                yield {"text": render(file)}

    register_dataset("forum", ForumThreads())
    open_dataset("forum", config="/data/forum")     # or dataset_name: forum, dataset_config: /data/forum in YAML
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from llm_trainer.common.errors import DataError
from llm_trainer.corpus.source import Record, RecordsSource, Source

Records: TypeAlias = Iterable[Record] | Mapping[str, Iterable[Record]]


class DatasetFactory(ABC):
    """Makes a data set of one's own."""

    @abstractmethod
    def create_custom_dataset(self, data_path: str | None) -> Records:
        """Return the records, or a dict of split name -> records.

        Called again for every pass, so a generator is fine. A record is a text, a mapping with a text column, or a
        :class:`~llm_trainer.corpus.document.Document`. The same data must come in the same order every time.

        Args:
            data_path: what the person gave as ``dataset_config``; None if nothing.
        """


_REGISTRY: dict[str, Callable[[str | None], Any]] = {}


def register_dataset(
    name: str,
    factory: DatasetFactory | type[DatasetFactory] | Callable[[str | None], Records],
    *,
    replace: bool = False,
) -> None:
    """Make a data set known by name, to the command line and the configuration as well.

    Args:
        name: the name; a path of that name, or a folder of that name among the data folders, comes first.
        factory: a :class:`DatasetFactory` (class or instance), or a function of ``data_path`` that returns the records.
        replace: allow a name that is taken.

    Raises:
        DataError: the name is taken or reserved.
    """
    if name == "builtin" or (name in _REGISTRY and not replace):
        raise DataError(f"a data set called {name!r} exists already", hint="choose another name, or pass replace=True")
    if isinstance(factory, type) and issubclass(factory, DatasetFactory):
        factory = factory()
    _REGISTRY[name] = factory.create_custom_dataset if isinstance(factory, DatasetFactory) else factory


def registered_datasets() -> list[str]:
    """The registered names, sorted."""
    return sorted(_REGISTRY)


def open_registered(name: str, data_path: str | None, *, text_column: str) -> Source:
    """The source of a registered name; ``KeyError`` if there is none."""
    create = _REGISTRY[name]
    made = create(data_path)
    records: Records
    if isinstance(made, Mapping):
        records = {split: _Remade(create, data_path, split) for split in made}
    else:
        records = _Remade(create, data_path)
    return RecordsSource(records, name=name, text_column=text_column, description=f"{name} (registered)")


class _Remade:
    """Iterates over what a factory makes, calling it again for every pass."""

    def __init__(self, create: Callable[[str | None], Any], data_path: str | None, split: str | None = None) -> None:
        self._create = create
        self._data_path = data_path
        self._split = split

    def __iter__(self) -> Iterator[Record]:
        made = self._create(self._data_path)
        return iter(made if self._split is None else made[self._split])
