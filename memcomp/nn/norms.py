"""Normalisation over the last axis, in float32 whatever the dtype of the activations."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from memcomp.nn.parameters import with_axes


class RMSNorm(nn.Module):
    """`x / rms(x) * scale`.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467.
    """

    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        ones = with_axes(nn.initializers.ones, ("embed",))
        scale = self.param("scale", ones, (x.shape[-1],))
        x32 = _float32(x)
        mean_square = jnp.mean(x32 * x32, axis=-1, keepdims=True)
        # The cast before the scale is that of the published checkpoints' own code.
        y = (x32 * jax.lax.rsqrt(mean_square + self.eps)).astype(x.dtype)
        return y * jnp.broadcast_to(scale, y.shape)


class LayerNorm(nn.Module):
    """`(x - mean(x)) / std(x) * scale + bias`.

    Source: Ba et al. 2016, arXiv:1607.06450.
    """

    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        ones = with_axes(nn.initializers.ones, ("embed",))
        zeros = with_axes(nn.initializers.zeros, ("embed",))
        scale = self.param("scale", ones, (x.shape[-1],))
        bias = self.param("bias", zeros, (x.shape[-1],))
        x32 = _float32(x)
        centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.eps)
        y = y * jnp.broadcast_to(scale, y.shape) + jnp.broadcast_to(bias, y.shape)
        return y.astype(x.dtype)


def _float32(x: Float[Array, "..."]) -> Float[Array, "..."]:
    # At least float32: the tests compare whole loops in float64.
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
