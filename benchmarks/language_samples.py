"""The Universal Declaration of Human Rights in the languages that the offline model knows, for ``data_pipeline.py``.

Every sample is cut into pieces and the language of each is found. Files whose encoding Python does not know (fonts) and
languages that the model has never seen are left out. Members of a group (below) are one answer: their declarations
differ in a few words of a page.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

from common import now

from llm_trainer.corpus.filters.language import identify

PIECE = 600
GROUPS = ({"bs", "hr", "sr"}, {"id", "ms"}, {"no", "nb", "nn", "da"})
_ENCODINGS = {"Latin1": "latin-1", "Latin2": "iso8859-2", "UTF8": "utf-8", "Hebrew": "cp1255", "Greek": "iso8859-7"}
FILES = {
    "af": "Afrikaans-Latin1",
    "be": "Belorus_Belaruski-UTF8",
    "bg": "Bulgarian_Balgarski-UTF8",
    "bn": "Bengali-UTF8",
    "br": "Breton-Latin1",
    "bs": "Bosnian_Bosanski-UTF8",
    "ca": "Catalan_Catala-Latin1",
    "cs": "Czech_Cesky-UTF8",
    "cy": "Welsh_Cymraeg-Latin1",
    "da": "Danish_Dansk-Latin1",
    "de": "German_Deutsch-Latin1",
    "el": "Greek_Ellinika-UTF8",
    "en": "English-Latin1",
    "eo": "Esperanto-UTF8",
    "es": "Spanish_Espanol-Latin1",
    "et": "Estonian_Eesti-Latin1",
    "eu": "Basque_Euskara-Latin1",
    "fa": "Farsi_Persian-UTF8",
    "fi": "Finnish_Suomi-Latin1",
    "fo": "Faroese-Latin1",
    "fr": "French_Francais-Latin1",
    "ga": "IrishGaelic_Gaeilge-Latin1",
    "gl": "Galician_Galego-Latin1",
    "gu": "Gujarati-UTF8",
    "ha": "Hausa_Haoussa-Latin1",
    "he": "Hebrew_Ivrit-UTF8",
    "hi": "Hindi-UTF8",
    "hr": "Croatian_Hrvatski-Latin2",
    "ht": "HaitianCreole_Kreyol-Latin1",
    "hu": "Hungarian_Magyar-UTF8",
    "id": "Indonesian-Latin1",
    "is": "Icelandic_Yslenska-Latin1",
    "it": "Italian_Italiano-Latin1",
    "ja": "Japanese_Nihongo-UTF8",
    "jv": "Javanese-Latin1",
    "kk": "Kazakh-UTF8",
    "kn": "Kannada-UTF8",
    "ko": "Korean_Hankuko-UTF8",
    "la": "Latin_Latina-Latin1",
    "lb": "Luxembourgish_Letzebuergeusch-Latin1",
    "lg": "Luganda_Ganda-Latin1",
    "lo": "Lao-UTF8",
    "mg": "Malagasy-Latin1",
    "mk": "Macedonian-UTF8",
    "mn": "Mongolian_Khalkha-UTF8",
    "mr": "Marathi-UTF8",
    "ms": "Malay_BahasaMelayu-Latin1",
    "mt": "Maltese-UTF8",
    "ne": "Nepali-UTF8",
    "nl": "Dutch_Nederlands-Latin1",
    "nn": "Norwegian_Norsk-Nynorsk-Latin1",
    "no": "Norwegian-Latin1",
    "pa": "Punjabi_Panjabi-UTF8",
    "pl": "Polish-Latin2",
    "pt": "Portuguese_Portugues-Latin1",
    "ro": "Romanian_Romana-Latin2",
    "ru": "Russian_Russky-UTF8",
    "rw": "Kinyarwanda-Latin1",
    "sa": "Sanskrit-UTF8",
    "si": "Sinhala-UTF8",
    "sk": "Slovak_Slovencina-Latin2",
    "sl": "Slovenian_Slovenscina-Latin2",
    "sn": "Shona-Latin1",
    "so": "Somali-Latin1",
    "sq": "Albanian_Shqip-Latin1",
    "sr": "Serbian_Srpski-UTF8",
    "sv": "Swedish_Svenska-Latin1",
    "sw": "Swahili_Kiswahili-Latin1",
    "ta": "Tamil-UTF8",
    "tl": "Filipino_Tagalog-Latin1",
    "tr": "Turkish_Turkce-UTF8",
    "uk": "Ukrainian-UTF8",
    "vi": "Vietnamese-UTF8",
    "wa": "Walloon_Wallon-Latin1",
    "xh": "Xhosa-Latin1",
    "yo": "Yoruba-UTF8",
    "zh": "Chinese_Mandarin-UTF8",
    "zu": "Zulu-Latin1",
}


def measure_languages(archive: Path) -> dict[str, Any]:
    """Accuracy over all pieces, the confusions, and pieces a second.

    Args:
        archive: ``udhr.zip`` of NLTK's corpora.
    """
    right = total = strict = 0
    confused: Counter[str] = Counter()
    start = now()
    with zipfile.ZipFile(archive) as stored:
        for language, file in FILES.items():
            encoding = _ENCODINGS[file.rpartition("-")[2]]
            text = stored.read(f"udhr/{file}").decode(encoding, "ignore")
            alike = next((group for group in GROUPS if language in group), {language})
            for begin in range(0, len(text) - PIECE // 2, PIECE):
                found, _ = identify(text[begin : begin + PIECE])
                total += 1
                strict += found == language
                right += found in alike
                if found not in alike:
                    confused[f"{language} as {found}"] += 1
    return {
        "languages": len(FILES),
        "pieces": total,
        "accuracy": right / total,
        "accuracy_without_groups": strict / total,
        "confused": dict(confused.most_common(20)),
        "pieces_per_second": total / (now().cpu - start.cpu),
    }
