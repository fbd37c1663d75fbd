"""Public data sets that people train on: what they are, how large, under which licence, and what to watch out for.

Sizes and licences are as their publishers state them; both change, so the home page has the last word. The licence of a
collection is seldom the licence of the texts in it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from llm_trainer.common.errors import DataError
from llm_trainer.corpus.sources.git_licences import PERMISSIVE

Commercial = Literal["yes", "no", "unclear"]


@dataclass(frozen=True)
class DataSet:
    """One public data set."""

    name: str
    what: str
    """One sentence."""
    size: str
    """As published: gigabytes, documents or tokens, and which tokenizer where it matters."""
    licence: str
    """SPDX name, or a sentence where none fits."""
    commercial: Commercial
    """Whether the publisher allows commercial use."""
    category: str
    """``web``, ``books``, ``academic``, ``code``, ``conversation``, ``encyclopedia``, ``legal``, ``synthetic`` or
    ``mixed``."""
    quality: str
    """What to expect of the text."""
    processing: str
    """What has to be done before training."""
    home: str
    """Address of its page or paper."""
    hub: str = ""
    """Name on the Hugging Face hub, where there is one."""
    aliases: tuple[str, ...] = ()
    """Other names that people use."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class LicenceRow:
    """What is known about the licence of one source of a pipeline."""

    source: str
    kind: str
    licence: str
    """As given, else as registered; ``"unknown"`` if neither."""
    category: str
    commercial: Commercial
    attribution: bool
    """Whether the authors have to be named."""
    share_alike: bool
    """Whether what is made of it has to be under the same licence."""
    notes: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def registered() -> tuple[DataSet, ...]:
    """All data sets of the registry, in its order."""
    from llm_trainer.corpus.sources.registry_pile import PILE_PARTS
    from llm_trainer.corpus.sources.registry_sets import DATA_SETS

    return DATA_SETS + PILE_PARTS


def find(name: str) -> DataSet:
    """The data set of that name, alias or name on the hub; case, spaces and hyphens do not matter.

    Raises:
        DataError: there is none.
    """
    found = lookup(name)
    if found is None:
        names = [entry.name for entry in registered()]
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
        raise DataError(
            f"the registry has no data set called {name!r}",
            hint=f"perhaps {', '.join(near)}; see all: llm-trainer data sources" if near else "see its list of names",
        )
    return found


def lookup(name: str) -> DataSet | None:
    """Like :func:`find`, with None where there is none."""
    wanted = _plain(name)
    for entry in registered():
        if wanted in {_plain(known) for known in (entry.name, entry.hub, *entry.aliases) if known}:
            return entry
    return None


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.lower())


def licences(sources: Iterable[tuple[str, str, str | None, str | None]]) -> list[LicenceRow]:
    """What is known about the licences of a pipeline's sources.

    Args:
        sources: (name, kind, licence, category) of every source; None where the pipeline does not say. A source that is
            named like a registered data set takes over what it leaves out.
    """
    return [_row(*source) for source in sources]


def _row(name: str, kind: str, licence: str | None, category: str | None) -> LicenceRow:
    entry = lookup(name)
    known = licence or (entry.licence if entry else "")
    notes = []
    if not known:
        notes.append("no licence is given: say it in the pipeline file, or find out before publishing")
    if entry and not licence:
        notes.append(f"licence as registered for {entry.name}; see {entry.home}")
    if entry and licence and _plain(licence) != _plain(entry.licence):
        notes.append(f"{entry.name} is registered as: {entry.licence}")
    commercial = _commercial(known) if licence or not entry else entry.commercial
    attribution, share_alike = _needs_attribution(known), _is_share_alike(known)
    if commercial == "no":
        notes.append("not for commercial use")
    if share_alike:
        notes.append("share-alike: what is published from it may have to carry the same licence")
    if attribution:
        notes.append("name the authors")
    return LicenceRow(
        name,
        kind,
        known or "unknown",
        category or (entry.category if entry else ""),
        commercial,
        attribution,
        share_alike,
        "; ".join(notes),
    )


_OPEN = frozenset(
    {*PERMISSIVE, "ODC-By-1.0", "CC-BY-4.0", "CC-BY-3.0", "CC-BY-SA-4.0", "CC-BY-SA-3.0", "CDLA-Permissive-2.0"}
    | {"GPL-2.0", "GPL-3.0", "LGPL-2.1", "LGPL-3.0", "AGPL-3.0", "MPL-2.0", "PDDL-1.0", "ODbL-1.0", "CDLA-Sharing-1.0"}
)


def _commercial(licence: str) -> Commercial:
    plain = _spelled(licence)
    if re.search(r"\bNC\b|NON[ -]?COMMERCIAL|RESEARCH[ -]ONLY", plain):
        return "no"
    if " AND " in licence:  # an SPDX expression: every part has to allow it
        parts = {_commercial(part.strip(" ()")) for part in licence.split(" AND ")}
        return "yes" if parts == {"yes"} else "unclear"
    names = {name.upper() for name in _OPEN}
    first = re.split(r"[\s;,(]", plain, maxsplit=1)[0]
    return (
        "yes"
        if first in names or re.sub(r"-(?:ONLY|OR-LATER)$", "", first) in names or "PUBLIC DOMAIN" in plain
        else "unclear"
    )


def _spelled(licence: str) -> str:
    """Capitals, and hyphens as SPDX has them: StackExchange writes ``CC BY-SA 4.0``."""
    return re.sub(
        r"\bCC[ -]BY((?:[ -](?:NC|ND|SA))*)(?:[ -](?=\d))?", lambda match: match[0].replace(" ", "-"), licence.upper()
    )


def _needs_attribution(licence: str) -> bool:
    plain = _spelled(licence)
    named = re.search(r"\bCC-BY|\bODC-BY|\bODBL|\bGFDL|APACHE|\bMIT\b(?!-0)|\bBSD|\bISC\b|GPL|MPL", plain)
    return named is not None


def _is_share_alike(licence: str) -> bool:
    return re.search(r"-SA\b|SHARE-?ALIKE|GFDL|\bA?GPL|ODBL|CDLA-SHARING", licence.upper()) is not None
