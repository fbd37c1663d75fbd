"""The 22 parts of The Pile, with the sizes of table 1 of its paper (https://arxiv.org/abs/2101.00027)."""

from __future__ import annotations

from llm_trainer.corpus.sources.pile import PILE_CATEGORIES
from llm_trainer.corpus.sources.registry import Commercial, DataSet

# Component, GiB before weighting, licence or what is known of it, commercial use, what it is.
_PARTS: tuple[tuple[str, float, str, Commercial, str], ...] = (
    (
        "Pile-CC",
        227.12,
        "Common Crawl's terms of use; the pages belong to their authors",
        "unclear",
        "Web pages, by jusText",
    ),
    ("PubMed Central", 90.27, "Every paper has its own", "unclear", "Full biomedical papers"),
    ("Books3", 100.96, "No licence: books under copyright; withdrawn in 2023", "no", "Books of a private library"),
    ("OpenWebText2", 62.77, "The pages belong to their authors", "unclear", "Pages linked to on Reddit"),
    ("ArXiv", 56.21, "Every paper has its own", "unclear", "LaTeX sources of preprints"),
    ("Github", 95.16, "Every repository has its own; not filtered by licence", "unclear", "Source code"),
    ("FreeLaw", 51.15, "Public domain (opinions of courts of the USA)", "yes", "Court opinions"),
    ("StackExchange", 32.20, "CC-BY-SA-4.0", "yes", "Questions and answers"),
    ("USPTO Backgrounds", 22.90, "Public domain (patents of the USA)", "yes", "Background sections of patents"),
    ("PubMed Abstracts", 19.26, "The abstracts belong to their publishers", "unclear", "Abstracts of papers"),
    ("Gutenberg (PG-19)", 10.88, "Public domain in the USA", "yes", "Books before 1919"),
    ("OpenSubtitles", 12.98, "The subtitles belong to their authors", "unclear", "Subtitles of films"),
    ("Wikipedia (en)", 6.38, "CC-BY-SA-3.0", "yes", "English Wikipedia"),
    ("DM Mathematics", 7.75, "Apache-2.0", "yes", "Generated exercises in mathematics"),
    ("Ubuntu IRC", 5.52, "Public logs without a licence", "unclear", "Chat about Ubuntu"),
    ("BookCorpus2", 6.30, "No licence from the authors", "no", "Self-published books"),
    ("EuroParl", 4.59, "Free to reuse if the source is named", "yes", "Debates of the European Parliament"),
    ("HackerNews", 3.90, "The comments belong to their authors", "unclear", "Comment threads"),
    ("YoutubeSubtitles", 3.73, "The subtitles belong to their authors", "unclear", "Subtitles that people wrote"),
    ("PhilPapers", 2.38, "Every paper has its own", "unclear", "Papers in philosophy"),
    ("NIH ExPorter", 1.89, "Public domain (USA)", "yes", "Abstracts of grants"),
    ("Enron Emails", 0.88, "Public by court order; private mail of real people", "unclear", "Mail of a company"),
)

PILE_PARTS = tuple(
    DataSet(
        name=f"The Pile: {name}",
        what=f"{what}; a part of The Pile, category {PILE_CATEGORIES[name]}.",
        size=f"{size:.2f} GiB",
        licence=licence,
        commercial=commercial,
        category={"academic": "academic", "online": "web", "prose": "books", "dialog": "conversation"}.get(
            PILE_CATEGORIES[name], "code" if name == "Github" else "mixed"
        ),
        quality="as in 2020; see the paper, section 2",
        processing="redact, deduplicate, decontaminate",
        home="https://arxiv.org/abs/2101.00027",
        aliases=(f"pile:{name}",),
    )
    for name, size, licence, commercial, what in _PARTS
)
