"""Depthwise causal convolution over positions."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def causal_convolution(
    x: Float[Array, "B T E"],
    kernel: Float[Array, "W E"],
    bias: Float[Array, "E"] | None = None,
    state: Float[Array, "B V E"] | None = None,
) -> tuple[Float[Array, "B T E"], Float[Array, "B V E"]]:
    """y_t = sum_w kernel_w x_(t - W + 1 + w) + bias, summed in float32 at least.

    Args:
      x: inputs.
      kernel: one filter for every channel; its last entry multiplies the input at the same
        position as the output.
      bias: one number for every channel.
      state: the V = W - 1 inputs before the first position; None for zeros.

    Returns:
      y in the dtype of `x`, and the last V inputs.
    """
    (W, E), (batch, T, _) = kernel.shape, x.shape
    if state is None:
        state = jnp.zeros((batch, W - 1, E), x.dtype)
    inputs = jnp.concatenate([state.astype(x.dtype), x], axis=1)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    y = sum(
        inputs[:, w : w + T].astype(dtype) * jnp.broadcast_to(kernel[w], x.shape)
        for w in range(W)
    )
    if bias is not None:
        y = y + jnp.broadcast_to(bias, x.shape)
    return jnp.asarray(y).astype(x.dtype), inputs[:, T:]
