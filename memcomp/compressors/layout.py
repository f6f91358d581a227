"""Sequences that the LM reads: tokens, with vectors in place of some of them.

A sequence (`Row`) is built on the host from pieces; it says for each position where the
input vector comes from. Sequences are padded only on the right, so that a causal LM needs
no padding mask, and each may have another number of digests.

Letters: B sequences, S positions, A scored tokens, P digests of a sequence.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from memcomp.errors import InputError

TOKEN = -1  # slot of a position whose input vector is the embedding of its token
SPECIAL = ("ae", "ft")  # trained vectors that tell the LM its task; slots 0 and 1
FIRST_DIGEST = len(SPECIAL)  # slot of a context's first digest


class Row(NamedTuple):
    """One sequence, or a piece of one, on the host.

    Attributes:
      tokens: token ids; 0 where a vector takes the place of a token.
      slots: source of each input vector: `TOKEN`, or an index into `[special | digests]`.
      scored: whether the token is scored; it is predicted from the position before it.
    """

    tokens: Int[np.ndarray, "S"]
    slots: Int[np.ndarray, "S"]
    scored: Bool[np.ndarray, "S"]


class Rows(NamedTuple):
    """A batch of sequences, as arrays of fixed shapes: numpy arrays on the host.

    Attributes:
      tokens: ids of the tokens that the LM reads, thus without the last of a sequence.
      slots: as in `Row`.
      read: position from which each scored token is predicted.
      targets: ids of the scored tokens.
      scored: mask of `read` and `targets`; False for padding.
    """

    tokens: Int[Any, "B S"]
    slots: Int[Any, "B S"]
    read: Int[Any, "B A"]
    targets: Int[Any, "B A"]
    scored: Bool[Any, "B A"]


def join(*pieces: Row) -> Row:
    """Concatenates pieces."""
    return Row(*(np.concatenate(parts) for parts in zip(*pieces, strict=True)))


def text(tokens: Sequence[int] | Int[np.ndarray, "_"], scored: bool = False) -> Row:
    """Returns a piece of tokens, which the LM reads by their embeddings."""
    ids = np.asarray(tokens, np.int32)
    return Row(ids, np.full_like(ids, TOKEN), np.full(ids.shape, scored))


def special(name: str) -> Row:
    """Returns a piece of one position: the trained vector of this name."""
    return _vectors(np.asarray([SPECIAL.index(name)], np.int32))


def digests(count: int) -> Row:
    """Returns a piece of all `count` digests of the context, in order."""
    return _vectors(FIRST_DIGEST + np.arange(count, dtype=np.int32))


def _vectors(slots: Int[np.ndarray, "S"]) -> Row:
    return Row(np.zeros_like(slots), slots, np.zeros(slots.shape, bool))


def autoencoding_row(context: Int[np.ndarray, "_"], count: int, eos: int | None) -> Row:
    """[digests] [AE] context, EOS; the context and EOS are scored.

    Source: Ge et al. 2024, arXiv:2307.06945, section 2.2.1; arXiv:2406.13618, eq. 10.
    """
    return join(digests(count), special("ae"), text(context, True), _end(eos))


def continuation_row(
    continuation: Int[np.ndarray, "_"], count: int, num_given: int = 0
) -> Row:
    """[digests] continuation; all but its first `num_given` tokens are scored.

    There is no EOS, because the document continues after the window.

    Source: arXiv:2307.06945, section 2.2.2; its code gives 8 tokens.
    """
    given, rest = continuation[:num_given], continuation[num_given:]
    return join(digests(count), text(given), text(rest, True))


class Question(NamedTuple):
    """A question about a context, as tokens.

    Attributes:
      before: tokens before the context.
      after: tokens after it, the prompt included.
      answer: the expected answer without EOS; empty if it is not known.
    """

    before: Int[np.ndarray, "_"]
    after: Int[np.ndarray, "_"]
    answer: Int[np.ndarray, "_"]


def answer_row(question: Question, count: int, eos: int | None) -> Row:
    """`before` [digests] [FT] `after` answer, EOS; the answer and EOS are scored.

    Source: the authors' code, modules.py:386-439.
    """
    middle = join(digests(count), special("ft"))
    return _asked(question, middle, eos)


def memory_answer_row(question: Question, count: int, eos: int | None) -> Row:
    """[digests] `after` answer, EOS; for crammed vectors in place of compressed ones.

    Crammed vectors are optimised at the beginning of a sequence and without FT. So nothing
    comes before them, and FT is left out.
    """
    nothing = np.zeros(0, np.int32)
    return _asked(question._replace(before=nothing), digests(count), eos)


def untrained_answer_row(question: Question, count: int, eos: int | None) -> Row:
    """`answer_row` without FT, for vectors that were not trained together with FT."""
    return _asked(question, digests(count), eos)


def full_context_row(
    question: Question, context: Int[np.ndarray, "_"], eos: int | None
) -> Row:
    """`before` context `after` answer, EOS: the context itself in place of the vectors."""
    return _asked(question, text(context), eos)


def _asked(question: Question, middle: Row, eos: int | None) -> Row:
    before, after = text(question.before), text(question.after)
    return join(before, middle, after, text(question.answer, True), _end(eos))


def _end(eos: int | None) -> Row:
    return text([] if eos is None else [eos], True)


def prompt_of(row: Row) -> Row:
    """Returns the part before the first scored token, from which the LM decodes."""
    end = int(np.argmax(row.scored)) if row.scored.any() else len(row.scored)
    return Row(*(part[:end] for part in row))


def stack_rows(
    rows: Sequence[Row], length: int | None = None, num_scored: int | None = None
) -> Rows:
    """Pads sequences to one batch.

    Args:
      rows: sequences, whose first token must not be scored, since nothing predicts it.
      length: S; None for one less than the longest sequence.
      num_scored: A; None for the largest number of scored tokens of a sequence.

    Raises:
      InputError: a sequence is longer, or has more scored tokens.
    """
    longest = max(len(row.tokens) for row in rows) - 1
    most = max(int(row.scored.sum()) for row in rows)
    for name, wanted, found in (
        ("positions", length, longest),
        ("scored tokens", num_scored, most),
    ):
        if wanted is not None and found > wanted:
            raise InputError(
                f"a row has {found} {name}; wanted at most {wanted}: shorten the context, "
                "the prompt or the answer, or allow more"
            )
    B, S, A = len(rows), length or longest, most if num_scored is None else num_scored
    batch = Rows(
        tokens=np.zeros((B, S), np.int32),
        slots=np.full((B, S), TOKEN, np.int32),
        read=np.zeros((B, A), np.int32),
        targets=np.zeros((B, A), np.int32),
        scored=np.zeros((B, A), bool),
    )
    for i, row in enumerate(rows):
        (where,) = np.nonzero(row.scored)
        n, a = len(row.tokens) - 1, len(where)
        batch.tokens[i, :n], batch.slots[i, :n] = row.tokens[:n], row.slots[:n]
        batch.read[i, :a], batch.targets[i, :a] = where - 1, row.tokens[where]
        batch.scored[i, :a] = True
    return batch


def check_room(needed: int, lm_name: str, max_positions: int) -> None:
    """Raises `InputError` if the LM has fewer than `needed` positions."""
    if needed > max_positions:
        raise InputError(
            f"a row needs {needed} positions, but {lm_name} has {max_positions}; shorten "
            "the context, or divide it into chunks (max_chunk)"
        )


def input_vectors(
    tokens: Int[Array, "B S"],
    slots: Int[Array, "B S"],
    token_vectors: Float[Array, "B S D"],
    specials: Float[Array, "N D"],
    prompts: Float[Array, "B P D"],
) -> Float[Array, "B S D"]:
    """Returns the LM's input vector at each position, in the dtype of `token_vectors`."""
    B, D = slots.shape[0], token_vectors.shape[-1]
    shared = jnp.broadcast_to(specials[None], (B, *specials.shape))
    vectors = jnp.concatenate([shared, prompts], axis=1).astype(token_vectors.dtype)
    indices = jnp.broadcast_to(jnp.maximum(slots, 0)[:, :, None], (*slots.shape, D))
    chosen = jnp.take_along_axis(vectors, indices, axis=1)
    return jnp.where((slots == TOKEN)[:, :, None], token_vectors, chosen)
