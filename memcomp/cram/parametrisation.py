"""What an optimiser steps on: memory itself, or what memory is made of."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


class LowDim(NamedTuple):
    """Memory as z W + b.

    Attributes:
      z: what is left of memory.
      W: from there to the dimensions of memory.
      b: of each vector.
    """

    z: Float[Array, "M R"]
    W: Float[Array, "R D"]
    b: Float[Array, "M D"]

    def memory(self) -> Float[Array, "M D"]:
        """What the LM reads."""
        return self.z @ self.W + self.b


def _direct(
    inner: optax.GradientTransformationExtraArgs, rank: int
) -> optax.GradientTransformationExtraArgs:
    """`inner` on memory itself."""
    return inner


def _low_dim(
    inner: optax.GradientTransformationExtraArgs, rank: int
) -> optax.GradientTransformationExtraArgs:
    """`inner` on z, W and b of memory = z W + b, which starts as it does without.

    Source: Progressive Cramming, 2026, arXiv:2607.21231. There W is one for the texts of
      a batch, and here each text's own, so that no result hangs on the batch. How z and W
      start is not published; here they are normal from one fixed key, so that all texts
      start with the same z and W, W with the standard deviation rank^-1/2, and what they
      make is taken off b.
    """

    def init(params):
        M, D = params.shape
        at_z, at_W = jax.random.split(jax.random.key(0))
        z = jnp.std(params) * jax.random.normal(at_z, (M, rank), params.dtype)
        W = rank**-0.5 * jax.random.normal(at_W, (rank, D), params.dtype)
        free = LowDim(z, W, params - z @ W)
        return free, inner.init(free)

    def update(updates, state, params=None, **extra_args):
        free, inner_state = state
        _, pull = jax.vjp(LowDim.memory, free)
        (grad,) = pull(updates)
        moves, inner_state = inner.update(grad, inner_state, free, **extra_args)
        free = optax.apply_updates(free, moves)
        return free.memory() - params, (free, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _subspace(inner, rank):
    """`inner` on z of memory = z Q + b, with rows of Q fixed and orthonormal."""

    def rows(params):
        square = jax.random.normal(jax.random.key(0), (params.shape[1], rank), params.dtype)
        return jnp.linalg.qr(square)[0].T

    def init(params):
        return inner.init(jnp.zeros((params.shape[0], rank), params.dtype))

    def update(updates, state, params=None, **extra_args):
        Q = rows(params)
        moves, state = inner.update(updates @ Q.T, state, params @ Q.T, **extra_args)
        return moves @ Q, state

    return optax.GradientTransformationExtraArgs(init, update)


def _sphere(inner, rank):
    """`inner` on memory whose vectors keep the length that they start with."""

    def norm(params):
        return jnp.linalg.norm(params, axis=-1, keepdims=True)

    def update(updates, state, params=None, **extra_args):
        # Only what lies along the sphere.
        unit = params / norm(params)
        along = updates - jnp.sum(updates * unit, -1, keepdims=True) * unit
        moves, state = inner.update(along, state, params, **extra_args)
        new = params + moves
        return new * norm(params) / norm(new) - params, state

    return optax.GradientTransformationExtraArgs(inner.init, update)


PARAMETRISATIONS = {
    "direct": _direct,
    "low_dim": _low_dim,
    "subspace": _subspace,
    "sphere": _sphere,
}
