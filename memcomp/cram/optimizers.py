"""GGT: an optimiser that preconditions with the full matrix of second moments."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float


class GGTState(NamedTuple):
    """State of GGT.

    Attributes:
      window: the last W gradients, newest first, each multiplied by b2 in every later step;
        zeros before the W-th step.
    """

    window: Float[Array, "W P"]


def scale_by_ggt(
    b1: float, b2: float, eps: float, window: int, power: float
) -> optax.GradientTransformationExtraArgs:
    """Scales gradients by the full matrix of their second moments, not its diagonal alone.

    With G [W P] the window of gradients, the update is (G^T G)^-power m, where m is their
    running mean with decay b1. The update is then scaled to root mean square 1, the usual
    length of AdamW's updates. Both the matrix and m are sums over the window, so that the
    update is G^T f(G G^T) w, with the weights w of the mean m, and the only matrix to
    decompose is [W W].

    This suits memory: P is only M D, so that G is small beside the LM's activations, and
    one text has few tokens, so that few directions matter, and these are not the axes.

    Source: GGT, Agarwal et al. 2019, arXiv:1806.02958, section 2, whose power is 1/2, and
      which adds the identity to what is inverted.

    Args:
      b1: decay rate of the mean of gradients, below b2.
      b2: decay rate of the gradients in the matrix.
      eps: added to the singular values of G, as a share of the largest.
      window: number of gradients that are kept (W).
      power: 1/2 makes steps equally long in all directions of the window, as Adam's are in
        all coordinates; 1 divides by the second moments themselves, as a natural gradient
        step does.
    """

    def init(params):
        flat, _ = ravel_pytree(params)
        return GGTState(jnp.zeros((window, flat.size), flat.dtype))

    def update(updates, state, params=None, **extra_args):
        grad, unravel = ravel_pytree(updates)
        G = jnp.concatenate([grad[None], b2 * state.window[:-1]])
        tiny = jnp.finfo(G.dtype).tiny
        squares, vectors = _eigh(G @ G.T)
        singular = jnp.sqrt(jnp.maximum(squares, 0) / jnp.maximum(squares[-1], tiny))
        mean = (b1 / b2) ** jnp.arange(window, dtype=G.dtype)
        weights = vectors @ ((mean @ vectors) / (singular + eps) ** (2 * power))
        move = weights @ G
        move = move / jnp.sqrt(jnp.maximum(jnp.mean(move**2), tiny))
        return unravel(move), GGTState(G)

    return optax.GradientTransformationExtraArgs(init, update)


def _eigh(matrix: Float[Array, "W W"]) -> tuple[Float[Array, "W"], Float[Array, "W W"]]:
    """Eigenvalues and eigenvectors of one text's matrix, computed on the text's device.

    The compiler cannot shard a decomposition: it would gather the matrices of all texts and
    decompose all of them on each device. The axes of the batch come from `jax.vmap` with
    `spmd_axis_name`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return jnp.linalg.eigh(matrix)
    whole = PartitionSpec()
    local = jax.shard_map(
        jnp.linalg.eigh, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False
    )
    return local(matrix)
