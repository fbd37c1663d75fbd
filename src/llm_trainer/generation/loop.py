"""The loop of sampling and greedy decoding: one forward pass and one new token for every row at every step."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor, nn

from llm_trainer.common.errors import UserError
from llm_trainer.common.hashing import mix_seed
from llm_trainer.config import GenerationConfig
from llm_trainer.generation.decoder import Decoder
from llm_trainer.generation.sampling import sample
from llm_trainer.models.cross_attention import Memory


class TokenLoop:
    """Iterate over the steps of a generation; each step is a list with one token per row.

    Rows are the prompts, each ``config.num_return_sequences`` times in a row. A row that has ended gives None. It
    ends after one of ``eos_ids`` (which it gives), when its budget is spent, or when the caller sets
    ``finished[row]``, as it does for stop strings.

    Row ``k`` draws from its own generator, seeded by ``config.seed + k``: neither the rows beside it nor the global
    random state change its text. Without a seed, every call gets a fresh one.

    Args:
        model: see :class:`Decoder`.
        prompts: token ids, lengths may differ.
        config: everything but beams.
        eos_ids: ids that end a row.
        vocab_size: see :class:`Decoder`.
        memory: see :class:`Decoder`.
    """

    def __init__(
        self,
        model: nn.Module,
        prompts: Sequence[Sequence[int]],
        config: GenerationConfig,
        eos_ids: Collection[int] = (),
        *,
        vocab_size: int | None = None,
        memory: Memory | None = None,
    ) -> None:
        if config.greedy and config.num_return_sequences > 1:
            raise UserError(
                f"num_return_sequences is {config.num_return_sequences}, but greedy decoding has only one result",
                hint="sample (do_sample=True and a temperature above 0), or use num_beams",
            )
        copies = config.num_return_sequences
        self._config = config
        self._eos_ids = frozenset(eos_ids)
        self._budgets = [budget for budget in new_token_budgets(prompts, config) for _ in range(copies)]
        self._decoder = Decoder(
            model,
            prompts,
            max(self._budgets, default=0),
            copies=copies,
            use_cache=config.use_cache,
            vocab_size=vocab_size,
            memory=memory,
        )
        self._generators = row_generators(config.seed, len(self._budgets))
        self.finished = [False] * len(self._budgets)

    def __iter__(self) -> Iterator[list[int | None]]:
        live = list(range(len(self.finished)))  # the rows that the decoder still holds, in its order
        for count in itertools.count(1):
            chosen = self._choose(live)  # (live rows,)
            step: list[int | None] = [None] * len(self.finished)
            for row, token in zip(live, chosen.tolist()):
                step[row] = token
                if token in self._eos_ids or count >= self._budgets[row]:
                    self.finished[row] = True
            yield step
            going = [index for index, row in enumerate(live) if not self.finished[row]]
            if not going:
                return
            self._decoder.append(chosen)
            if len(going) < len(live):
                self._decoder.select(torch.tensor(going, device=chosen.device))
                live = [live[index] for index in going]

    def _choose(self, live: list[int]) -> Tensor:
        logits = self._decoder.next_logits()  # (live rows, vocab)
        seen = self._decoder.seen(logits.shape[-1]) if self._config.repetition_penalty != 1.0 else None
        return sample(logits, self._config, [self._generators[row] for row in live], seen)


def new_token_budgets(prompts: Sequence[Sequence[int]], config: GenerationConfig) -> list[int]:
    """How many tokens each prompt may get: ``max_new_tokens``, or what ``max_length`` leaves when that is set.

    Raises:
        UserError: a prompt already has ``max_length`` tokens.
    """
    if config.max_length is None:
        return [config.max_new_tokens] * len(prompts)
    for row, prompt in enumerate(prompts):
        if len(prompt) >= config.max_length:
            raise UserError(
                f"prompt {row} has {len(prompt)} tokens, and max_length={config.max_length} counts them too: "
                "nothing is left to generate",
                hint="raise max_length, or give max_new_tokens instead, which counts only new tokens",
            )
    return [config.max_length - len(prompt) for prompt in prompts]


def row_generators(seed: int | None, rows: int) -> list[torch.Generator]:
    """One CPU generator per row; row ``k`` gets ``seed + k``, so that any row can be repeated on its own."""
    base = secrets.randbits(48) if seed is None else seed
    # Mixed, because the first draws of a Mersenne Twister are related for related seeds.
    return [torch.Generator().manual_seed(mix_seed("generation", base + row)) for row in range(rows)]
