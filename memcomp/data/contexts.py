"""Training input of context compressors: windows of documents, and questions about texts.

Each batch is a gather from tokens on disk, and depends on the seed and its number alone:
not on how many processes share it, nor on which batches were read before.

Letters: R sequences, B rows of a batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import grain
import numpy as np
from jaxtyping import Int, Int64

from memcomp.data.ragged import Padded, Ragged
from memcomp.data.windows import in_passes, process_part
from memcomp.errors import InputError


class Contexts(NamedTuple):
    """A batch of windows.

    Attributes:
      context: what is compressed; at least one token a row.
      continuation: what follows it in its document; 0 tokens where nothing does.
    """

    context: Padded
    continuation: Padded


class Questions(NamedTuple):
    """A batch of questions about texts.

    Attributes:
      context: what is compressed.
      prompt: the question.
      answer: what is to be said.
    """

    context: Padded
    prompt: Padded
    answer: Padded


class QuestionTokens(NamedTuple):
    """All questions; row i of the three belongs together."""

    context: Ragged
    prompt: Ragged
    answer: Ragged

    def batch(
        self, rows: Int[np.ndarray, " B"], *, context: int, prompt: int, answer: int
    ) -> Questions:
        """The rows, each column as wide as said and cut off there; see `fitting`."""
        widths = (context, prompt, answer)
        columns = zip(self, widths, strict=True)
        return Questions(*(column.padded(rows, width) for column, width in columns))


def fitting(
    questions: QuestionTokens, *, context: int | None, prompt: int, answer: int
) -> Int64[np.ndarray, " R"]:
    """Numbers of the rows in which nothing is empty and nothing longer than said.

    Args:
      questions: all of them.
      context: most tokens; None for any number, where the first ones are to be taken.
      prompt: most tokens.
      answer: most tokens.

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

    In one pass every document gives one window, in random order. A window is as long as
    wanted or as its document, and starts anywhere in it, every place as likely.

    Args:
      documents: tokens of each, none empty.
      length: tokens of a context.
      batch_size: windows a batch, over all processes.
      num_batches: length of the dataset; passes are repeated as needed.
      seed: of order and windows; at least 0.
      continuation: tokens wanted after a context; a document that is too short for
        both has fewer, down to none.
      min_length: contexts have between so many and `length` tokens, every number as
        likely; None: all have `length`. Documents that are too short give what they
        have.
      by_tokens: in one pass a document gives a window for each `length` of its tokens,
        begun or not, so that a novel counts for more than a page.
      process_index: the part of each batch that is wanted here.
      process_count: number of equal parts.

    Raises:
      InputError: no documents, an empty one, sizes below 1, or a batch that cannot be
        divided.

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
        # Drawn for the whole batch. The 1 tells these draws from those of the order:
        # numpy takes the seeds [a, b] and [a, b, 0] for the same.
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
    """Questions in an order that is drawn anew in each pass, as a grain dataset.

    Args:
      questions: all of them.
      context: most tokens; of a longer context the first ones are taken.
      prompt: most tokens.
      answer: most tokens.
      batch_size: rows a batch, over all processes.
      num_batches: length of the dataset; passes are repeated as needed.
      seed: of the order; at least 0.
      rows: those that are taken; None: all that are `fitting`.
      process_index: the part of each batch that is wanted here.
      process_count: number of equal parts.

    Raises:
      InputError: no rows, sizes below 1, or a batch that cannot be divided.
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


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"{name} is {size}; give 1 or more")


def _shuffled(
    size: int, seed: int
) -> Callable[[Int[np.ndarray, " B"]], Int[np.ndarray, " B"]]:
    return in_passes(lambda n: np.random.default_rng([seed, n]).permutation(size), size)


def _scaled(uniform: np.ndarray, sizes: np.ndarray) -> Int64[np.ndarray, " B"]:
    """Numbers in 0..sizes - 1 out of draws in [0, 1)."""
    return (uniform * sizes).astype(np.int64)
