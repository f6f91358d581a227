"""KL divergence of two predictions over a large vocabulary, without arrays of [T V].

Letters: T tokens, D d_model, V vocabulary, C a chunk of the vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from memcomp.nn.cross_entropy import MASKED, over_chunks, soft_capped


class _Sums(NamedTuple):
    """Running sums over the vocabulary, each relative to the largest logit so far.

    Attributes:
      peaks: largest logits of teacher and student.
      totals: sums of exp(logit - peak) of teacher and student.
      gap: sum of exp(teacher's logit - peak) times (teacher's logit - student's logit).
    """

    peaks: Float[Array, "2 T"]
    totals: Float[Array, "2 T"]
    gap: Float[Array, "T"]


def divergence(
    teacher: Float[Array, "T D"],
    student: Float[Array, "T D"],
    unembedding: Float[Array, "V D"],
    chunk: int = 8192,
    softcap: float | None = None,
) -> Float[Array, "T"]:
    """KL(teacher || student) in nats of the predictions from two hidden states.

    The vocabulary is read in chunks of `chunk` tokens. The backward pass recomputes the
    logits of each chunk, so that memory is O(T chunk).

    Source: Hinton et al. 2015, arXiv:1503.02531, at temperature 1.
    """
    hidden = jnp.stack([teacher, student])
    accumulate = jnp.promote_types(hidden.dtype, jnp.float32)

    @jax.checkpoint
    def add(sums: _Sums, rows: Float[Array, "C D"]) -> _Sums:
        logits = jnp.einsum("ntd,cd->ntc", hidden, rows, preferred_element_type=accumulate)
        logits = soft_capped(logits, softcap)
        # The peaks need no derivative, because their value does not change the result.
        peaks = jax.lax.stop_gradient(jnp.maximum(sums.peaks, logits.max(axis=-1)))
        shrink = jnp.exp(sums.peaks - peaks)
        exps = jnp.exp(logits - peaks[..., None])
        gap = jnp.einsum("tc,tc->t", exps[0], logits[0] - logits[1])
        return _Sums(
            peaks, sums.totals * shrink + exps.sum(axis=-1), sums.gap * shrink[0] + gap
        )

    T = student.shape[0]
    zeros = jnp.zeros((2, T), accumulate)
    start = _Sums(jnp.full((2, T), MASKED, accumulate), zeros, zeros[0])
    sums = over_chunks(lambda sums, rows, _: add(sums, rows), start, unembedding, chunk)
    normalisers = sums.peaks + jnp.log(sums.totals)
    return sums.gap / sums.totals[0] + normalisers[1] - normalisers[0]
