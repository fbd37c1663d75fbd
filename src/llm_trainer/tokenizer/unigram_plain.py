"""The unigram language model as it is taught: the readable twin of :mod:`llm_trainer.tokenizer.unigram_fast`.

Kudo 2018 (https://arxiv.org/abs/1804.10959): each piece has a probability, a text is spelled by independent pieces,
and the best spelling is the most probable one. It is found in one pass (Viterbi): the best spelling of the first n
characters ends with some piece, and what comes before it is a best spelling too.

Training goes from many pieces to few:

1. Seed: all characters, and substrings of words that occur twice or more, the ones that cover most text first.
2. EM. How often is each piece expected to be used, over all spellings, weighted by their probability
   (forward-backward)? From these counts come new probabilities: exp(digamma(count)) in place of count, as in
   SentencePiece. It is the mean-field answer under a Dirichlet prior and takes about half a count from each piece, so
   rare pieces fade.
3. Prune: for each piece, how much less probable would the text be if the next best spelling stood in its place? Keep
   the 75 % whose loss would hurt most. Single characters always stay, so every word can be spelled.
4. Repeat 2 and 3 until the vocabulary has its size; then a last EM.

These few lines define what the fast twin must compute; a test holds the two equal. Log-probabilities are rounded to
nine decimals and losses to six, so that the order in which numbers are added up decides nothing.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from llm_trainer.tokenizer.pretokenize import pretokens
from llm_trainer.tokenizer.unigram_vocabulary import SPACE, Piece, UnigramVocabulary

LONGEST_PIECE = 16
SHRINK = 0.75
LEAST_EXPECTED = 0.5
EM_STEPS = 2
# Counts of exactly one half come out a little above or below, by the order of additions.
ROUNDING_SLACK = 1e-6

Scores = Mapping[str, float]


class Span(NamedTuple):
    """A piece of a text and where it stands; ``text[start:end]``."""

    start: int
    end: int
    piece: str


def matches(text: str, start: int, pieces: Mapping[str, object], longest: int) -> Iterator[str]:
    """The pieces that stand at a place of a text."""
    for end in range(start + 1, min(len(text), start + longest) + 1):
        if text[start:end] in pieces:
            yield text[start:end]


# ---- encoding ----


def best_spelling(text: str, scores: Scores, longest: int, unknown: float, forbidden: str | None = None) -> list[Span]:
    """The most probable spelling (Viterbi). Of equals, the one whose last piece is the longest.

    Args:
        text: with ``▁`` for spaces.
        scores: pieces -> log-probabilities.
        longest: characters of the longest piece.
        unknown: log-probability of a character that is not a piece.
        forbidden: a piece that must not be used.
    """
    best = [0.0] + [-math.inf] * len(text)
    last: list[Span] = [Span(0, 0, "")] * (len(text) + 1)
    for start in range(len(text)):
        choices = [(piece, scores[piece]) for piece in matches(text, start, scores, longest) if piece != forbidden]
        if not any(len(piece) == 1 for piece, _ in choices):
            choices.append((text[start], unknown))
        for piece, score in choices:
            end = start + len(piece)
            if best[start] + score > best[end]:
                best[end] = best[start] + score
                last[end] = Span(start, end, piece)
    spans: list[Span] = []
    end = len(text)
    while end > 0:
        spans.append(last[end])
        end = last[end].start
    return spans[::-1]


def sampled_spelling(
    text: str, scores: Scores, longest: int, unknown: float, alpha: float, chooser: random.Random
) -> list[Span]:
    """A random spelling, drawn with probability proportional to P(spelling) ** alpha (Kudo 2018, section 3.2).

    Forward sums of all spellings, then pieces drawn from the end to the beginning.
    """
    total = [0.0] + [-math.inf] * len(text)
    ending: list[list[tuple[float, Span]]] = [[] for _ in range(len(text) + 1)]
    for start in range(len(text)):
        choices = [(piece, scores[piece]) for piece in matches(text, start, scores, longest)]
        if not any(len(piece) == 1 for piece, _ in choices):
            choices.append((text[start], unknown))
        for piece, score in choices:
            end = start + len(piece)
            weight = total[start] + alpha * score
            ending[end].append((weight, Span(start, end, piece)))
            total[end] = log_add(total[end], weight)
    spans: list[Span] = []
    end = len(text)
    while end > 0:
        weights = [math.exp(weight - total[end]) for weight, _ in ending[end]]
        spans.append(chooser.choices([span for _, span in ending[end]], weights)[0])
        end = spans[-1].start
    return spans[::-1]


def ids_of(spans: Iterable[Span], vocabulary: UnigramVocabulary) -> Iterator[tuple[int, int, int]]:
    """(id, start, end) of a spelling: unknown characters as bytes, or a run of them as one unknown token."""
    unknown: tuple[int, int, int] | None = None
    for start, end, piece in spans:
        known = vocabulary.scores.get(piece)
        if known is None and not vocabulary.byte_fallback:
            unknown = (vocabulary.unk_id, unknown[1] if unknown else start, end)
            continue
        if unknown:
            yield unknown
            unknown = None
        if known is not None:
            yield known[0], start, end
        else:
            yield from ((vocabulary.byte_ids[byte], start, end) for byte in piece.encode("utf-8"))
    if unknown:
        yield unknown


def chunks(text: str, vocabulary: UnigramVocabulary) -> Iterator[str]:
    """What a text is cut into before it is spelled; with ``▁`` for spaces."""
    if text and vocabulary.add_prefix_space:
        text = " " + text
    pieces = pretokens(text, vocabulary.pattern) if vocabulary.pattern is not None else iter([text])
    return (piece.replace(" ", SPACE) for piece in pieces)


Speller = Callable[[str], list[Span]]


def speller(vocabulary: UnigramVocabulary) -> Speller:
    """The best spelling of a chunk under a vocabulary."""
    scores = {piece: score for piece, (_, score) in vocabulary.scores.items()}
    return lambda chunk: best_spelling(chunk, scores, vocabulary.longest, vocabulary.unk_score)


def encode(text: str, vocabulary: UnigramVocabulary) -> list[int]:
    """The ids of a text without surrogates."""
    spell = speller(vocabulary)
    return [token_id for chunk in chunks(text, vocabulary) for token_id, _, _ in ids_of(spell(chunk), vocabulary)]


# ---- training ----


def seed_pieces(word_counts: Mapping[str, int], alphabet: Iterable[str], seed_size: int) -> dict[str, float]:
    """Characters and frequent substrings -> the amount of text that they cover.

    A substring that is always followed by the same character is left out: the longer one serves as well.
    """
    counts: Counter[str] = Counter()
    for word, count in word_counts.items():
        for start in range(len(word)):
            for end in range(start + 1, min(len(word), start + LONGEST_PIECE + 1) + 1):
                counts[word[start:end]] += count
    extended: dict[str, int] = {}
    for piece, count in counts.items():
        if len(piece) > 1:
            extended[piece[:-1]] = max(count, extended.get(piece[:-1], 0))
    substrings = [
        piece
        for piece, count in counts.items()
        if 1 < len(piece) <= LONGEST_PIECE and count >= 2 and extended.get(piece, 0) < count
    ]
    seeds = {char: float(max(1, counts[char])) for char in alphabet}
    substrings.sort(key=lambda piece: (-counts[piece] * len(piece), piece))
    for piece in substrings[: max(0, seed_size - len(seeds))]:
        seeds[piece] = float(counts[piece] * len(piece))
    return seeds


def expected_counts(word: str, scores: Scores) -> dict[str, float]:
    """How often each piece is used in a word, on average over all spellings (forward-backward)."""
    forward = [0.0] + [-math.inf] * len(word)
    backward = [-math.inf] * len(word) + [0.0]
    edges = [
        (start, start + len(piece), piece)
        for start in range(len(word))
        for piece in matches(word, start, scores, LONGEST_PIECE)
    ]
    for start, end, piece in edges:
        forward[end] = log_add(forward[end], forward[start] + scores[piece])
    for start, end, piece in reversed(edges):
        backward[start] = log_add(backward[start], backward[end] + scores[piece])
    counts: dict[str, float] = {}
    for start, end, piece in edges:
        share = math.exp(forward[start] + scores[piece] + backward[end] - forward[-1])
        counts[piece] = counts.get(piece, 0.0) + share
    return counts


def expectation(word_counts: Mapping[str, int], scores: Scores) -> dict[str, float]:
    """Expected uses of each piece in all words."""
    total = dict.fromkeys(scores, 0.0)
    for word, count in word_counts.items():
        for piece, expected in expected_counts(word, scores).items():
            total[piece] += count * expected
    return total


def maximization(expected: Mapping[str, float], least_pieces: int) -> dict[str, float]:
    """New log-probabilities; pieces used less than half a time go, as long as ``least_pieces`` remain."""
    rare = [piece for piece, count in expected.items() if len(piece) > 1 and count < LEAST_EXPECTED - ROUNDING_SLACK]
    rare.sort(key=lambda piece: (round(expected[piece], 6), piece))
    gone = set(rare[: max(0, len(expected) - least_pieces)])
    counts = {piece: max(count, LEAST_EXPECTED) for piece, count in expected.items() if piece not in gone}
    log_total = digamma(math.fsum(counts.values()))
    return {piece: rounded(digamma(count) - log_total) for piece, count in counts.items()}


def losses(word_counts: Mapping[str, int], scores: Scores) -> dict[str, float]:
    """For each piece of two or more characters: by how much the log-probability of the text falls without it.

    Every use of the piece is replaced by its second best spelling, whose pieces then occur more often, and all
    frequencies are those of the best spelling of the text (SentencePiece does the same).
    """
    uses: Counter[str] = Counter(dict.fromkeys(scores, 0))
    for word, count in word_counts.items():
        for span in best_spelling(word, scores, LONGEST_PIECE, -math.inf):
            uses[span.piece] += count
    total = uses.total()
    result: dict[str, float] = {}
    for piece in scores:
        if len(piece) == 1:
            continue
        count = uses[piece]
        if not count:
            result[piece] = -math.inf
            continue
        others = [span.piece for span in best_spelling(piece, scores, LONGEST_PIECE, -math.inf, forbidden=piece)]
        log_total = math.log(total + count * (len(others) - 1))
        with_it = math.log(count) - math.log(total)
        without_it = sum(math.log(uses[other] + count) - log_total for other in others)
        result[piece] = round(count * (with_it - without_it), 6)
    return result


def prune(losses_of: Mapping[str, float], scores: Scores, least_pieces: int) -> dict[str, float]:
    """The 75 % whose loss would hurt most, but at least ``least_pieces``; characters are among them always."""
    size = max(least_pieces, int(SHRINK * len(scores)))
    ranked = sorted(losses_of, key=lambda piece: (-losses_of[piece], piece))
    kept = set(ranked[: max(0, size - (len(scores) - len(losses_of)))])
    return {piece: score for piece, score in scores.items() if len(piece) == 1 or piece in kept}


def train_pieces(
    word_counts: Mapping[str, int], alphabet: Sequence[str], size: int, seed_size: int = 1_000_000
) -> list[Piece]:
    """Learn pieces.

    Args:
        word_counts: words, with ``▁`` for spaces -> how often each occurs; all characters are in the alphabet.
        alphabet: the characters, which all become pieces; no more than ``size``.
        size: pieces to learn, characters included.
        seed_size: start with no more pieces than this.

    Returns:
        (piece, log-probability), the most probable first; fewer than ``size`` where the text has no more to give.
    """
    seeds = seed_pieces(word_counts, alphabet, seed_size)
    total = math.fsum(seeds.values())
    scores: dict[str, float] = {piece: rounded(math.log(cover / total)) for piece, cover in seeds.items()}
    least = 0  # at first every rare piece goes: what remains is what the text can give
    while True:
        for _ in range(EM_STEPS):
            scores = maximization(expectation(word_counts, scores), least)
        if len(scores) <= size:
            break
        scores = prune(losses(word_counts, scores), scores, size)
        least = size
    for _ in range(EM_STEPS):
        scores = maximization(expectation(word_counts, scores), len(scores))
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def log_add(first: float, second: float) -> float:
    """log(exp(first) + exp(second)), without overflow."""
    if first < second:
        first, second = second, first
    return first if second == -math.inf else first + math.log1p(math.exp(second - first))


def digamma(x: float) -> float:
    """The derivative of log Gamma, for x > 0: shifted above 7 by its recurrence, then the asymptotic series.

    Abramowitz and Stegun, 6.3.5 and 6.3.18; the error is below 1e-11.
    """
    shift = 0.0
    while x < 7:
        shift -= 1 / x
        x += 1
    square = 1 / (x * x)
    series = square * (1 / 12 - square * (1 / 120 - square * (1 / 252 - square * (1 / 240 - square / 132))))
    return shift + math.log(x) - 0.5 / x - series


def rounded(score: float) -> float:
    """A log-probability with nine decimals."""
    return round(score * 1e9) / 1e9
