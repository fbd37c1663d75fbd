"""What the families of models learn: for each objective its data, its tokens, what the model needs to know of them, and
how well it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from llm_trainer.common.devices import resolve_device
from llm_trainer.common.errors import UserError
from llm_trainer.config import RunConfig
from llm_trainer.corpus import open_dataset
from llm_trainer.corpus.records import RecordSplits
from llm_trainer.data import PackedLoader, PackProgress
from llm_trainer.data.masking import MaskedCollator, word_starts
from llm_trainer.data.spans import SpanCollator, sentinels_needed
from llm_trainer.models import BaseLanguageModel
from llm_trainer.tokenizer import Tokenizer
from llm_trainer.tokenizer.framing import MASK_TOKEN, mask_token_id, sentinel_ids, sentinel_names
from llm_trainer.training.classification import Classification
from llm_trainer.training.examples import label_names, open_examples, prepare_examples, texts_of
from llm_trainer.training.masked_lm import MaskedLM
from llm_trainer.training.objectives import CausalLM, Objective
from llm_trainer.training.preparation import PreparedData, TrainingText, open_training_data, prepare_data
from llm_trainer.training.seq2seq import SequenceToSequence
from llm_trainer.training.validation import validate

FROM_RECORDS = ("seq2seq", "classification", "token_classification")
"""Objectives whose data is a table of examples; that of the others is running text."""
HEADS = {"classification": "sequence", "token_classification": "tokens"}


@dataclass(frozen=True)
class TaskData:
    """The training data of a run before there is a tokenizer."""

    texts: TrainingText
    """Its text, for the tokenizer."""
    text_bytes: int | None
    records: RecordSplits | None = None
    """The examples, if it is a table."""
    labels: tuple[str, ...] = ()
    """The labels that occur in it."""


def open_task_data(run: RunConfig) -> TaskData:
    """Find the data of a run.

    Raises:
        UserError: it is not there, or not what the objective needs.
    """
    if run.objective not in FROM_RECORDS:
        handle = open_training_data(run.data)
        return TaskData(handle, handle.total_bytes)
    records = open_examples(run.data, run.objective)
    labels = []
    if run.objective in HEADS:
        labels = label_names(records.train, run.data, run.objective, records.validation)
    texts = texts_of(records.train, run.data, run.objective)
    handle = open_dataset(texts, validation_fraction=0)
    return TaskData(handle, sum(len(text.encode("utf-8", "surrogatepass")) for text in texts), records, tuple(labels))


def special_tokens(run: RunConfig) -> list[str]:
    """What the objective needs besides begin and end; a new tokenizer gets them, a given one must have them."""
    if run.objective == "mlm":
        return [MASK_TOKEN]
    if run.objective == "span_corruption":
        training = run.training
        length = run.data.max_length or run.model.max_seq_len
        return sentinel_names(sentinels_needed(length, training.mask_probability, training.mean_span_length))
    return []


def adapt_model(run: RunConfig, task: TaskData, tokenizer: Tokenizer) -> None:
    """Set what the model has to know of the data: the labels, and the token that answers begin with."""
    if run.objective in HEADS and run.model.labels is None:
        run.model = run.model.model_copy(update={"head": HEADS[run.objective], "labels": list(task.labels)})
    if run.model.family == "encoder_decoder" and not run.model.given("decoder_start_token_id"):
        start = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.bos_token_id
        run.model.decoder_start_token_id = start or 0


def prepare_task(
    run: RunConfig,
    task: TaskData,
    tokenizer: Tokenizer,
    *,
    progress: Callable[[PackProgress], None] | None,
    notice: Callable[[str], None],
) -> PreparedData:
    """Loaders of what the objective learns from.

    Raises:
        UserError: the tokenizer lacks the tokens that it needs, or the data is not there.
    """
    training, objective = run.training, run.objective
    if objective in FROM_RECORDS:
        assert task.records is not None
        length = run.data.max_length or run.model.max_seq_len
        return prepare_examples(
            task.records,
            run.data,
            objective,
            tokenizer,
            training,
            seq_len=length,
            labels=run.model.labels or (),
            notice=notice,
        )
    data = prepare_data(run.data, tokenizer, run.model, training, progress=progress, notice=notice)
    for loader, seed in ((data.train, training.seed), (data.validation, training.seed + 1)):
        if loader is not None and objective != "causal_lm":
            loader.collator = text_collator(run, tokenizer, data.seq_len, seed)
    return data


def text_collator(run: RunConfig, tokenizer: Tokenizer, seq_len: int, seed: int) -> MaskedCollator | SpanCollator:
    """What makes gaps in running text.

    Raises:
        UserError: the tokenizer has no mask token, or no sentinels.
    """
    training = run.training
    special = list(tokenizer.special_tokens.values())
    if run.objective == "mlm":
        pieces = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
        return MaskedCollator(
            seq_len,
            tokenizer.vocab_size,
            mask_token_id(tokenizer),
            special,
            training.mask_probability,
            seed,
            word_starts(pieces) if training.whole_word_masking else None,
        )
    return SpanCollator(
        seq_len,
        sentinel_ids(tokenizer),
        special,
        tokenizer.eos_token_id,
        training.mask_probability,
        training.mean_span_length,
        seed,
    )


def make_objective(run: RunConfig) -> Objective:
    """What is minimised."""
    if run.objective == "causal_lm":
        return CausalLM(run.training.z_loss)
    if run.training.z_loss:
        raise UserError(f"training.z_loss is for causal_lm, not for {run.objective}", hint="leave it out")
    if run.objective == "mlm":
        return MaskedLM()
    return Classification() if run.objective in HEADS else SequenceToSequence()


def evaluate_task(model: BaseLanguageModel, run: RunConfig, loader: PackedLoader, *, device: str) -> dict[str, float]:
    """Loss, perplexity and accuracy of a trained model on all held-out data.

    Args:
        model: on the device.
        run: says what the task is.
        loader: of the held-out data; all of it is read, however little of it training looked at.
        device: where the model is.
    """
    limit, loader.limit = loader.limit, None
    try:
        metrics = validate(
            model,
            make_objective(run),
            loader.batches(0, loader.sequences),
            device=resolve_device(device),
            autocast=torch.autocast(resolve_device(device).type, enabled=False),
        )
    finally:
        loader.limit = limit
    return {name.removeprefix("validation/"): value for name, value in metrics.items()}


def format_task(instruction: str, text: str | None = None, **fields: str) -> str:
    """A task as a text, for a model that turns text into text (T5: Raffel et al. 2020, section 2.4).

    Args:
        instruction: what is to be done.
        text: what it is to be done to.
        fields: the parts of an input that has several, by name, in order.

    Example:
        >>> format_task("translate English to German", "That is good.")
        'translate English to German: That is good.'
        >>> format_task("question answering", question="Who?", context="She did.")
        'question answering: question: Who? context: She did.'
    """
    parts = [f"{name.replace('_', ' ')}: {value.strip()}" for name, value in fields.items()]
    body = [*([text.strip()] if text is not None else []), *parts]
    if not body:
        raise UserError(f"the task {instruction!r} has no text", hint="pass text=..., or named fields")
    return f"{instruction.strip().rstrip(':')}: {' '.join(body)}"


def sample_prompts(run: RunConfig) -> Sequence[str]:
    """The prompts that this kind of model can do something with: an encoder fills masks, or shows nothing."""
    if run.model.family != "encoder":
        return run.training.sample_prompts
    gaps = [prompt for prompt in run.training.sample_prompts if MASK_TOKEN in prompt]
    return gaps if run.objective == "mlm" else []
