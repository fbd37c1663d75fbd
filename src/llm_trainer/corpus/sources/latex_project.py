"""Files of one LaTeX document: which is the main one, and the whole with every ``\\input`` in its place."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping

_MAIN = re.compile(r"^[^%\n]*\\document(?:class|style)\b", re.MULTILINE)
_BODY = re.compile(r"^[^%\n]*\\begin\s*\{document\}", re.MULTILINE)
_INPUT = re.compile(
    r"\\(?P<command>input|include|subfile|subfileinclude|import|subimport)\b\s*(?:\{(?P<first>[^{}\n]*)\}"
    r"(?:\s*\{(?P<second>[^{}\n]*)\})?|\s(?P<plain>[\w./-]+))"
)
_TEX = re.compile(
    r"\\(?:document(?:class|style)|begin|section|chapter|input|def|newcommand|par|it|em|emph|bf|magnification)\b"
)
_PREFERRED = ("main.tex", "ms.tex", "paper.tex", "article.tex", "manuscript.tex", "thesis.tex", "arxiv.tex")
_DEEPEST = 32
_MOST_INPUTS = 5000


class TooLargeError(Exception):
    """The document with all that it takes in is longer than allowed."""


def looks_like_tex(text: str) -> bool:
    """Whether a text has any of the commands that a TeX file cannot do without."""
    return _TEX.search(text) is not None


def is_main(text: str) -> bool:
    """Whether a file is a document of its own, not a part of one."""
    return _MAIN.search(text) is not None or _BODY.search(text) is not None


def find_main(files: Mapping[str, str]) -> str | None:
    """The main file of a project: a document that no other file takes in; customary names first, then the longest.

    A single file without ``\\documentclass`` (plain TeX, old submissions) is its own main file.
    """
    mains = [name for name, text in files.items() if is_main(text)]
    whole = [name for name in mains if _BODY.search(files[name])] or mains
    taken = included_names(files)
    candidates = [name for name in whole if name not in taken] or whole
    if not candidates:
        texts = [name for name, text in files.items() if looks_like_tex(text)]
        candidates = texts if len(texts) == 1 else []
    return min(candidates, key=lambda name: _main_rank(name, files[name]), default=None)


def _main_rank(name: str, text: str) -> tuple[int, int, int, str]:
    base = posixpath.basename(name).lower()
    preferred = _PREFERRED.index(base) if base in _PREFERRED else len(_PREFERRED)
    return name.count("/"), preferred, -len(text), name


def included_names(files: Mapping[str, str]) -> set[str]:
    """Names of the files that other ones take in."""
    taken: set[str] = set()
    for name, text in files.items():
        for match in _INPUT.finditer(text):
            if not _is_commented(text, match.start()):
                taken.update(found for found in _targets(match, name) if found in files and found != name)
    return taken


class Project:
    """The files of one document."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files

    def text(self, name: str) -> str | None:
        """The content of a file; None if there is none of that name."""
        return self._files.get(name)

    def whole(self, main: str, limit: int) -> str:
        """The main file with every file that it takes in, in its place; of a subfile only its body.

        A file that takes in itself, and one that is not there, leave nothing.

        Args:
            main: name of the main file.
            limit: longest result, in characters.

        Raises:
            TooLargeError: the result would be longer, or thousands of files are taken in.
        """
        pieces: list[str] = []
        self._budget = limit
        self._inputs = 0
        self._begun = False
        self._add(main, (), pieces)
        return "".join(pieces)

    def _add(self, name: str, above: tuple[str, ...], pieces: list[str]) -> None:
        text = self.text(name)
        if text is None or name in above or len(above) >= _DEEPEST:
            return
        self._inputs += 1
        if self._inputs > _MOST_INPUTS:
            raise TooLargeError
        if self._begun:
            text = _body_of(text)
        position = 0
        for match in _INPUT.finditer(text):
            if _is_commented(text, match.start()):
                continue
            self._take(text[position : match.start()], pieces)
            position = match.end()
            for target in _targets(match, name):
                if self.text(target) is not None:
                    self._add(target, (*above, name), pieces)
                    break
        self._take(text[position:], pieces)

    def _take(self, text: str, pieces: list[str]) -> None:
        self._budget -= len(text)
        if self._budget < 0:
            raise TooLargeError
        self._begun = self._begun or _BODY.search(text) is not None
        pieces.append(text)


def _body_of(text: str) -> str:
    """A subfile is a document of its own; only what it adds to the whole is wanted."""
    begin = _BODY.search(text)
    if not begin or not is_main(text):
        return text
    end = text.find("\\end{document}", begin.end())
    return text[begin.end() : end if end >= 0 else len(text)]


def _is_commented(text: str, position: int) -> bool:
    line = text[text.rfind("\n", 0, position) + 1 : position]
    return re.search(r"(?<!\\)(?:\\\\)*%", line) is not None


def _targets(match: re.Match[str], including: str) -> Iterable[str]:
    """The names that an ``\\input`` may mean, inside the project; names that lead out of it are none."""
    name = (match["first"] or match["plain"] or "").strip().strip('"')
    if match["command"] in ("import", "subimport"):
        name = posixpath.join(name, (match["second"] or "").strip())
    if not name or name.startswith("/") or "\\" in name:
        return
    for folder in dict.fromkeys(["", posixpath.dirname(including)]):
        path = posixpath.normpath(posixpath.join(folder, name))
        if path.startswith(("..", "/")):
            continue
        yield path
        if not path.endswith(".tex"):
            yield path + ".tex"
