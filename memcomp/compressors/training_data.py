"""Data to train and evaluate a compressor on: windows of documents, and questions."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from etils import epath
from jaxtyping import Int64

from memcomp.compressors.batches import Examples, Finetuning, Pretraining, micro_batches
from memcomp.compressors.setup import Setup, template
from memcomp.data.contexts import (
    Contexts,
    QuestionTokens,
    context_batches,
    fitting,
    question_batches,
)
from memcomp.data.ragged import Padded, Ragged, cached_ragged, tokenized
from memcomp.data.training_texts import document_texts, listed
from memcomp.distributed import say
from memcomp.errors import InputError


class Data(NamedTuple):
    """Training and validation data of a run.

    Attributes:
      batches: `Batch`es, whose arrays have a leading axis of micro-batches.
      valid: held-out examples, by name: "reconstruction", "continuation" or "answers".
      counts: numbers of examples that were left out or cut, for summary.json.
    """

    batches: grain.MapDataset
    valid: dict[str, Examples]
    counts: dict[str, int]


def pretraining_data(setup: Setup, made: Pretraining, folder: epath.Path) -> Data:
    """Makes the data of stage pretrain from windows of documents.

    Args:
      setup: setup of the run.
      made: the objectives.
      folder: the workdir, in which the tokens are cached.
    """
    settings, cfg, sources = setup.settings, setup.settings.train, setup.settings.sources
    train = document_tokens(setup, sources.texts, folder / "tokens" / "train")
    here = dict(process_index=jax.process_index(), process_count=jax.process_count())
    windows = context_batches(
        train,
        length=settings.context.length,
        continuation=made.continuation,
        batch_size=cfg.batch_size,
        num_batches=cfg.num_steps,
        seed=settings.seed,
        min_length=settings.context.min_length,
        by_tokens=settings.context.by_tokens,
        **here,
    )
    batches = made.batches(windows, seed=settings.seed, batch_size=cfg.batch_size, **here)
    valid = {}
    if sources.valid and sources.num_valid:
        held = document_tokens(setup, sources.valid, folder / "tokens" / "valid")
        valid = _held_out(setup, made, held)
    return Data(micro_batches(batches, cfg.accumulation), valid, {})


def _held_out(setup: Setup, made: Pretraining, tokens: Ragged) -> dict[str, Examples]:
    """Makes validation examples: held-out windows to reproduce and to continue."""
    settings = setup.settings
    held: Any = context_batches(
        tokens,
        length=settings.context.length,
        continuation=made.continuation,
        batch_size=settings.sources.num_valid,
        num_batches=1,
        seed=0,
    )[0]
    valid, goes_on = {}, np.zeros(len(held.context.lengths), bool)
    if made.continuation_ratio < 1:
        valid["reconstruction"] = made.examples(held, goes_on)
    if made.continuation_ratio > 0:
        # Contexts with a shorter continuation are left out: they would be reproduced.
        long = held.continuation.lengths >= made.min_continuation
        if long.any():
            held = Contexts(*(Padded(*(x[long] for x in part)) for part in held))
            valid["continuation"] = made.examples(held, ~goes_on[long])
    return valid


def document_tokens(setup: Setup, source: str, folder: epath.Path) -> Ragged:
    """Returns the tokens of whole documents, which are made once per workdir."""
    sources = setup.settings.sources

    def make() -> Iterator[tuple[Any, ...]]:
        say(f"tokenizing {source}")
        return tokenized(
            setup.lm.tokenizer,
            document_texts(source, sources.field),
            special_tokens=sources.special_tokens,
        )

    (tokens,) = cached_ragged(folder, ("text",), make)
    return tokens


def finetuning_data(setup: Setup, made: Finetuning, folder: epath.Path) -> Data:
    """Makes the data of stage finetune; the last `num_valid` questions are held out.

    Args:
      setup: setup of the run.
      made: the objective.
      folder: the workdir, in which the tokens are cached.

    Raises:
      InputError: no question is left to train on.
    """
    settings, cfg = setup.settings, setup.settings.train
    num_valid = settings.sources.num_valid
    tokens = question_tokens(setup, "train", folder / "tokens" / "train")
    sizes = dict(context=settings.context.length, prompt=made.prompt, answer=made.answer)
    rows, counts = fitting_questions(made, tokens)
    if len(rows) <= num_valid:
        raise InputError(
            f"{len(rows)} questions fit question.prompt and question.answer, and num_valid "
            f"= {num_valid} are held out; raise the ones or lower the other"
        )
    batches = question_batches(
        tokens,
        **sizes,
        batch_size=cfg.batch_size,
        num_batches=cfg.num_steps,
        seed=settings.seed,
        rows=rows[: len(rows) - num_valid],
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    held, valid = rows[len(rows) - num_valid :], {}
    if num_valid:
        valid["answers"] = made.examples(tokens.batch(held, **sizes))
    return Data(micro_batches(made.batches(batches), cfg.accumulation), valid, counts)


def fitting_questions(
    made: Finetuning, tokens: QuestionTokens
) -> tuple[Int64[np.ndarray, " R"], dict[str, int]]:
    """Returns the indices of the questions that fit, and counts for summary.json.

    The counts are of all questions, those left out, and those whose context is cut.
    """
    rows = fitting(tokens, context=None, prompt=made.prompt, answer=made.answer)
    counts = {
        "num_questions": len(tokens.context),
        "num_left_out": len(tokens.context) - len(rows),
        "num_contexts_cut": int((tokens.context.lengths[rows] > made.shapes.context).sum()),
    }
    say(
        f"{counts['num_left_out']:,} of {counts['num_questions']:,} questions left out, "
        f"with a prompt of more than {made.prompt} tokens, an answer of more than "
        f"{made.answer}, or nothing in one; of the others {counts['num_contexts_cut']:,} "
        f"contexts are cut to {made.shapes.context} tokens"
    )
    return rows, counts


def question_tokens(setup: Setup, split: str, folder: epath.Path) -> QuestionTokens:
    """Returns the tokens of the questions of PwC, which are made once per workdir."""
    words, sources = template(setup), setup.settings.sources

    def make() -> Iterator[tuple[Any, ...]]:
        from memcomp.data.corpora import prepare_pwc  # late: TFDS takes seconds

        corpus = prepare_pwc(
            split, manual_dir=sources.manual_dir or None, filters=sources.filters
        )
        say(f"PwC {split}: {listed(corpus.counts)}")
        rows = corpus.texts("context", "prompt", "answer")
        asked = ((text, words.written(prompt), answer) for text, prompt, answer in rows)
        return tokenized(setup.lm.tokenizer, asked)

    return QuestionTokens(*cached_ragged(folder, QuestionTokens._fields, make))
