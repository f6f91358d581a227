"""GGT: an optimiser that preconditions with the full matrix of second moments."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float


class GGTState(NamedTuple):
    """State of GGT.

    Attributes:
      window: for each matrix [M P] of parameters, the last W gradients of each row [M W P],
        newest first, each multiplied by b2 in every later step; zeros before the W-th step.
    """

    window: Any


def scale_by_ggt(
    b1: float, b2: float, eps: float, window: int, power: float
) -> optax.GradientTransformationExtraArgs:
    """Scales gradients by the full matrix of second moments of each row, not its diagonal.

    With G [W P] the window of gradients of a row, its update is (G^T G)^-power m, where m
    is their running mean with decay b1. The update is then scaled to root mean square 1,
    the usual length of AdamW's updates. Both the matrix and m are sums over the window, so
    that the update is G^T f(G G^T) w, with the weights w of the mean m, and the only matrix
    to decompose is [W W].

    This suits memory: P is only D, so that G is small beside the LM's activations, and one
    text has few tokens, so that few directions matter, and these are not the axes. Rows are
    vectors that the LM reads at places of their own. One matrix for all rows would have to
    tell their directions apart from as few gradients.

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
        return GGTState(jax.tree.map(empty, params))

    def empty(matrix):
        M, P = matrix.shape
        return jnp.zeros((M, window, P), matrix.dtype)

    def update(updates, state, params=None, **extra_args):
        windows = jax.tree.map(newest, updates, state.window)
        return jax.tree.map(move, windows), GGTState(windows)

    def newest(grad, windows):
        return jnp.concatenate([grad[:, None], b2 * windows[:, :-1]], axis=1)

    def move(G):
        tiny = jnp.finfo(G.dtype).tiny
        squares, vectors = _eigh(G @ G.mT)
        largest = jnp.maximum(squares[:, -1:], tiny)
        singular = jnp.sqrt(jnp.maximum(squares, 0) / largest)
        mean = (b1 / b2) ** jnp.arange(window, dtype=G.dtype)
        scaled = (mean @ vectors) / (singular + eps) ** (2 * power)
        direction = jnp.einsum("mwv,mv,mwp->mp", vectors, scaled, G)
        square = jnp.mean(direction**2, axis=-1, keepdims=True)
        return direction / jnp.sqrt(jnp.maximum(square, tiny))

    return optax.GradientTransformationExtraArgs(init, update)


def _eigh(
    matrices: Float[Array, "M W W"],
) -> tuple[Float[Array, "M W"], Float[Array, "M W W"]]:
    """Eigenvalues and eigenvectors of one text's matrices, computed on the text's device.

    The compiler cannot shard a decomposition: it would gather the matrices of all texts and
    decompose all of them on each device. The axes of the batch come from `jax.vmap` with
    `spmd_axis_name`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return jnp.linalg.eigh(matrices)
    whole = PartitionSpec()
    local = jax.shard_map(
        _eigh_here, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False
    )
    return local(matrices)


def _eigh_here(matrices):
    # Several CPU devices of one process share its threads. One that decomposes several
    # matrices at once may wait for ever for a thread that waits for this device.
    in_turn = functools.partial(jax.lax.map, jnp.linalg.eigh)
    return jax.lax.platform_dependent(matrices, cpu=in_turn, default=jnp.linalg.eigh)
