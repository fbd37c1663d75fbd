"""LaTeX to text: what a reader of the paper would read."""

from __future__ import annotations

import gzip
import io
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from llm_trainer.corpus.sources.latex_macros import MacroBombError
from llm_trainer.corpus.sources.latex_text import latex_title, latex_to_text
from tests.corpus.sources.reading import read

PAPER = r"""
\documentclass[11pt]{article} % a comment
\usepackage{amsmath}
\newcommand{\kw}[1]{\textbf{#1}}
\newcommand{\R}{\mathbb{R}}
\title{On \emph{Sets}}
\author{A. Author}
\begin{document}
\maketitle
\begin{abstract}
We study sets.
\end{abstract}
\section{Introduction}\label{sec:intro}
As shown in \cite{smith}, the \kw{main idea} (see Section~\ref{sec:intro}) is
that $x \in \R$ costs 5\% more. % hidden
Schr\"odinger and Erd\H{o}s met at the caf\'e---twice.

\begin{equation}\label{eq:one}
  E = mc^2 % the formula
\end{equation}
\begin{figure}\includegraphics{a.png}\caption{A figure.}\end{figure}
\begin{itemize}
\item First thing
\item[(b)] Second thing
\end{itemize}
\begin{theorem}[Zorn] Every chain is bounded.\end{theorem}
Visit \href{https://example.org/a_b}{our page}\footnote{It is small.}.
\begin{verbatim}
if x % 2: \cite{no}
    pass
\end{verbatim}
\begin{thebibliography}{9}\bibitem{smith} Smith, J.\end{thebibliography}
\end{document}
after the end
"""


@pytest.mark.covers("R174")
def test_a_paper_reads_well() -> None:
    text = latex_to_text(PAPER)
    for kept in ("$x \\in \\R$", "E = mc^2", "main idea", "5% more", "Schrödinger", "Erdős", "café—twice", "our page"):
        assert kept in text
    for kept in (
        "## Introduction",
        "- First thing",
        "- (b) Second thing",
        "Theorem (Zorn). Every",
        "if x % 2: \\cite{no}",
    ):
        assert kept in text
    for gone in (
        "hidden",
        "smith",
        "Smith",
        "\\label",
        "figure",
        "\\kw",
        "after the end",
        "usepackage",
        "\\ref",
        "the formula",
    ):
        assert gone not in text
    assert latex_title(PAPER) == "On Sets"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (r"``quoted'' -- and \textit{nested \textbf{deeply}}", "“quoted” – and nested deeply"),
        (r"\'{E}t\'e \c{c}a \~nandu \ss \O sterbro \aa", "Été ça ñandu ßØsterbro å"),
        (r"price \$5 \& 100\% of a\_b \{x\}", "price $5 & 100% of a_b {x}"),
        (r"a\iffalse hidden \iftrue more \fi \else shown \fi b", "ashown b"),
        (r"\newcommand{\two}[2][x]{#1 and #2}\two{b}, \two[a]{c}", "x and b, a and c"),
        (r"\def\me{myself}By \me.", "By myself."),
        (r"line one\\ line two", "line one\nline two"),
        (r"\unknown[opt]{kept text} \vspace{1cm}end", "kept text end"),
        (r"unbalanced $ sign and {brace", "unbalanced $ sign and brace"),
        (r"code \verb|a%b_c| here % no", "code a%b_c here"),
        ("", ""),
    ],
)
def test_small_things(source: str, text: str) -> None:
    assert latex_to_text(source) == text


def test_hostile_sources_end_soon() -> None:
    doubling = "".join(f"\\newcommand{{\\m{chr(98 + i)}}}{{\\m{chr(97 + i)}\\m{chr(97 + i)}}}" for i in range(24))
    with pytest.raises(MacroBombError):
        latex_to_text("\\newcommand{\\ma}{bang bang}" + doubling + "\\my")
    assert latex_to_text(r"\newcommand{\me}{again \me}x \me") == "x again"
    started = time.process_time()
    for piece in (
        "{",
        "\\begin{equation}x\n",
        "$ a ",
        "\\'{",
        "\\cite{",
        "\\foo[",
        " ",
        "( see ",
        "\\begin{figure}",
        "\\iffalse ",
    ):
        latex_to_text(piece * (60_000 // len(piece)))
    assert time.process_time() - started < 10


def tar_of(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content.encode())
            archive.addfile(info, io.BytesIO(content.encode()))
    return buffer.getvalue()


LONG = "A sentence of the paper that says something. " * 10
PROJECT = {
    "main.tex": "\\documentclass{article}\\begin{document}"
    + LONG
    + "\\input{parts/one}\\include{parts/two.tex}\\end{document}",
    "parts/one.tex": "First part. % \\input{parts/two}\n\\input{main}",
    "parts/two.tex": "Second part. \\input{../../etc/passwd}\\input{/etc/passwd}",
    "old.tex": "\\documentclass{article} no body",
}


@pytest.mark.covers("R174")
def test_a_project_in_an_archive_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "paper.tar.gz"
    path.write_bytes(tar_of(PROJECT))
    documents, losses = read("latex", path)
    assert [document.id for document in documents] == ["main.tex"]
    assert "First part." in documents[0].text and "Second part." in documents[0].text
    assert "root:" not in documents[0].text
    assert documents[0].text.count("Second part.") == 1
    assert losses.counts == {}
    with zipfile.ZipFile(tmp_path / "paper.zip", "w") as archive:
        for name, content in PROJECT.items():
            archive.writestr(name, content)
    assert read("latex", tmp_path / "paper.zip")[0][0].text == documents[0].text


@pytest.mark.covers("R174")
def test_arxiv_archives_of_archives(tmp_path: Path) -> None:
    single = gzip.compress(("\\documentstyle{article}\n\\begin{document}" + LONG + "\\end{document}").encode("latin-1"))
    members = {"0704/0704.0001.gz": tar_of(PROJECT), "0704/0704.0002.gz": single, "0704/0704.0003.gz": single[:60]}
    path = tmp_path / "arXiv_src_0704_001.tar"
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    documents, losses = read("latex", path)
    assert [document.id for document in documents] == ["0704/0704.0001.gz:main.tex", "0704/0704.0002.gz:0704/0704.0002"]
    assert losses.counts["damaged"] == 1
    alone = tmp_path / "0704.0001.gz"
    alone.write_bytes(tar_of(PROJECT))
    assert read("latex", alone)[0][0].text == documents[0].text


def test_a_folder_gives_a_project_once(tmp_path: Path) -> None:
    for name, content in PROJECT.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "three.tex").write_text("Third. " + LONG, encoding="utf-8")
    (tmp_path / "book.tex").write_text(
        "\\documentclass{book}\\begin{document}\\input three \\end{document}", encoding="utf-8"
    )
    assert len(read("latex", tmp_path / "main.tex")[0]) == 1
    assert read("latex", tmp_path / "three.tex")[1].counts == {"part_of_another": 1}
    assert "Third." in read("latex", tmp_path / "book.tex")[0][0].text


def test_links_and_names_that_lead_out_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.tex").write_text("the secret", encoding="utf-8")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link.tex").symlink_to(tmp_path / "secret.tex")
    source = "\\documentclass{a}\\begin{document}" + LONG + "\\input{../secret}\\input{link}\\end{document}"
    (inside / "main.tex").write_text(source, encoding="utf-8")
    assert "secret" not in read("latex", inside / "main.tex")[0][0].text


def test_inputs_that_double_and_files_that_are_no_tex(tmp_path: Path) -> None:
    files = {f"f{i}.tex": f"\\input{{f{i + 1}}}\\input{{f{i + 1}}}" for i in range(30)}
    files |= {"f30.tex": "x" * 1000, "main.tex": "\\documentclass{a}\\begin{document}\\input{f0}\\end{document}"}
    path = tmp_path / "a.tar.gz"
    path.write_bytes(tar_of(files))
    assert read("latex", path)[1].counts == {"too_large": 1}
    path.write_bytes(tar_of({"readme.txt": "hello"}))
    assert read("latex", path)[1].counts == {"no_tex": 1}
    (tmp_path / "n.tex").write_text("just words " * 50, encoding="utf-8")
    assert read("latex", tmp_path / "n.tex")[1].counts == {"not_tex": 1}
    path.write_bytes(tar_of(PROJECT)[:100])
    assert read("latex", path)[1].total >= 1


@pytest.mark.covers("R174")
def test_real_chapters_lose_their_commands_and_keep_their_words(shared_data: Path) -> None:
    path = shared_data / "latex" / "hott_book" / "hott-letter.tex"
    documents, losses = read("latex", path)
    text = documents[0].text
    assert losses.counts == {}
    assert len(text) > 1_000_000
    assert "## Sets and" in text and "Definition. A type $A$ is a set if for all $x,y:A$" in text
    for gone in ("\\cite{", "\\label{", "\\emph{", "\\documentclass", "\\begin{figure}"):
        assert text.count(gone) < 5
