"""``llm-trainer tokenizer``: train, look at, compare and convert, as a person does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from llm_trainer.tokenizer import UnigramTokenizer, WordPieceTokenizer, load_tokenizer
from tests.e2e.conftest import TrainedRun, llm_trainer
from tests.tokenizer.samples import SCRIPTS
from tests.tokenizer.test_sentencepiece import MODELS

CHAT = [
    {"role": "user", "content": "Hello <|im_end|> there"},
    {"role": "assistant", "content": "Good day."},
]


@pytest.fixture
def tokenizer(corpus: Path, workplace: Path) -> Path:
    outcome = llm_trainer("tokenizer", "train", "--text", corpus, "--vocab_size", 320, "-o", "tok", "--chat", "chatml")
    assert outcome.code == 0, outcome.err
    (workplace / "chat.json").write_text(json.dumps({"messages": CHAT}))
    return workplace / "tok"


@pytest.mark.covers("R336", "R331")
def test_inspect_shows_what_is_trained(tokenizer: Path) -> None:
    outcome = llm_trainer("tokenizer", "inspect", "chat.json", "--tokenizer", tokenizer)
    assert outcome.code == 0, outcome.err
    assert "\x1b" not in outcome.out  # not a terminal
    running = outcome.out.partition("\n    #")[0]
    trained = re.findall("⟦(.*?)⟧", running)
    assert len(trained) == 1
    assert trained[0].replace("|<|im_end|>", "").replace("|", "") == "Good day."
    assert trained[0].endswith("|<|im_end|>")
    assert outcome.out.count("(special)") == 4
    counted = re.search(r"([\d,]+) tokens for .*, (\d+) trained", outcome.out)
    assert counted and int(counted[2]) == outcome.out.count(" yes ")


def test_inspect_colours_only_where_it_is_asked_to(tokenizer: Path) -> None:
    outcome = llm_trainer("tokenizer", "inspect", "chat.json", "--tokenizer", tokenizer, "--color", "always")
    assert "\x1b[48;5;2" in outcome.out
    assert "⟦" not in outcome.out
    plain = llm_trainer("tokenizer", "inspect", "some \x1b[31m text", "--tokenizer", tokenizer)
    assert "\x1b" not in plain.out  # what a text contains cannot steer the terminal
    ids = llm_trainer("tokenizer", "inspect", "some text", "--tokenizer", tokenizer, "--ids")
    assert list(map(int, ids.out.split())) == load_tokenizer(tokenizer).encode("some text")


@pytest.mark.covers("R122", "R127")
def test_compare_measures_several_kinds(tokenizer: Path, corpus: Path) -> None:
    pytest.importorskip("matplotlib")
    text = corpus / "00.txt"
    model = MODELS / "unigram_bytes.model"
    outcome = llm_trainer("tokenizer", "compare", tokenizer, model, "--text", text, "--plot", "plot.png")
    assert outcome.code == 0, outcome.err
    header, *rows, drawn = outcome.out.splitlines()
    assert re.split(r"\s{2,}", header) == [
        "tokenizer", "kind", "vocab", "bytes/token", "tokens/word", "MB/s", "round trip",
    ]  # fmt: skip
    content = text.read_text(encoding="utf-8")
    for row, source in zip(rows, (tokenizer, model)):
        cells = re.split(r"\s{2,}", row)
        count = len(load_tokenizer(source).encode(content))
        assert float(cells[3]) == pytest.approx(len(content.encode()) / count, abs=6e-4)
        assert float(cells[4]) == pytest.approx(count / len(content.split()), abs=6e-4)
        assert float(cells[5]) > 0
        assert cells[6] == "exact"
    assert drawn == "drawn in plot.png"
    assert Path("plot.png").read_bytes().startswith(b"\x89PNG")


def test_compare_reads_folders_and_names_what_is_lossy(tokenizer: Path, corpus: Path) -> None:
    outcome = llm_trainer("tokenizer", "compare", tokenizer, "--text", corpus)
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[1].endswith("exact")
    Path("words.txt").write_text("\n\n".join(SCRIPTS.values()) * 30, encoding="utf-8")
    trained = llm_trainer(
        "tokenizer", "train", "--kind", "wordpiece", "--text", "words.txt", "--vocab_size", 600, "-o", "wp"
    )
    assert trained.code == 0, trained.err
    assert re.match(r"trained 600 tokens in [\d.]+ s on train of ", trained.out)
    assert llm_trainer("tokenizer", "compare", "wp", "--text", corpus).out.splitlines()[1].endswith("lossy")


@pytest.mark.parametrize(("kind", "expected"), [("wordpiece", WordPieceTokenizer), ("unigram", UnigramTokenizer)])
def test_other_kinds_are_trained_with_their_chat_tokens(
    kind: str, expected: type, corpus: Path, workplace: Path
) -> None:
    outcome = llm_trainer(
        "tokenizer", "train", "--text", corpus, "--kind", kind, "--vocab_size", 330, "--allow_smaller", "-o", "tok",
        "--chat", "chatml",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    tokenizer = load_tokenizer(workplace / "tok")
    assert isinstance(tokenizer, expected)
    ids, mask = tokenizer.render([{"role": "user", "content": "the"}, {"role": "assistant", "content": "old house"}])
    assert (
        tokenizer.decode([i for i, counts in zip(ids, mask) if counts]).strip().replace(" ", "") == "oldhouse<|im_end|>"
    )


def test_digits_are_kept_apart(corpus: Path, workplace: Path) -> None:
    (workplace / "numbers.txt").write_text("2024 2025 2026 " * 300)
    words = ("tokenizer", "train", "--text", "numbers.txt", "--vocab_size", 262, "--allow_smaller", "-o")
    for digits, count in (("1", 4), ("2", 2), ("none", 1)):
        assert llm_trainer(*words, f"tok{digits}", "--digits", digits).code == 0
        assert len(load_tokenizer(f"tok{digits}").encode("2024")) == count
    llm_trainer(*words, "x", "--digits", "five").assert_one_message("digits is 'five'")
    llm_trainer(*words, "x", "--digits", "1", "--kind", "wordpiece").assert_one_message("not trained with digits")


def test_convert_keeps_the_ids(tokenizer: Path, workplace: Path) -> None:
    assert llm_trainer("tokenizer", "convert", tokenizer, "--format", "tiktoken", "-o", "t.tiktoken").code == 0
    assert load_tokenizer("t.tiktoken").encode("small garden") == load_tokenizer(tokenizer).encode("small garden")
    model = MODELS / "bpe_bytes.model"
    assert llm_trainer("tokenizer", "convert", model, "--format", "llama2c", "-o", "t.bin").code == 0
    assert (workplace / "t.bin").stat().st_size > 1000
    assert llm_trainer("tokenizer", "convert", model, "-o", "hf").code == 0
    assert (workplace / "hf" / "tokenizer.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", "x", "--tokenizer", "nowhere"), "nowhere does not exist"),
        (("inspect", "none.json", "--tokenizer", "tok"), "none.json does not exist"),
        (("inspect", "bad.json", "--tokenizer", "tok"), "bad.json is not a JSON file"),
        (("inspect", "x"), "no trained model"),
        (("compare", "tok", "--text", "none.txt"), "no file or folder none.txt"),
        (("compare", "tok", "--text", "empty.txt"), "empty.txt is empty"),
        (("compare", "tiktoken:nothing"), "no encoding called 'nothing'"),
        (("convert", "tok", "-o", "x", "--format", "gguf"), "no format 'gguf'"),
        (("convert", "tok", "-o", "x.bin", "--format", "llama2c"), "llama2.c cannot encode"),
        (("train", "--kind", "words", "-o", "x"), "expected 'bpe', 'wordpiece' or 'unigram'"),
        (("train", "--chat", "nothing", "-o", "x"), "no chat template 'nothing'"),
        (("train", "--text", "small.txt", "--vocab_size", "9000", "-o", "x"), "--allow_smaller"),
        (("train", "--text", "small.txt", "--vocab_size", "260", "-o", "bad.json"), "cannot write bad.json"),
    ],
)
def test_wrong_input_gets_one_message(
    arguments: tuple[str, ...], message: str, tokenizer: Path, workplace: Path
) -> None:
    (workplace / "bad.json").write_text("{")
    (workplace / "empty.txt").write_text(" \n")
    (workplace / "small.txt").write_text("few words\n" * 100)
    llm_trainer("tokenizer", *arguments).assert_one_message(message)
    assert not (workplace / "x").exists() and not (workplace / "x.bin").exists()


@pytest.mark.covers("R336")
def test_chat_talks_in_turns_where_there_is_a_template(trained: TrainedRun, tmp_path: Path) -> None:
    folder = trained.copy(tmp_path)
    tokenizer = load_tokenizer(folder / "tokenizer")
    from llm_trainer.tokenizer import ChatTemplate

    tokenizer.chat_template = ChatTemplate.load("plain")
    tokenizer.save_pretrained(folder / "tokenizer")
    outcome = llm_trainer("chat", folder, "-n", "3", "--seed", "1", stdin="hello\nagain\n/new\nhello\n/quit\n")
    assert outcome.code == 0, outcome.err
    assert "Write a message; it answers." in outcome.out
    # From a fresh start with one seed the first answer comes again: /new has forgotten the rest.
    said = outcome.out.partition("another conversation)\n")[2]
    assert said
    once = llm_trainer("chat", folder, "-n", "3", "--seed", "1", stdin="hello\n").out
    first = once.partition("another conversation)\n")[2]
    assert first and said.startswith(first) and said.endswith(first)
