"""Word lists of :mod:`llm_trainer.corpus.filters.toxicity`: rot13, so that the file can be read without reading them.

They are short on purpose. Everything here is offensive in nearly every sentence that holds it; words with an ordinary
meaning besides ("ass", the animal; "Dick", the name) are in a list of their own that only counts them in lower case,
and words that are common in calm prose ("hell", "damn", "gay", "queer", "retarded growth") are not listed at all.
Regenerate a line with ``codecs.encode(words, "rot13")``.
"""

from __future__ import annotations

import codecs


def _decode(words: str) -> frozenset[str]:
    return frozenset(codecs.decode(words, "rot13").split())


PROFANITY = _decode(
    "nefrubyr nefrubyrf nefrjvcr nffung nffungf nffubyr nffubyrf nffjvcr onqnff onyyfnpx onfgneq onfgneqf "
    "oryyraq ovgpu ovgpurf ovgpuvat ovgpul obyybpxf ohyyfuvg ohyyfuvggre ohyyfuvggvat puvpxrafuvg "
    "pyhfgreshpx pbpxfhpxre pbpxfhpxref pbpxfhpxvat penc penccl phag phagf qvpxurnq qvpxurnqf qvpxjnq "
    "qvcfuvg qvcfuvgf qbhpur qbhpuront qbhpurontf qhzonff qhzonffrf qhzoshpx spx shpx shpxrq shpxra shpxre "
    "shpxref shpxsnpr shpxurnq shpxva shpxvat shpxbss shpxf shpxhc shpxjvg shx shxvat tbofuvgr tbqqnza "
    "tbqqnzarq tbqqnzavg ubefrfuvg wnpxnff wnpxbss wrexbss xabournq zbsb zbgureshpx zbgureshpxre "
    "zbgureshpxref zbgureshpxva zbgureshpxvat cuhpx cvffrq cvffbss fung fuvg fuvgr fuvgsnpr fuvgsnprq "
    "fuvgurnq fuvgurnqf fuvgubyr fuvgubyrf fuvgyrff fuvgf fuvgfgbez fuvggre fuvggvat fuvggl fyhg fyhgf "
    "fyhggl fgsh gbffre gbffref gheq gheqf gjng gjngf jnax jnaxre jnaxref jnaxvat juber juberf jubevat jgs "
    "ncrfuvg nefrq ongfuvg ovgpurq ovgpuva ohyyfuvggrq ohyyfuvggref pyhfgreshpxf phagl qbhpuronttrel shpxrel "
    "shpxurnqf shpxjvgf wvmmrq xabournqf zbsbf cvffre fuvggrq fuvggvre fuvggvrfg jnaxrq juberq "
)
"""Swear words."""

SEXUAL = _decode(
    "nany navyvathf oqfz oybjwbo oybjwbof obbovrf obbof ohxnxr ohxxnxr pnzrygbr pnztvey pnztveyf pnzjuber "
    "pyvg pyvgf pbpxfhpxvat pernzcvr phzzvat phzfubg phzfubgf phaavyvathf qrrcguebng qvyqb qvyqbf "
    "rwnphyngvba sryyngvb svatreonat svfgvat sbbgwbo tnatonat tnatonatf tybelubyr unaqwbo unaqwbof uragnv "
    "wvmm znfgheongr znfgheongvat znfgheongvba zvys zvysf alzcub betvrf betl cbea cbeauho cbeab "
    "cbeabtencuvp cbeabtencul cbeabf cbeafgne cbeafgnef chffvrf chffl evzwbo frkpnz frkgvat fgevcgrnfr "
    "guerrfbzr guerrfbzrf gvgf gvggvrf gvggl hcfxveg iblrhejro kakk kivqrbf "
)
"""Words of pornography."""

AMBIGUOUS = _decode(
    "nff nffrf ohttre ohttref pbpx pbpxf qvpx qvpxf cvff kkk pbba pbbaf uror urorf xnssve xnssvef erqfxva erqfxvaf "
    "fdhnj fdhnjf "
)
"""Counted in lower case only: with a capital they are names, birds, cats, teams and valleys more often than not. Those
that are no slurs count as swear words."""

SLURS = {
    "ethnicity": _decode(
        "ornare ornaref pnzrywbpxrl puvaxl pbba pbbaf qntb qntbf qnexvr qnexvrf tbyyvjbt tbbx tbbxf tlcb "
        "tlccb unysoerrq ubaxvrf ubaxl vawha vawhaf wnc wncf wvtnobb wvtnobbf xnssve xnssvef avttn avttnf "
        "avttnm avttre avttrevfu avttref cnxv cnxvf cvpxnavaal cvxrl cvxrlf cbynpx cbynpxf enturnq "
        "enturnqf erqfxva erqfxvaf fnaqavttre fnaqavttref fcvp fcvpx fcvpxf fcvpf fdhnj fdhnjf "
        "gbjryurnq gbjryurnqf jrgonpx jrgonpxf jbt jbtf jbc jbcf mvccreurnq mvccreurnqf "
    ),
    "religion": _decode("puevfgxvyyre urro urrof ulzvr xvxr xvxrf zhffvr zhmmvr zhmmvrf zhmml lvq lvqf "),
    "sexuality": _decode(
        "snt snttbg snttbgf snttbgl snttl sntf urfur yrfob yrfobf cbbsgre cbbsgref furznyr furznyrf "
        "fbqbzvgr fbqbzvgrf genaavrf genaal "
    ),
    "disability": _decode("shpxgneq shpxgneqf yvogneq yvogneqf zbatbybvq zbatbybvqf ergneq fcnm fcnmm gneq gneqf "),
}
"""Group that is insulted -> slurs."""
