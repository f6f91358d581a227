"""The selective state-space recurrence, as an associative scan over chunks of positions.

Letters: B texts, T positions, E d_inner, Z d_state; K positions per chunk, N chunks.

Source: Gu and Dao 2023, arXiv:2312.00752, sections 2 and 3.2; recurrences as associative
  scans: Blelloch 1990, "Prefix sums and their applications".
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

CHUNK = 16  # about the root of 512: about as many chunks as positions in each chunk


def selective_scan(
    x: Float[Array, "B T E"],
    dt: Float[Array, "B T E"],
    A: Float[Array, "Z E"],
    B: Float[Array, "B T Z"],
    C: Float[Array, "B T Z"],
    D: Float[Array, "E"] | None = None,
    state: Float[Array, "B Z E"] | None = None,
    *,
    chunk: int = CHUNK,
) -> tuple[Float[Array, "B T E"], Float[Array, "B Z E"]]:
    """y_t = sum_z C_tz h_tz + D x_t, where h_t = exp(dt_t A) h_(t-1) + dt_t B_t x_t.

    It is computed in float32, or in float64 if `x` is. Only the states between chunks are
    kept; the backward pass recomputes those inside a chunk, which are Z times as wide as
    `x`. Memory is linear in T. `exp(dt A)` is never inverted, so that nothing overflows.

    Args:
      x: inputs.
      dt: step sizes, positive.
      A: decay rates of the state, negative.
      B: weights with which each input enters the state.
      C: weights with which each output reads the state.
      D: weights of the skip connection from inputs to outputs; None for none.
      state: h before the first position; None for zeros.
      chunk: largest number of positions that are scanned at once.

    Returns:
      y, and h after the last position.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    x, dt, A, B, C = (value.astype(dtype) for value in (x, dt, A, B, C))
    batch, T, E = x.shape
    start = jnp.zeros((batch, A.shape[0], E), dtype) if state is None else state
    chunks = (_split(value, chunk) for value in (x, dt, B, C))
    y, last = _scan(A, start.astype(dtype), *chunks)
    y = jnp.moveaxis(y.reshape(-1, batch, E)[:T], 0, 1)
    if D is not None:
        y = y + x * jnp.broadcast_to(D.astype(dtype), x.shape)
    return y, last


def _split(value: Float[Array, "B T X"], chunk: int) -> Float[Array, "N K B X"]:
    """Splits T into equal chunks; padding has dt = 0, which does not change the state."""
    T = value.shape[1]
    num_chunks = -(-T // chunk)
    K = -(-T // num_chunks)
    padding = ((0, num_chunks * K - T), (0, 0), (0, 0))
    padded = jnp.pad(jnp.moveaxis(value, 1, 0), padding)
    return padded.reshape(num_chunks, K, *padded.shape[1:])


# The derivative is written by hand, because JAX's derivative of `associative_scan` under
# `checkpoint` is three times slower on a CPU.
@jax.custom_vjp
def _scan(
    A: Float[Array, "Z E"],
    state: Float[Array, "B Z E"],
    x: Float[Array, "N K B E"],
    dt: Float[Array, "N K B E"],
    B: Float[Array, "N K B Z"],
    C: Float[Array, "N K B Z"],
) -> tuple[Float[Array, "N K B E"], Float[Array, "B Z E"]]:
    """Returns y, and the state after the last chunk."""
    return _forward(A, state, x, dt, B, C)[0]


def _forward(A, state, x, dt, B, C):
    def body(state, chunk):
        x, dt, B, C = chunk
        h = _prefixes(*_steps(A, state, x, dt, B))
        return h[-1], (state, jnp.einsum("kbze,kbz->kbe", h, C))

    last, (entering, y) = jax.lax.scan(body, state, (x, dt, B, C))
    return (y, last), (A, entering, x, dt, B, C)


def _backward(residuals, cotangents):
    A, entering, x, dt, B, C = residuals
    dy, d_last = cotangents
    ones = jnp.ones(A.shape[:1], A.dtype)

    def body(carry, chunk):
        d_state, dA = carry  # gradient of the state after this chunk
        state, x, dt, B, C, dy = chunk
        a, b = jax.lax.optimization_barrier(_steps(A, state, x, dt, B))
        h = _prefixes(a, b)
        # g_t = dL/dh_t = C_t dy_t + a_(t+1) g_(t+1): the same recurrence, from the end.
        a_next = jnp.concatenate([a[1:], jnp.ones_like(a[:1])])
        g = _outer(C, dy).at[-1].add(d_state)
        g = _prefixes(a_next, g, reverse=True)
        before = jnp.concatenate([state[None], h[:-1]])
        d_exponent = g * before * a  # gradient of dt A
        d_step = jnp.einsum("kbz,kbze->kbe", B, g)  # gradient of dt x
        # Multiply first: an einsum with `e` as a batch axis would transpose all states.
        through_a = jax.lax.optimization_barrier(d_exponent * A[None, None])
        d_dt = jnp.einsum("z,kbze->kbe", ones, through_a) + d_step * x
        dB = jnp.einsum("kbze,kbe->kbz", g, dt * x)
        dC = jnp.einsum("kbze,kbe->kbz", h, dy)
        dA = dA + jnp.sum(d_exponent * dt[:, :, None], axis=(0, 1))
        return (a[0] * g[0], dA), (d_step * dt, d_dt, dB, dC)

    start = (d_last, jnp.zeros_like(A))
    chunks = (entering, x, dt, B, C, dy)
    (d_state, dA), gradients = jax.lax.scan(body, start, chunks, reverse=True)
    return dA, d_state, *gradients


_scan.defvjp(_forward, _backward)


def _steps(A, state, x, dt, B):
    """Pairs a, b [K B Z E] of h_t = a_t h_(t-1) + b_t; b_0 includes the earlier state."""
    a = jnp.exp(dt[:, :, None] * A[None, None])
    b = _outer(B, dt * x)
    return a, b.at[0].add(a[0] * state)


def _outer(z: Float[Array, "K B Z"], e: Float[Array, "K B E"]) -> Float[Array, "K B Z E"]:
    return z[..., None] * e[:, :, None]


def _prefixes(a, b, reverse: bool = False) -> Float[Array, "K B Z E"]:
    """h_t = a_t h_(t-1) + b_t with h_(-1) = 0; from h_(t+1) if `reverse`."""

    def compose(first, then):
        return then[0] * first[0], then[0] * first[1] + then[1]

    h = jax.lax.associative_scan(compose, (a, b), reverse=reverse)[1]
    # Without the barrier, the sums that follow would be fused with the scan and repeat it.
    return jax.lax.optimization_barrier(h)
