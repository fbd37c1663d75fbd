"""Runs of characters whose words are given: contractions, abbreviations with their full stop, times of day, faces."""

from __future__ import annotations

from collections.abc import Iterator

_ABBREVIATIONS = (
    "Adm. Ak. Ala. Apr. Ariz. Ark. Aug. Bros. Calif. Co. Colo. Conn. Corp. D.C. Dec. Del. Dr. E.G. E.g. Feb. Fla. Ga. "
    "Gen. Gov. I.E. I.e. Ia. Id. Ill. Inc. Ind. Jan. Jr. Jul. Jun. Kan. Kans. Ky. La. Ltd. Mar. Mass. Md. Messrs. "
    "Mich. Minn. Miss. Mo. Mont. Mr. Mrs. Ms. Mt. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. Ore. "
    "Pa. Ph.D. Prof. Rep. Rev. S.C. Sen. Sep. Sept. St. Tenn. Va. Wash. Wis. a.m. p.m. co. e.g. i.e. vs. v.s."
)
_WHOLE = (
    "and/or w/o C++ ma'am Ma'am o'clock O'clock 'S 's 'd 'll 're 'em 'cause 'Cause 'cos 'Cos 'coz 'Coz 'cuz 'Cuz 'bout "
    "'nuff ' '' ‘s ‘S — \\n \\t"
)
_WITHOUT_G = "doin goin nothin nuthin ol somethin havin lovin"
_INITIALS = "abcdefghijklmnopqrstuvwxyzäöü"
_FACES = (
    ":) :( :D :] :-) :-( :-D :-] ;) ;-) ;D ;-D =) =( =D =] =[ =/ =3 =| :/ :-/ :| :-| :} :-} :* :-* :3 "
    ":-3 :> :-> :O :-O :o :-o :P :-P :p :-p :X :-X :x :-x :0 :-0 :1 :)) :-)) :))) :-))) :(( :-(( :((( "
    ":-((( :o) :() :') :'-) :'( :'-( >:( >:o (: (-: (= (o: (; (-; (-8 [: [-: [= ): )-: ]= 8) 8-) 8D 8-D "
    'xD XD xDD XDD <3 <33 <333 </3 ><(((*> \\") ^_^ ^__^ ^___^ >.< >.> <.< ._. ;_; -_- -__- @_@ o.o o.O '
    "O.o O.O 0.o o.0 0.0 v.v V.V o_o o_O O_o O_O 0_o o_0 0_0 v_v V_V (^_^) (-_-) (._.) (>_<) (*_*)"
)
_PAIRS = (("can", "not"), ("gon", "na"), ("got", "ta"), ("let", "'s"), ("c'm", "on"), ("not", "'ve"))
_ORDINARY = "ill its hell shell shed were well whore"
"""Words of their own, which would be contractions without an apostrophe."""


def exceptions() -> dict[str, tuple[str, ...]]:
    """Run -> its words, which are the run when they are joined."""
    table = dict(_contractions())
    for ordinary in _ORDINARY.split():
        table.pop(ordinary, None)
        table.pop(ordinary.title(), None)
    for first, second in _PAIRS:
        for word in (first, first[0].upper() + first[1:]):
            table[word + second] = (word, second)
    table |= {"y'all": ("y'", "all"), "yall": ("y", "all")}
    for hour in range(1, 13):
        table |= {f"{hour}{half}": (str(hour), half) for half in ("am", "pm", "a.m.", "p.m.")}
    without_g = [f"{word}'" for word in _WITHOUT_G.split()]
    whole = [*_ABBREVIATIONS.split(), *_WHOLE.split(), *_FACES.split(), *without_g, *map(str.title, without_g)]
    whole += [f"{letter}." for letter in _INITIALS]
    table |= {word: (word,) for word in whole}
    table |= {f"°{scale}.": ("°", scale, ".") for scale in "cfkCFK"}
    curly = {
        run.replace("'", "’"): tuple(part.replace("'", "’") for part in parts)
        for run, parts in table.items()
        if "'" in run
    }
    return table | curly


def _contractions() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Two or three words written as one, with the apostrophe and, as people type, without it."""
    will, would, have, are, is_ = ("'ll",), ("'d",), ("'ve",), ("'re",), ("'s",)
    endings: dict[str, list[tuple[str, ...]]] = {}

    def add(stems: str, *more: tuple[str, ...]) -> None:
        for stem in stems.split():
            endings.setdefault(stem, []).extend(more)

    asking = "who what when where why how there"
    pointing = "that this"
    add(f"i you he she it we they {asking} {pointing} these those", will, would, ("'ll", "'ve"), ("'d", "'ve"))
    add(f"i you we they {asking} these those could might must should would", have)
    add(f"you we they {asking} these those", are)
    add(f"he she it {asking} {pointing}", is_)
    add("i", ("'m",), ("'m", "a"))
    add("ca could do does did had may might must need ought sha should wo would", ("n't",), ("n't", "'ve"))
    add("ai are is was were have has dare", ("n't",))
    for stem, tails in endings.items():
        for tail in tails:
            for word in (stem, stem.title()):
                for form in (tail, tuple(part.replace("'", "") for part in tail)):
                    yield word + "".join(form), (word, *form)
