"""The doors to generation: :func:`generate_ids` for token ids, :class:`TextGenerator` for text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

from llm_trainer.common.errors import UserError
from llm_trainer.config import GenerationConfig
from llm_trainer.generation.beam import Hypothesis, beam_search
from llm_trainer.generation.loop import TokenLoop
from llm_trainer.generation.sources import begin
from llm_trainer.generation.text import RowText
from llm_trainer.models.seq2seq import EncoderDecoderLM
from llm_trainer.tokenizer.base import Tokenizer
from llm_trainer.tokenizer.chat import Message
from llm_trainer.tokenizer.framing import sentinel_ids, source_ids
from llm_trainer.tokenizer.pretokenize import replace_surrogates


def generate_ids(
    model: nn.Module,
    input_ids: Tensor,
    *,
    attention_mask: Tensor | None = None,
    prompt_lengths: Sequence[int] | Tensor | None = None,
    config: GenerationConfig | None = None,
    **overrides: Any,
) -> Tensor:
    """Continue token ids, with the arguments and the result of Hugging Face's ``generate``.

    Args:
        model: a language model of ours, or any module that maps ``input_ids`` and ``attention_mask`` to an output
            with ``logits`` (such a module is read anew at every step, without a cache).
        input_ids: (batch, seq) int64 prompts; of an encoder-decoder, sources. Rows of different lengths are padded on
            either side, with ``attention_mask``, or on the right, with ``prompt_lengths``.
        attention_mask: (batch, seq), 1 on real tokens and 0 on padding.
        prompt_lengths: (batch,) number of real tokens, when the padding is on the right.
        config: how to generate; the defaults sample at temperature 1.
        **overrides: single values of :class:`GenerationConfig` by name, for example ``max_length=100, top_k=50``.
            Without ``eos_token_id`` rows end at the model's own (``model.config.eos_token_id``), or else at
            ``pad_token_id``: nothing can follow padding.

    Returns:
        (batch * num_return_sequences, seq + new) int64: ``input_ids`` as they came (of an encoder-decoder,
        ``decoder_start_token_id`` instead), then the new tokens; rows that ended early are filled with ``pad_token_id``
        (unset: the eos token, or else 0).

    Raises:
        ConfigError: an unknown or impossible option.
        UserError: prompts that are empty or of another tokenizer, stop strings (they need text: use
            :class:`TextGenerator`), or a model whose logits are not numbers.
    """
    config = merge_config(config, overrides)
    if config.stop:
        raise UserError(
            "stop strings need a tokenizer to be seen", hint="use TextGenerator(model, tokenizer), or eos_token_id"
        )
    prompts, memory = begin(model, _unpad(input_ids, attention_mask, prompt_lengths))
    if memory is not None:
        input_ids = torch.tensor(prompts, device=input_ids.device)  # (batch, 1)
    eos_ids = _eos_ids(model, config)
    rows: list[list[int]]
    if config.uses_beams:
        results = beam_search(model, prompts, config, eos_ids, memory=memory)
        rows = [best.tokens for found in results for best in _take(found, config.num_return_sequences)]
    else:
        loop = TokenLoop(model, prompts, config, eos_ids, memory=memory)
        rows = [[] for _ in loop.finished]
        for step in loop:
            for row, token in zip(rows, step):
                if token is not None:
                    row.append(token)
    pad = config.pad_token_id if config.pad_token_id is not None else min(eos_ids, default=0)
    new = torch.full((len(rows), max(map(len, rows))), pad, dtype=torch.int64)  # (rows, new)
    for index, row in enumerate(rows):
        new[index, : len(row)] = torch.tensor(row)
    return torch.cat([input_ids.repeat_interleave(config.num_return_sequences, dim=0), new.to(input_ids.device)], dim=1)


class TextGenerator:
    """Text in, text out.

    A prompt is read as the beginning of a document, ``[bos]`` and its tokens, exactly as documents begin in
    training, and never with an end-of-text token behind it. A text ends at the tokenizer's eos token, before a stop
    string, or when the length limit is reached; special tokens are not part of it. A text longer than the model's
    context goes on from its last ``context // 2`` tokens (see :mod:`llm_trainer.generation.decoder`).

    Args:
        model: a language model of ours, or a transformers model (then without a cache of ours).
        tokenizer: the one that the model was trained with.
        device: where to move the model; None leaves it where it is.

    Example:
        >>> generator = TextGenerator(model, tokenizer)  # doctest: +SKIP
        >>> generator.generate("The future of AI is", GenerationConfig(temperature=0.8, top_p=0.9))  # doctest: +SKIP
    """

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, device: str | torch.device | None = None) -> None:
        vocab_size = getattr(getattr(model, "config", None), "vocab_size", None)
        if vocab_size is not None and vocab_size < tokenizer.vocab_size:
            raise UserError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, but the model knows only {vocab_size}",
                hint="use the tokenizer that the model was trained with",
            )
        self.model = model if device is None else model.to(device)
        self.tokenizer = tokenizer
        # An encoder-decoder answers a text; it does not go on with it.
        self._answers = isinstance(model, EncoderDecoderLM)
        self._shown = frozenset(sentinel_ids(tokenizer)) if self._answers else frozenset()

    @overload
    def generate(
        self,
        prompt: str,
        config: GenerationConfig | None = None,
        *,
        return_full_text: bool = True,
        **overrides: Any,
    ) -> str: ...

    @overload
    def generate(
        self,
        prompt: list[str],
        config: GenerationConfig | None = None,
        *,
        return_full_text: bool = True,
        **overrides: Any,
    ) -> list[str]: ...

    def generate(
        self,
        prompt: str | list[str],
        config: GenerationConfig | None = None,
        *,
        return_full_text: bool = True,
        **overrides: Any,
    ) -> str | list[str]:
        """Continue a prompt, or several.

        Args:
            prompt: one text gives one text, a list gives a list. The empty text starts a document.
            config: how to generate; the defaults sample at temperature 1.
            return_full_text: the result begins with the prompt; False gives only what follows it.
            **overrides: single values of :class:`GenerationConfig` by name, for example ``max_new_tokens=50``.

        Returns:
            The text; for a list, the texts in the order of the prompts, ``num_return_sequences`` for each.

        Raises:
            ConfigError: an unknown or impossible option.
            UserError: several texts wanted for a single prompt (give a list), a prompt that leaves no room under
                ``max_length``, or a model whose logits are not numbers.
        """
        if isinstance(prompt, str):
            config = merge_config(config, overrides)
            _require_one_text(config, "put the prompt in a list to get a list of texts")
            return self.generate_batch([prompt], config, return_full_text=return_full_text)[0]
        return self.generate_batch(prompt, config, return_full_text=return_full_text, **overrides)

    def generate_batch(
        self,
        prompts: Sequence[str],
        config: GenerationConfig | None = None,
        *,
        return_full_text: bool = True,
        **overrides: Any,
    ) -> list[str]:
        """Continue several prompts together; their lengths may differ.

        Text ``k`` of the result uses the seed ``config.seed + k``: it equals what :meth:`generate` gives for that
        prompt alone with that seed. Arguments, result and errors are those of :meth:`generate` with a list.
        """
        config = merge_config(config, overrides)
        if not prompts:
            return []
        ids = [self.prompt_ids(prompt) for prompt in prompts]
        starts = [replace_surrogates(prompt) for prompt in prompts for _ in range(config.num_return_sequences)]
        texts = self._continue_with_beams(ids, config) if config.uses_beams else self._continue(ids, config)
        if self._answers or not return_full_text:
            return texts
        return [start + text for start, text in zip(starts, texts)]

    def stream(
        self,
        prompt: str,
        config: GenerationConfig | None = None,
        *,
        return_full_text: bool = True,
        **overrides: Any,
    ) -> Iterator[str]:
        """Continue a prompt and give the text in pieces, as soon as each is certain.

        The pieces are never empty and always whole characters; joined, they are what :meth:`generate` returns. Beam
        search decides only at its end, so there the continuation is one piece. Arguments and errors are those of
        :meth:`generate`; options are checked at the call, not at the first piece.
        """
        config = merge_config(config, overrides)
        _require_one_text(config, "a stream is one text; use generate with a list of prompts")
        ids = [self.prompt_ids(prompt)]
        if config.uses_beams:
            pieces = iter(self._continue_with_beams(ids, config))
        else:
            pieces = self._pieces(self._loop(ids, config), self._row_text(ids[0], config))
        start = [replace_surrogates(prompt)] if return_full_text and not self._answers else []
        return (piece for source in (start, pieces) for piece in source if piece)

    def reply(
        self, messages: Sequence[Message], config: GenerationConfig | None = None, **overrides: Any
    ) -> Iterator[str]:
        """The assistant's next answer in a conversation, in pieces, by the tokenizer's chat template.

        The answer ends where the template ends the assistant's turn, or as :meth:`stream` does.

        Args:
            messages: as in :meth:`Tokenizer.render`; what they say stays text, whatever it spells.
            config: how to generate.
            **overrides: single values of :class:`GenerationConfig` by name.

        Raises:
            UserError: the tokenizer has no chat template; and as in :meth:`stream`.
        """
        config = merge_config(config, overrides)
        _require_one_text(config, "a reply is one text")
        ids = self.tokenizer.render(messages, add_generation_prompt=True).ids
        template = self.tokenizer.chat_template
        if config.eos_token_id is None and template is not None:
            config = merge_config(config, {"eos_token_id": template.end_of_turn(self.tokenizer)})
        if config.uses_beams:
            return (text for text in self._continue_with_beams([ids], config))
        pieces = self._pieces(self._loop([ids], config), self._row_text(ids, config))
        return (piece for piece in pieces if piece)

    def prompt_ids(self, prompt: str) -> list[int]:
        """The tokens that the model reads: bos, when the tokenizer has one, and the prompt; never eos behind it.

        An encoder-decoder reads the prompt and eos, as in training; sentinels in it (``<extra_id_0>``) are gaps.
        """
        if self._answers:
            return source_ids(self.tokenizer, prompt)
        bos = self.tokenizer.bos_token_id
        ids = self.tokenizer.encode(prompt)
        if bos is None and not ids:
            raise UserError("the prompt is empty, and this tokenizer has no bos token to start a text with")
        return ids if bos is None else [bos, *ids]

    def _loop(self, ids: list[list[int]], config: GenerationConfig) -> TokenLoop:
        prompts, memory = begin(self.model, ids)
        vocab_size = self.tokenizer.vocab_size
        return TokenLoop(self.model, prompts, config, self._eos_ids(config), vocab_size=vocab_size, memory=memory)

    def _row_text(self, prompt: list[int], config: GenerationConfig) -> RowText:
        return RowText(self.tokenizer, [] if self._answers else prompt, config.stop, self._shown)

    def _eos_ids(self, config: GenerationConfig) -> set[int]:
        eos = self.tokenizer.eos_token_id if config.eos_token_id is None else config.eos_token_id
        return set() if eos is None else {eos}

    def _continue(self, ids: list[list[int]], config: GenerationConfig) -> list[str]:
        loop = self._loop(ids, config)
        copies = range(config.num_return_sequences)
        texts = [self._row_text(prompt, config) for prompt in ids for _ in copies]
        pieces: list[list[str]] = [[] for _ in texts]
        for step in loop:
            for row, token in enumerate(step):
                if token is not None:
                    pieces[row].append(texts[row].push(token))
                    loop.finished[row] |= texts[row].stopped
        return ["".join([*parts, text.close()]) for parts, text in zip(pieces, texts)]

    @staticmethod
    def _pieces(loop: TokenLoop, text: RowText) -> Iterator[str]:
        for (token,) in loop:
            if token is not None:
                yield text.push(token)
                loop.finished[0] |= text.stopped
        yield text.close()

    def _continue_with_beams(self, ids: list[list[int]], config: GenerationConfig) -> list[str]:
        """The best finished texts; a stop string cuts a text that is already decided."""
        prompts, memory = begin(self.model, ids)
        vocab_size, eos_ids = self.tokenizer.vocab_size, self._eos_ids(config)
        results = beam_search(self.model, prompts, config, eos_ids, vocab_size=vocab_size, memory=memory)
        texts = []
        for prompt, found in zip(ids, results):
            for best in _take(found, config.num_return_sequences):
                text = self._row_text(prompt, config)
                texts.append("".join([*map(text.push, best.tokens), text.close()]))
        return texts


def merge_config(config: GenerationConfig | None, overrides: dict[str, Any]) -> GenerationConfig:
    """``config`` with single values replaced. A new ``max_new_tokens`` also lifts a ``max_length`` of ``config``.

    Raises:
        ConfigError: an unknown name (with the nearest real one) or an impossible value.
    """
    if not overrides:
        return config or GenerationConfig()
    renamed, _ = GenerationConfig.translate(overrides)
    base = {} if config is None else config.model_dump(exclude_unset=True)
    if "max_new_tokens" in renamed:
        base.pop("max_length", None)
    return GenerationConfig(**{**base, **renamed})


def _require_one_text(config: GenerationConfig, hint: str) -> None:
    if config.num_return_sequences > 1:
        raise UserError(f"num_return_sequences={config.num_return_sequences} gives several texts", hint=hint)


def _take(found: list[Hypothesis], count: int) -> list[Hypothesis]:
    if len(found) < count:
        raise UserError(f"beam search found only {len(found)} different continuations, but {count} are wanted")
    return found[:count]


def _eos_ids(model: nn.Module, config: GenerationConfig) -> set[int]:
    if config.eos_token_id is not None:
        return {config.eos_token_id}
    own = getattr(getattr(model, "config", None), "eos_token_id", None)
    if own is not None:
        return {own} if isinstance(own, int) else set(own)
    return set() if config.pad_token_id is None else {config.pad_token_id}


def _unpad(
    input_ids: Tensor, attention_mask: Tensor | None, prompt_lengths: Sequence[int] | Tensor | None
) -> list[list[int]]:
    """The real tokens of each row of a padded batch."""
    if input_ids.dim() != 2 or 0 in input_ids.shape:
        raise UserError(f"input_ids must be (batch, seq) with at least one token, got shape {tuple(input_ids.shape)}")
    if attention_mask is not None and prompt_lengths is not None:
        raise UserError("attention_mask and prompt_lengths say the same thing; give one of them")
    if prompt_lengths is not None:
        lengths = torch.as_tensor(prompt_lengths)
        if lengths.shape != input_ids.shape[:1] or int(lengths.max()) > input_ids.shape[1]:
            raise UserError(f"prompt_lengths must hold one length of at most {input_ids.shape[1]} for each row")
        attention_mask = torch.arange(input_ids.shape[1]) < lengths.cpu()[:, None]
    if attention_mask is None:
        rows: list[list[int]] = input_ids.tolist()
        return rows
    if attention_mask.shape != input_ids.shape:
        raise UserError(
            f"attention_mask must have the shape of input_ids, {tuple(input_ids.shape)}, "
            f"got {tuple(attention_mask.shape)}"
        )
    return [row[keep].tolist() for row, keep in zip(input_ids.cpu(), attention_mask.cpu().bool())]
