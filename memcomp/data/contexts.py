"""Training input of context compressors: windows of documents, and questions about texts.

Each batch is a gather from tokens on disk. It depends only on the seed and its index, not
on the number of processes that share it, nor on the batches that were read before.

Letters: R sequences, B sequences of a batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import grain
import numpy as np
from jaxtyping import Int, Int64

from memcomp.data.ragged import Padded, Ragged
from memcomp.data.windows import in_passes
from memcomp.errors import InputError


class Contexts(NamedTuple):
    """Batch of windows.

    Attributes:
      context: tokens to compress, at least one in each context.
      continuation: tokens that follow the context in its document; 0 tokens at its end.
    """

    context: Padded
    continuation: Padded


class Questions(NamedTuple):
    """Batch of questions about texts.

    Attributes:
      context: tokens to compress.
      prompt: tokens of the question.
      answer: tokens of the expected answer.
    """

    context: Padded
    prompt: Padded
    answer: Padded


class QuestionTokens(NamedTuple):
    """All questions; sequences i of the three attributes belong together."""

    context: Ragged
    prompt: Ragged
    answer: Ragged

    def batch(
        self, rows: Int[np.ndarray, " B"], *, context: int, prompt: int, answer: int
    ) -> Questions:
        """Gathers the questions `rows`, padded or cut to these numbers of tokens."""
        widths = (context, prompt, answer)
        columns = zip(self, widths, strict=True)
        return Questions(*(column.padded(rows, width) for column, width in columns))


def fitting(
    questions: QuestionTokens, *, context: int | None, prompt: int, answer: int
) -> Int64[np.ndarray, " R"]:
    """Indices of the questions of which no part is empty or too long.

    Args:
      questions: all questions.
      context: largest number of tokens; None for any number, if contexts are cut later.
      prompt: largest number of tokens.
      answer: largest number of tokens.

    Source: Wang et al. 2024, arXiv:2406.13618, data_utils.py, which takes the first
    tokens of a long context, so that its answer may not be in them.
    """
    fits = np.ones(len(questions.context), bool)
    for column, most in zip(questions, (context, prompt, answer), strict=True):
        fits &= (column.lengths > 0) & (most is None or column.lengths <= most)
    return np.flatnonzero(fits)


def context_batches(
    documents: Ragged,
    *,
    length: int,
    batch_size: int,
    num_batches: int,
    seed: int,
    continuation: int = 0,
    min_length: int | None = None,
    by_tokens: bool = False,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset[Contexts]:
    """Random windows of documents, as a grain dataset of `Contexts`.

    In one pass every document gives one window, in random order. A window has the length
    that is asked for, or else that of its document, and starts anywhere in it with equal
    probability.

    Args:
      documents: tokens of each document; none may be empty.
      length: number of tokens of a context.
      batch_size: number of windows in a batch, over all processes.
      num_batches: length of the dataset; passes are repeated as needed.
      seed: seed of order and windows, at least 0.
      continuation: number of tokens after a context; there are fewer, or none, if the
        document is too short for both.
      min_length: contexts have uniformly distributed lengths from this to `length`; None
        if all have `length`. Documents that are too short are used whole.
      by_tokens: whether a document gives a window for each `length` of its tokens or part
        of it, not one window, so that a novel counts for more than a page.
      process_index: index of this process, which selects its part of each batch.
      process_count: number of processes, each with an equal part.

    Raises:
      InputError: there are no documents, one is empty, a size is below 1, or the processes
        do not divide a batch.

    Source: Wang et al. 2024, arXiv:2406.13618, modules.py, pretraining, which draws anew
    in every pass and from unseeded generators; min_length as in Ge et al. 2024,
    arXiv:2307.06945, where a text is split for its continuation at a random place.
    """
    least = length if min_length is None else min_length
    _check_sizes(length=length, batch_size=batch_size, min_length=least)
    if least > length:
        raise InputError(
            f"min_length {least} is more than length {length}; give at most as many"
        )
    sizes = documents.lengths
    if not len(sizes) or not sizes.min():
        empty = f"document {sizes.argmin()} is empty" if len(sizes) else "no documents"
        raise InputError(f"{empty}; give documents of at least one token each")
    part = process_part(batch_size, process_index, process_count)
    ends = np.cumsum(-(-sizes // length) if by_tokens else np.ones_like(sizes))
    places = _shuffled(int(ends[-1]), seed)

    def gather(batch: int) -> Contexts:
        rows = np.searchsorted(ends, places(batch * batch_size + part), side="right")
        # Drawn for the batch of all processes. The 1 makes these draws differ from those of
        # the order; numpy treats the seeds [a, b] and [a, b, 0] as equal.
        draws = np.random.default_rng([seed, batch, 1]).random((2, batch_size))[:, part]
        have = sizes[rows]
        shortest, longest = np.minimum(have, least), np.minimum(have, length)
        lengths = shortest + _scaled(draws[0], longest - shortest + 1)
        spans = np.minimum(have, lengths + continuation)
        starts = _scaled(draws[1], have - spans + 1)
        return Contexts(
            documents.padded(rows, length, skip=starts, limit=lengths),
            documents.padded(rows, continuation, skip=starts + lengths),
        )

    return grain.MapDataset.range(num_batches).map(gather)


def question_batches(
    questions: QuestionTokens,
    *,
    context: int,
    prompt: int,
    answer: int,
    batch_size: int,
    num_batches: int,
    seed: int,
    rows: Int[np.ndarray, " R"] | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset[Questions]:
    """Questions in a new random order for each pass, as a grain dataset.

    Args:
      questions: all questions.
      context: largest number of tokens; longer contexts are cut after the first ones.
      prompt: largest number of tokens.
      answer: largest number of tokens.
      batch_size: number of questions in a batch, over all processes.
      num_batches: length of the dataset; passes are repeated as needed.
      seed: seed of the order, at least 0.
      rows: indices of the questions to use; None for all that are `fitting`.
      process_index: index of this process, which selects its part of each batch.
      process_count: number of processes, each with an equal part.

    Raises:
      InputError: no question fits, a size is below 1, or the processes do not divide a
        batch.
    """
    _check_sizes(context=context, prompt=prompt, answer=answer, batch_size=batch_size)
    if rows is None:
        rows = fitting(questions, context=None, prompt=prompt, answer=answer)
    if not len(rows):
        raise InputError(
            f"none of {len(questions.context)} questions has a prompt of at most "
            f"{prompt} tokens and an answer of at most {answer}; raise these"
        )
    part = process_part(batch_size, process_index, process_count)
    places = _shuffled(len(rows), seed)

    def gather(batch: int) -> Questions:
        chosen = rows[places(batch * batch_size + part)]
        return questions.batch(chosen, context=context, prompt=prompt, answer=answer)

    return grain.MapDataset.range(num_batches).map(gather)


def process_part(
    batch_size: int, process_index: int, process_count: int
) -> Int[np.ndarray, " P"]:
    """Indices in each batch of this process's examples, one of several equal ranges.

    Raises:
      InputError: `batch_size` is no multiple of `process_count`.
    """
    if batch_size % process_count:
        raise InputError(
            f"batch_size {batch_size} cannot be divided by {process_count} processes; "
            "give a multiple of it"
        )
    local = batch_size // process_count
    return process_index * local + np.arange(local)


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"{name} is {size}; give 1 or more")


def _shuffled(
    size: int, seed: int
) -> Callable[[Int[np.ndarray, " B"]], Int[np.ndarray, " B"]]:
    return in_passes(lambda n: np.random.default_rng([seed, n]).permutation(size), size)


def _scaled(uniform: np.ndarray, sizes: np.ndarray) -> Int64[np.ndarray, " B"]:
    """Turns draws in [0, 1) into integers in 0..sizes - 1."""
    return (uniform * sizes).astype(np.int64)
