"""The names of cleaners and filters in a pipeline file, and their classes, imported when they are asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from llm_trainer.common.errors import ConfigError

_PACKAGE = "llm_trainer.corpus"

CLEANERS: Mapping[str, str] = {
    "unicode": "cleaning.unicode:Unicode",
    "boilerplate": "cleaning.boilerplate:Boilerplate",
    "markup": "cleaning.markup:Markup",
    "spelling": "cleaning.spelling:Spelling",
    "c4_lines": "cleaning.c4_lines:C4Lines",
}

FILTERS: Mapping[str, str] = {
    "language": "filters.language:Language",
    "length": "filters.length:Length",
    "c4": "filters.c4:C4",
    "gopher_quality": "filters.gopher_quality:GopherQuality",
    "gopher_repetition": "filters.gopher_repetition:GopherRepetition",
    "fineweb": "filters.fineweb:FineWeb",
    "toxicity": "filters.toxicity:Toxicity",
    "classifier": "filters.classifier:Classifier",
    "perplexity": "filters.perplexity:Perplexity",
}


def build_section(known: Mapping[str, str], section: str, name: str, values: Any) -> Any:
    """The settings object of one entry.

    Args:
        known: :data:`CLEANERS` or :data:`FILTERS`.
        section: its name in the file, for messages.
        name: the entry.
        values: its settings; ``{}`` for the defaults.

    Raises:
        ConfigError: no such entry, or a setting that it does not take.
    """
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        guess = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"
        raise ConfigError([f"{section}.{name}: unknown{guess}"])
    if not isinstance(values, dict):
        raise ConfigError([f"{section}.{name}: expected its settings, or {{}} for the defaults; got {values!r}"])
    module, _, cls = known[name].partition(":")
    try:
        return getattr(importlib.import_module(f"{_PACKAGE}.{module}"), cls)(**values)
    except ConfigError as error:
        raise ConfigError([f"{section}.{name}.{problem}" for problem in error.problems]) from None
