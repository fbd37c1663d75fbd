"""What the commands and environments of LaTeX mean for a reader of plain text."""

from __future__ import annotations

import unicodedata

_ACCENTS = {
    "'": "\u0301", "`": "\u0300", "^": "\u0302", '"': "\u0308", "~": "\u0303", "=": "\u0304", ".": "\u0307",
    "c": "\u0327", "v": "\u030c", "u": "\u0306", "H": "\u030b", "k": "\u0328", "r": "\u030a", "d": "\u0323",
    "b": "\u0331",
}  # fmt: skip
ACCENT_NAMES = frozenset(_ACCENTS)
"""Commands that put an accent on the letter behind them."""


def accented(command: str, letter: str) -> str:
    """The letter with the accent of a command, as one character where Unicode has it."""
    letter = {"\\i": "i", "\\j": "j"}.get(letter.strip(), letter.strip())
    if not letter:
        return ""
    return unicodedata.normalize("NFC", letter[0] + _ACCENTS[command] + letter[1:])


SYMBOLS = {
    "ae": "æ", "AE": "Æ", "oe": "œ", "OE": "Œ", "aa": "å", "AA": "Å", "o": "ø", "O": "Ø", "l": "ł", "L": "Ł",
    "ss": "ß", "i": "ı", "j": "ȷ", "dh": "ð", "DH": "Ð", "th": "þ", "TH": "Þ", "S": "§", "P": "¶", "dag": "†",
    "ddag": "‡", "copyright": "©", "pounds": "£", "euro": "€", "texteuro": "€", "ldots": "…", "dots": "…",
    "textellipsis": "…", "textendash": "–", "textemdash": "—", "textquoteleft": "‘", "textquoteright": "’",
    "textquotedblleft": "“", "textquotedblright": "”", "textbackslash": "\\", "textasciitilde": "~",
    "textasciicircum": "^", "textbar": "|", "textless": "<", "textgreater": ">", "textunderscore": "_",
    "textdegree": "°", "degree": "°", "texttrademark": "™", "textregistered": "®", "textbullet": "•",
    "textsection": "§", "guillemotleft": "«", "guillemotright": "»", "og": "« ", "fg": " »", "TeX": "TeX",
    "LaTeX": "LaTeX", "LaTeXe": "LaTeX2e", "BibTeX": "BibTeX", "quad": " ", "qquad": " ", "space": " ",
    "enspace": " ", "thinspace": " ", "nobreakspace": " ", "lbrace": "{", "rbrace": "}", "slash": "/",
    "eg": "e.g.", "ie": "i.e.", "etc": "etc.", "textmu": "µ", "textonehalf": "½", "textperiodcentered": "·",
}  # fmt: skip
"""Commands that stand for a character or a short text."""

SIGNS = {
    "\\": "\ue001", "&": "&", "%": "%", "$": "$", "#": "#", "_": "_", "{": "{", "}": "}", " ": " ", "\n": " ",
    "~": "~", ",": " ", ";": " ", ":": " ", "!": "", "-": "", "/": "", "@": "", "*": "",
}  # fmt: skip
"""Commands of one sign. U+E001 is a line end that is meant."""

HEADINGS = {
    "part": "# ", "chapter": "# ", "section": "## ", "subsection": "### ", "subsubsection": "#### ",
    "paragraph": "", "subparagraph": "", "title": "# ", "frametitle": "## ",
}  # fmt: skip
"""Commands whose argument is a heading, and the mark before it."""

_ONE = (
    "label ref eqref pageref autoref nameref vref cref Cref namecref labelcref cite citep citet citealp citealt "
    "citeauthor citeyear citeyearpar citenum nocite parencite textcite autocite footcite fullcite Citet Citep vspace "
    "hspace includegraphics bibliography bibliographystyle usepackage documentclass documentstyle pagestyle "
    "thispagestyle pagenumbering input include includeonly hyphenation index glossary graphicspath DeclareMathOperator "
    "phantom vphantom hphantom color bibitem markboth markright author date thanks affiliation affil institute email "
    "address addbibresource RequirePackage hypersetup geometry newgeometry fontfamily fontseries fontshape "
    "fontencoding theoremstyle numberwithin allowdisplaybreaks "
    "cmidrule cline externaldocument captionsetup lstset tikzset pgfplotsset usetikzlibrary hypertarget_ tag "
    "newcounter stepcounter refstepcounter newenvironment_ keywords_ pdfbookmark phantomsection_ includepdf "
    "linespread enlargethispage newlength setstretch orcid printbibliography vskip_ kern_"
)
_TWO = (
    "setcounter addtocounter setlength addtolength rule newtheorem newcommand renewcommand providecommand "
    "fontsize titleformat definecolor newtheorem* DeclareRobustCommand renewenvironment_ addcontentsline_ raisebox_ "
    "newfloat settowidth"
)
_THREE = "newenvironment renewenvironment addcontentsline multicolumn_ definecolor"
DROPPED = (
    {name: 1 for name in _ONE.split() if not name.endswith("_")}
    | {name: 2 for name in _TWO.split() if not name.endswith("_")}
    | {name: 3 for name in _THREE.split() if not name.endswith("_")}
)
"""Commands that go with their arguments, and how many these are; optional arguments go too."""

FIRST_DROPPED = {
    "href": 1, "textcolor": 1, "colorbox": 1, "hypertarget": 1, "hyperref": 0, "raisebox": 1, "parbox": 1,
    "resizebox": 2,
    "scalebox": 1, "rotatebox": 1, "foreignlanguage": 1, "selectlanguage": 1, "fcolorbox": 2, "multicolumn": 2,
    "hyperlink": 1, "adjustbox": 1, "href*": 1, "multirow": 2, "makebox": 0, "framebox": 0, "subfloat": 0,
}  # fmt: skip
"""Commands of which the last argument is text and the ones before are not, and how many those are."""

_DROPPED_ENVIRONMENTS_WORDS = """
figure figure* table table* tabular tabular* tabularx longtable tikzpicture picture thebibliography wrapfigure
wraptable pspicture sidewaystable sidewaysfigure comment filecontents filecontents* algorithm algorithmic
algorithm2e CCSXML tikzcd forest prooftree supertabular subfigure authors
"""
DROPPED_ENVIRONMENTS = frozenset(_DROPPED_ENVIRONMENTS_WORDS.split())
"""Environments that are no running text."""

ENVIRONMENT_ARGUMENTS = {
    "minipage": 1, "multicols": 1, "adjustbox": 1, "adjustwidth": 2, "list": 2, "spacing": 1, "thebibliography": 1,
    "tcolorbox": 0, "otherlanguage": 1, "subequations": 0, "textblock": 1, "array": 1,
}  # fmt: skip
"""Arguments that belong to an environment and not to its text."""

_TITLED_ENVIRONMENTS_WORDS = """
theorem lemma proposition corollary definition remark example exercise conjecture claim fact observation axiom
notation problem question solution proof note property assumption hypothesis warning thm lem prop cor defn
defi rem rmk eg ex conj prob defish
"""
TITLED_ENVIRONMENTS = frozenset(_TITLED_ENVIRONMENTS_WORDS.split())
"""Environments that begin with their own name."""
FULL_NAMES = {
    "thm": "theorem", "lem": "lemma", "prop": "proposition", "cor": "corollary", "defn": "definition",
    "defi": "definition", "rem": "remark", "rmk": "remark", "eg": "example", "ex": "exercise", "conj": "conjecture",
    "prob": "problem", "defish": "definition",
}  # fmt: skip

_MATH_ENVIRONMENTS_WORDS = """
equation align gather multline eqnarray displaymath math flalign alignat split IEEEeqnarray dmath alignedat
equation* align* gather* multline* eqnarray* flalign* alignat* IEEEeqnarray* dmath*
"""
MATH_ENVIRONMENTS = frozenset(_MATH_ENVIRONMENTS_WORDS.split())
"""Environments that are kept to the letter, as mathematics."""
_VERBATIM_ENVIRONMENTS_WORDS = """
verbatim verbatim* Verbatim lstlisting minted alltt semiverbatim code
"""
VERBATIM_ENVIRONMENTS = frozenset(_VERBATIM_ENVIRONMENTS_WORDS.split())
"""Environments that are kept to the letter, as code."""
