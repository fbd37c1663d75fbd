"""Small texts with known answers: each breaks some rules and keeps others."""

from __future__ import annotations

PROSE = (
    "It was late when they came to the house, and nobody was there to open the door. They waited for a "
    "while; then the youngest said: \"We can't stay out here all night, can we?\" The others didn't "
    "answer. It had begun to rain, and the wind that came with it was colder than it ought to be in "
    "May.\n\n"
    "At last Mr. Hale, who had been an engineer in Boston, Mass., took a small knife from his pocket and "
    "began to work on the lock. He'd done it before, he told them, at 5 p.m. on the 3rd of June 1921... "
    "or was it 1922? It took him 10 minutes. The door swung open with a noise like an old man's cough.\n"
    "Inside it was dark. They could see a table, four chairs and - far back - a self-made shelf with "
    "some books on it."
)
MENU = "Home\nNews\nAbout us\nContact\nPrivacy policy\nTerms of use\nHome\nNews\nAbout us\nContact\n" * 3
CODE = (
    "def main(arguments: list[str]) -> int:\n    # Read what was given.\n    for name in arguments:\n"
    "        print(name, end='')  # {name}\n        if name.startswith('#'):\n            return 1\n    return 0\n\n\n"
    "if __name__ == '__main__':\n    sys.exit(main(sys.argv[1:]))\n"
)
LIST = "\n".join(f"- item number {number} of the list" for number in range(40)) + "\n• the end of it all…"
SPAM = "Buy the best watches to have and be happy with our shop. " * 12 + "Click here... " * 30
PAGE = (
    "Welcome to the page of the town.[1] It has been there for years.[citation needed]\n"
    "Please enable JavaScript to see all of it.\n"
    "This page uses cookies and has a privacy policy.\n"
    "The town is small. It is old! Is it nice? Yes, it is.\n"
    "Read more\n"
    "Lorem ipsum is here to stay, they say."
)
NUMBERS = "\n".join(f"{number} {number * number} {number / 7:.3f} | {number % 3} %" for number in range(60))
CHINESE = "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。\n" * 3
SYMBOLS = "# # ## ... … -- || << >> ** !! ?? ;; :: // \\\\ && %% $$ @@ ^^ ~~ ` ' \" ( ) [ ] { } + = _ •"
_VERSE = ("O the rain, the rain,", "the rain on the sea;", "O the rain, the rain,", "and the wind with me.")
VERSE = "\n\n\n".join(_VERSE * 4)

TEXTS = {name.lower(): text for name, text in list(globals().items()) if name.isupper() and isinstance(text, str)}
