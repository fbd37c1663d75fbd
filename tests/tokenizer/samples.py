"""Text in many scripts, made without files: words, code points of many blocks, white space, code, emoji."""

from __future__ import annotations

import random
import sysconfig
from functools import cache
from pathlib import Path

from llm_trainer.tokenizer import BPETokenizer

SCRIPTS: dict[str, str] = {
    "english": "The quick brown fox doesn't jump; it's LAZY. They'll've 12345 reasons (3.14159)!\n",
    "german": "Über die Straße läuft ein Mädchen, größer als 1,5 Meter.\r\n",
    "vietnamese": "Tất cả mọi người sinh ra đều được tự do và bình đẳng.\n",
    "russian": "Все люди рождаются свободными и равными в своём достоинстве.\n",
    "greek": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι.\n",
    "arabic": "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق ١٢٣٤\n",
    "hebrew": "כל בני אדם נולדו בני חורין ושווים בערכם\n",
    "hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता १२३\n",
    "thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกัน\n",
    "chinese": "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心。\n",
    "japanese": "すべての人間は、生まれながらにして自由であり、カタカナも漢字も。\n",
    "korean": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.\n",
    "amharic": "የሰው ልጅ ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው።\n",
    "emoji": "👋🏽 🙂🙂🙂 👩‍👩‍👧‍👦 🏳️‍🌈 ✨❤️ 🇫🇷🇩🇪\n",
    "code": "def f(x):\n\tif x >= 10:\n        return {'a': [x]*2}  # ok\n\n\n\nclass _A_B: pass\n",
    "spaces": "a  b   c\t\td \n \n\n  e\u00a0f\u3000g\u2028h \r\n\r\n   ",
    "repeats": "aaaaaaaa aaa aaaaa abababab bababa =======!!!! 0000000 \n",
}

# Assigned ranges of many blocks, from Latin to Egyptian hieroglyphs and mathematical letters.
_RANGES = [
    (0x20, 0x7E), (0xA1, 0x24F), (0x250, 0x2AF), (0x300, 0x36F), (0x391, 0x3C9), (0x400, 0x45F), (0x531, 0x556),
    (0x5D0, 0x5EA), (0x621, 0x64A), (0x660, 0x669), (0x905, 0x939), (0x966, 0x96F), (0xE01, 0xE3A), (0x10D0, 0x10F0),
    (0x1200, 0x1240), (0x1780, 0x17B3), (0x2010, 0x2027), (0x2150, 0x218B), (0x2200, 0x22FF), (0x3041, 0x3096),
    (0x30A1, 0x30FA), (0x4E00, 0x9FA5), (0xAC00, 0xD7A3), (0xFF01, 0xFF5E), (0x10330, 0x1034A), (0x13000, 0x13100),
    (0x1D400, 0x1D454), (0x1F300, 0x1F64F), (0xE000, 0xE010),
]  # fmt: skip


@cache
def many_strings(count: int = 1200) -> list[str]:
    """``count`` different strings: mixtures of sentences, and runs of random code points."""
    chooser = random.Random(0)
    words = [word for text in SCRIPTS.values() for word in text.split(" ")]
    glue = [" ", "  ", "\n", "\t", "", "\n\n ", "'s ", " 42 ", "...", "<|endoftext|>"]
    strings = set(SCRIPTS.values())
    while len(strings) < count:
        if chooser.random() < 0.5:
            low, high = chooser.choice(_RANGES)
            characters = (chr(chooser.randint(low, high)) for _ in range(chooser.randint(1, 20)))
            strings.add("".join(char + chooser.choice(["", "", "", " "]) for char in characters))
        else:
            strings.add("".join(chooser.choice(words) + chooser.choice(glue) for _ in range(chooser.randint(1, 12))))
    return sorted(strings)


@cache
def trained(pattern: str = "gpt4", vocab_size: int = 700) -> BPETokenizer:
    """A small tokenizer that has seen every script. Shared: do not train it again."""
    texts = [text * 3 for text in SCRIPTS.values()]
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    return BPETokenizer().train_from_iterator(texts, vocab_size, pattern=pattern, special_tokens=special, workers=1)


@cache
def standard_library(max_bytes: int) -> list[str]:
    """Sources of the running Python, about ``max_bytes`` of them."""
    texts: list[str] = []
    total = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if total >= max_bytes:
            break
        if "site-packages" not in path.parts:
            texts.append(path.read_text(encoding="utf-8", errors="ignore"))
            total += path.stat().st_size
    return texts
