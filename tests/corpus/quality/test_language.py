"""Which language a text is in."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import pytest

from llm_trainer.common.errors import ConfigError, UserError
from llm_trainer.corpus.filters import language
from llm_trainer.corpus.filters.language import LANGUAGES, Language, identify, is_english, sample
from llm_trainer.corpus.filters.language_scores import language_scorer
from tests.corpus.quality.helpers import reasons, tagged
from tests.corpus.quality.language_samples import DECLARATION, ENCODINGS, SENTENCES

pytest.importorskip("py3langid")


@pytest.mark.covers("R187")
def test_sentences_in_twenty_languages_are_recognised():
    pairs = [(code, text) for code, texts in SENTENCES.items() for text in texts]
    wrong = [(code, identify(text)[0], text) for code, text in pairs if identify(text)[0] != code]
    assert len(SENTENCES) == 20
    assert len(wrong) <= 0.05 * len(pairs), wrong


@pytest.mark.covers("R187")
def test_only_english_is_english():
    assert all(is_english(text) for text in SENTENCES["en"])
    assert not any(is_english(text) for code, texts in SENTENCES.items() if code != "en" for text in texts)


@pytest.mark.covers("R187")
def test_the_declaration_of_human_rights_is_recognised_in_ninety_languages(shared_data):
    archive = zipfile.ZipFile(shared_data / "nltk_corpora" / "udhr.zip")
    wrong, files = [], 0
    for path in archive.namelist():
        name, _, encoding = path.rpartition("/")[2].rpartition("-")
        if name not in DECLARATION or encoding not in ENCODINGS:
            continue
        files += 1
        text = archive.read(path).decode(ENCODINGS[encoding], "replace")
        code = DECLARATION[name]
        found, _ = identify(text)
        relatives = language._RELATIVES.get(code, {code})
        if found not in relatives:
            wrong.append((path, found))
    assert files >= 120
    assert len(wrong) <= 0.02 * files, wrong


def test_all_languages_that_the_model_knows_can_be_asked_for():
    assert set(language_scorer().languages) == LANGUAGES


@pytest.mark.parametrize("text", ["", "   ", "12345 67890 !!!", "<div><br/></div>", "ok", "https://example.org/a/b/c"])
def test_texts_without_enough_language_are_unknown(text):
    assert identify(text) == ("unknown", 0.0)
    assert reasons(Language(), text) == ["language.unknown"]
    assert reasons(Language(keep_unknown=True), text) == []


def test_markup_and_links_do_not_count():
    english = SENTENCES["en"][0]
    assert identify(f"<p class='überschrift größe'>{english}</p> https://straße.example/über/uns")[0] == "en"
    assert "<" not in sample("<a href='x'>b</a>")


def test_a_long_text_is_judged_by_its_middle_too():
    menu = "Impressum Datenschutz Kontakt Anmelden Warenkorb Startseite Newsletter "
    text = menu + " ".join(SENTENCES["en"] * 40)
    assert is_english(text)


def test_varieties_that_cannot_be_told_apart_count_as_one():
    croatian = "Vlak je jutros opet kasnio, pa smo pješice otišli uz rijeku do ureda i nitko se nije žalio."
    assert reasons(Language(languages=["sr"]), croatian) == []
    assert reasons(Language(languages=["sr"], related=False), croatian)
    assert (
        reasons(Language(languages=["nb"]), "Toget var forsinket igjen i morges, så vi gikk langs elva til kontoret.")
        == []
    )


def test_a_cyrillic_text_with_latin_letters_in_it_stays_what_it_is():
    macedonian = "Сите човечки суштества се раѓаат слободни и еднакви по достоинство и права. Тие се обдарени со разум."
    mixed = macedonian.translate(str.maketrans("аеосрТ", "aeocpT"))
    assert identify(mixed)[0] == identify(macedonian)[0] == "mk"


def test_thresholds_decide_on_tags_alone():
    [tags] = tagged(Language(), SENTENCES["de"][0])
    assert tags["language"] == "de"
    assert 0.65 <= tags["language_score"] <= 1
    assert list(Language(languages=["de"]).reasons(tags)) == []
    assert list(Language(languages=["en"]).reasons(tags)) == ["language.other"]
    assert list(Language(languages=["de"], min_score=1.0).reasons(tags | {"language_score": 0.9})) == [
        "language.uncertain"
    ]
    assert list(Language(languages=[]).reasons(tags)) == []
    assert Language(languages=["de"], min_score=0.1).tag_identity() == Language().tag_identity()


def test_programs_are_not_judged():
    code = "def größe(x):\n    return x.länge + x.breite\n" * 5
    assert reasons(Language(), code, path="a.py", license="MIT", language="Python") == []
    assert reasons(Language(keep_code=False), code, path="a.py", license="MIT", language="Python") == ["language.other"]


def test_an_unknown_code_is_named_with_what_there_is():
    with pytest.raises(ConfigError, match="'english' is not a language that the model knows; did you mean 'en'"):
        Language(languages=["english"])


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    language_scorer.cache_clear()
    with pytest.raises(UserError, match=r"llm-trainer\[data\]"):
        identify(SENTENCES["en"][0])
    language_scorer.cache_clear()


@pytest.mark.slow
def test_another_process_gives_the_same_answers():
    texts = [text for texts in SENTENCES.values() for text in texts]
    script = (
        "import json, sys; from llm_trainer.corpus.filters.language import identify;"
        "print(json.dumps([identify(text) for text in json.load(sys.stdin)]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    assert json.loads(run.stdout) == [list(identify(text)) for text in texts]


def test_a_batch_scores_as_the_library_does() -> None:
    langid = pytest.importorskip("py3langid.langid")
    library = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    texts = [
        *(text for texts in SENTENCES.values() for text in texts),
        "LOUD WORDS IN CAPITALS",
        "a",
        "",
        "\ud800 half a pair",
        "e\u0301te\u0301 " * 300,
    ]
    texts += [" ".join(texts[:20]), "日本語" * 400]
    scorer = language_scorer()
    for text, found in zip(texts, scorer.probabilities(texts), strict=True):
        wanted = dict(library.rank(text))
        assert set(wanted) == set(scorer.languages)
        for code, probability in wanted.items():
            assert found[scorer.place[code]] == pytest.approx(probability, abs=1e-4)
