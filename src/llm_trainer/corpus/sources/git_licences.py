"""Which licence a repository is under, by phrases of the licence texts.

Names are those of SPDX (https://spdx.org/licenses/). A text is recognised by what only it says, because people wrap,
reindent and shorten licences. Of the entries whose phrases are all there, the one that the text names first wins,
because many licences name others further on (the GPL the Affero GPL, the Business Source License the one that it
becomes); of several that begin with the same phrase the first of the table, so the narrower ones come first.
"""

from __future__ import annotations

import re
from collections.abc import Collection

_PERMISSIVE_WORDS = """
MIT MIT-0 Apache-2.0 BSD-2-Clause BSD-3-Clause 0BSD ISC Unlicense CC0-1.0 Zlib BSL-1.0 WTFPL PSF-2.0
BSD-4-Clause BlueOak-1.0.0 UPL-1.0 NCSA PostgreSQL
"""
PERMISSIVE = frozenset(_PERMISSIVE_WORDS.split())
"""Licences that ask for little more than to be named."""

_PHRASES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("AGPL-3.0", ("gnu affero general public license", "version 3")),
    ("LGPL-3.0", ("gnu lesser general public license", "version 3")),
    ("LGPL-2.1", ("gnu lesser general public license", "version 2.1")),
    ("LGPL-2.0", ("gnu library general public license",)),
    ("GPL-3.0", ("gnu general public license", "version 3")),
    ("GPL-2.0", ("gnu general public license", "version 2")),
    ("Apache-2.0", ("apache license", "version 2.0")),
    ("MPL-2.0", ("mozilla public license", "2.0")),
    ("EPL-2.0", ("eclipse public license", "2.0")),
    ("EPL-1.0", ("eclipse public license",)),
    ("CDDL-1.0", ("common development and distribution license",)),
    ("EUPL-1.2", ("european union public licence", "1.2")),
    ("CC0-1.0", ("cc0 1.0 universal",)),
    ("CC-BY-NC-SA-4.0", ("attribution-noncommercial-sharealike 4.0",)),
    ("CC-BY-NC-ND-4.0", ("attribution-noncommercial-noderivatives 4.0",)),
    ("CC-BY-NC-4.0", ("attribution-noncommercial 4.0",)),
    ("CC-BY-SA-4.0", ("attribution-sharealike 4.0",)),
    ("CC-BY-4.0", ("attribution 4.0 international",)),
    ("Commons-Clause", ("commons clause",)),
    ("BUSL-1.1", ("business source license",)),
    ("Elastic-2.0", ("elastic license 2.0",)),
    ("SSPL-1.0", ("server side public license",)),
    ("BSL-1.0", ("boost software license",)),
    ("Zlib", ("altered source versions must be plainly marked", "misrepresented")),
    ("Unlicense", ("free and unencumbered software released into the public domain",)),
    ("WTFPL", ("do what the fuck you want to",)),
    ("PSF-2.0", ("python software foundation license version 2",)),
    ("PostgreSQL", ("in no event shall the university of california", "without a written agreement")),
    ("UPL-1.0", ("universal permissive license",)),
    ("NCSA", ("university of illinois", "open source license")),
    ("BlueOak-1.0.0", ("blue oak model license",)),
    ("0BSD", ("permission to use, copy, modify, and/or distribute this software for any purpose", "zero-clause bsd")),
    (
        "ISC",
        ("permission to use, copy, modify, and/or distribute this software for any purpose", "above copyright notice"),
    ),
    (
        "ISC",
        ("permission to use, copy, modify, and distribute this software for any purpose", "above copyright notice"),
    ),
    ("0BSD", ("permission to use, copy, modify, and/or distribute this software for any purpose",)),
    ("BSD-4-Clause", ("redistribution and use in source and binary forms", "all advertising materials")),
    ("BSD-3-Clause", ("redistribution and use in source and binary forms", "endorse or promote")),
    ("BSD-2-Clause", ("redistribution and use in source and binary forms",)),
    ("MIT", ("permission is hereby granted, free of charge", "shall be included in all copies")),
    ("MIT-0", ("permission is hereby granted, free of charge", "to deal in the software without restriction")),
    # Short notes instead of the text itself.
    ("MIT", ("mit license",)),
    ("Apache-2.0", ("apache-2.0",)),
    ("Apache-2.0", ("www.apache.org/licenses/license-2.0",)),
)
_NAMES = re.compile(r"(?:^|[.-])(?:un)?licen[cs]e(?:$|[.-])|^copying(?:$|[.-])|^copyright$", re.IGNORECASE)
_TOKENS = re.compile(r"[()]|\b(?:OR|or|AND|and)\b(?=\s|\(|$)|[^\s()]+(?:\s+(?:WITH|with)\s+[^\s()]+)?")


def is_licence_file(path: str) -> bool:
    """Whether a file is a licence text by its name (``LICENSE``, ``COPYING.LESSER``, ``LICENSES/MIT.txt``)."""
    folder, _, name = path.rpartition("/")
    if folder.rpartition("/")[2] == "LICENSES":
        return True
    ending = name.lower().rpartition(".")[2] if "." in name else ""
    return _NAMES.search(name) is not None and ending not in _CODE_ENDINGS


# license.py is a program about licences.
_CODE_ENDINGS_WORDS = """
py js ts go rs java c h cpp rb php html css json yml yaml toml sh cs swift kt
"""
_CODE_ENDINGS = frozenset(_CODE_ENDINGS_WORDS.split())


def detect_licence(text: str) -> str:
    """The SPDX name of a licence text; empty if it is none that is known here."""
    plain = " ".join(re.sub(r"[#*>\"'`]+", " ", text.lower()).split())
    found = [
        (plain.index(phrases[0]), name) for name, phrases in _PHRASES if all(phrase in plain for phrase in phrases)
    ]
    return min(found, key=lambda place: place[0], default=(0, ""))[1]


class Licences:
    """The licence texts of a repository. The nearest one above a file counts."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.found: dict[str, list[str]] = {}

    def add(self, path: str, text: str) -> None:
        """Take in one licence file."""
        self.files.append(path)
        folder = path.rpartition("/")[0]
        if folder.rpartition("/")[2] == "LICENSES" or folder == "LICENSES":
            folder = folder.rpartition("/")[0]
        name = detect_licence(text)
        if name and name not in self.found.setdefault(folder, []):
            self.found[folder].append(name)
        self.found = {key: sorted(names) for key, names in self.found.items() if names}

    def of(self, path: str) -> str:
        """The licence of a file: ``"MIT"``, ``"Apache-2.0 OR MIT"``, or empty."""
        folder = path
        while folder:
            folder = folder.rpartition("/")[0]
            if folder in self.found:
                return " OR ".join(self.found[folder])
        return ""

    @staticmethod
    def allowed(expression: str, names: Collection[str]) -> bool:
        """Whether a licence expression leaves a choice that is in ``names``; of ``A AND B`` both have to be.

        An expression that is none (a bracket without its partner, two names side by side) allows nothing.
        """
        tokens = _TOKENS.findall(expression)
        try:
            choice = _either(tokens, names)
        except (IndexError, RecursionError):
            return False
        return choice and not tokens


def _either(tokens: list[str], names: Collection[str]) -> bool:
    """``A OR B``, taking what it reads from the front of ``tokens``; AND binds closer."""
    choice = _both(tokens, names)
    while tokens and tokens[0].upper() == "OR":
        del tokens[0]
        choice = _both(tokens, names) or choice
    return choice


def _both(tokens: list[str], names: Collection[str]) -> bool:
    choice = _one(tokens, names)
    while tokens and tokens[0].upper() == "AND":
        del tokens[0]
        choice = _one(tokens, names) and choice
    return choice


def _one(tokens: list[str], names: Collection[str]) -> bool:
    token = tokens.pop(0)
    if token != "(":
        return token in names or _base(token) in names
    choice = _either(tokens, names)
    return tokens.pop(0) == ")" and choice


def _base(name: str) -> str:
    """``GPL-2.0-or-later`` and ``GPL-2.0-only`` are ``GPL-2.0`` here; exceptions (``WITH ...``) only permit more."""
    return re.sub(r"\s+(?:WITH|with)\s+.*|-only$|-or-later$|\+$", "", name.strip())
