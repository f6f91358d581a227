"""Parametrisations of memory: the optimiser updates memory itself or its factors."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


class LowDim(NamedTuple):
    """Memory as z W + b.

    Attributes:
      z: low-dimensional coordinates of the memory vectors.
      W: linear map from these coordinates to the input vectors of the LM.
      b: offset of each memory vector.
    """

    z: Float[Array, "M R"]
    W: Float[Array, "R D"]
    b: Float[Array, "M D"]

    def memory(self) -> Float[Array, "M D"]:
        """Memory that the LM reads."""
        return self.z @ self.W + self.b


def _direct(
    inner: optax.GradientTransformationExtraArgs, rank: int
) -> optax.GradientTransformationExtraArgs:
    """Applies `inner` to memory itself."""
    return inner


def _low_dim(
    inner: optax.GradientTransformationExtraArgs, rank: int
) -> optax.GradientTransformationExtraArgs:
    """Applies `inner` to z, W and b of memory = z W + b; the initial memory is unchanged.

    Each text has its own W and b, as in the paper. The public code makes one linear map for
    a batch, which is the same at its scripts' batch size of 1.

    Source: Progressive Cramming, 2026, arXiv:2607.21231. How z and W are initialised is not
      published. Here they are normal from one fixed key, so that all texts start with the
      same W and, up to its scale, the same z. W has the standard deviation rank^-1/2, and b
      starts as the memory minus z W.
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


PARAMETRISATIONS = {"direct": _direct, "low_dim": _low_dim}
