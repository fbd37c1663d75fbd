"""Beam search: the most likely texts rather than a random one.

At every step each prompt keeps the ``num_beams`` most likely unfinished continuations. A continuation that ends is
moved to the prompt's finished texts, scored by its log-probability divided by ``length ** length_penalty`` (Wu et al.
2016, section 7, https://arxiv.org/abs/1609.08144, in Hugging Face's simpler form). The result agrees with
``transformers``' ``generate(num_beams=...)``.

The search ranks by the model's own probabilities: temperature, top-k, top-p and min-p shape random draws and have no
part in it. The repetition penalty has, applied to the log-probabilities.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from llm_trainer.config import GenerationConfig
from llm_trainer.generation.decoder import Decoder
from llm_trainer.generation.loop import new_token_budgets
from llm_trainer.generation.sampling import NEVER, apply_repetition_penalty, check_logits
from llm_trainer.models.cross_attention import Memory


@dataclass(frozen=True)
class Hypothesis:
    """A finished continuation: its new tokens (with the eos that ended it, if one did) and its score."""

    tokens: list[int]
    score: float


@dataclass(frozen=True)
class Candidate:
    """One continuation of one beam by one token. ``total`` is the log-probability of all its new tokens."""

    beam: int
    token: int
    total: float


@dataclass
class Search:
    """The state of one prompt's search. A beam that has nothing to hold yet has a log-probability of -inf."""

    num_beams: int
    budget: int
    length_penalty: float
    early_stopping: bool
    beams: list[list[int]] = field(init=False)
    totals: list[float] = field(init=False)
    finished: list[Hypothesis] = field(default_factory=list)
    done: bool = False

    def __post_init__(self) -> None:
        self.beams = [[] for _ in range(self.num_beams)]
        # All beams begin as the same prompt: only the first may be continued, or all would stay equal for ever.
        self.totals = [0.0] + [NEVER] * (self.num_beams - 1)

    def advance(self, candidates: Sequence[Candidate], eos_ids: Collection[int]) -> tuple[list[int], list[int]]:
        """Take one step.

        Args:
            candidates: the likeliest continuations of all beams, best first; enough that ``num_beams`` of them do
                not end with eos.
            eos_ids: ids that end a text.

        Returns:
            For each new beam, the beam that it continues and the token that it adds.
        """
        kept: list[Candidate] = []
        length = len(self.beams[0]) + 1
        for rank, candidate in enumerate(candidates):
            if candidate.total == NEVER:
                continue
            ends = candidate.token in eos_ids
            # An ending counts only among the first num_beams: one that ranks below them was not the better choice.
            if (ends or length == self.budget) and rank < self.num_beams and not self.done:
                self._finish(candidate, length)
            if not ends and len(kept) < self.num_beams:
                kept.append(candidate)
        parents = [candidate.beam for candidate in kept]
        tokens = [candidate.token for candidate in kept]
        self.totals = [candidate.total for candidate in kept]
        missing = self.num_beams - len(kept)
        parents, tokens = parents + [0] * missing, tokens + [0] * missing
        self.totals += [NEVER] * missing
        self.beams = [[*self.beams[parent], token] for parent, token in zip(parents, tokens)]
        self.done = self.done or length == self.budget or self._cannot_improve(length)
        return parents, tokens

    def _finish(self, candidate: Candidate, length: int) -> None:
        tokens = [*self.beams[candidate.beam], candidate.token]
        self.finished.append(Hypothesis(tokens, candidate.total / length**self.length_penalty))
        self.finished.sort(key=lambda hypothesis: -hypothesis.score)
        del self.finished[self.num_beams :]

    def _cannot_improve(self, length: int) -> bool:
        if max(self.totals) == NEVER:
            return True
        if len(self.finished) < self.num_beams:
            return False
        # Log-probabilities only fall, so the best beam's score at its present length is what it can hope for.
        return self.early_stopping or max(self.totals) / length**self.length_penalty <= self.finished[-1].score


def beam_search(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    eos_ids: Collection[int] = (),
    *,
    vocab_size: int | None = None,
    memory: Memory | None = None,
) -> list[list[Hypothesis]]:
    """Find the likeliest continuations of every prompt.

    Args:
        model: see :class:`Decoder`.
        prompts: token ids; lengths may differ, and a prompt's result does not depend on the others.
        config: ``num_beams``, ``length_penalty``, ``early_stopping``, ``repetition_penalty``, lengths, ``use_cache``.
        eos_ids: ids that end a text.
        vocab_size: see :class:`Decoder`.
        memory: see :class:`Decoder`.

    Returns:
        For each prompt its finished continuations, the best first: at most ``num_beams``, at least one.

    Raises:
        UserError: the model gives logits that are not numbers, or a prompt is unusable.
    """
    budgets = new_token_budgets(prompts, config)
    searches = [Search(config.num_beams, budget, config.length_penalty, config.early_stopping) for budget in budgets]
    decoder = Decoder(
        model,
        prompts,
        max(budgets, default=0),
        copies=config.num_beams,
        use_cache=config.use_cache,
        vocab_size=vocab_size,
        memory=memory,
    )
    while True:
        candidates = _best_candidates(decoder, searches, config, len(eos_ids))
        parents: list[int] = []
        tokens: list[int] = []
        for index, search in enumerate(searches):
            beams, added = search.advance(candidates[index], eos_ids)
            parents += [index * config.num_beams + beam for beam in beams]
            tokens += added
        if all(search.done for search in searches):
            return [search.finished for search in searches]
        decoder.select(torch.tensor(parents, device=decoder.device))
        decoder.append(torch.tensor(tokens, device=decoder.device))


def _best_candidates(
    decoder: Decoder, searches: Sequence[Search], config: GenerationConfig, eos_count: int
) -> list[list[Candidate]]:
    """The likeliest one-token continuations of each prompt's beams, best first."""
    logits = decoder.next_logits()  # (prompts * beams, vocab)
    check_logits(logits)
    vocab_size = logits.shape[-1]
    log_probs = logits.log_softmax(dim=-1)
    if config.repetition_penalty != 1.0:
        log_probs = apply_repetition_penalty(log_probs, decoder.seen(vocab_size), config.repetition_penalty)
    totals = torch.tensor([search.totals for search in searches], device=logits.device)  # (prompts, beams)
    scores = totals[:, :, None] + log_probs.view(len(searches), config.num_beams, vocab_size)
    # Every beam can end in eos_count ways; this many candidates leave num_beams that go on.
    wanted = min((1 + max(1, eos_count)) * config.num_beams, config.num_beams * vocab_size)
    best: tuple[Tensor, Tensor] = torch.topk(scores.flatten(1), wanted, dim=-1)  # two of (prompts, wanted)
    return [
        [Candidate(index // vocab_size, index % vocab_size, total) for total, index in zip(row_totals, row_indices)]
        for row_totals, row_indices in zip(best[0].tolist(), best[1].tolist())
    ]
