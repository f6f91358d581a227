"""Normalisation over the last axis, in float32 even if activations have fewer bits."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from memcomp.nn.parameters import with_axes


class RMSNorm(nn.Module):
    """`x / rms(x) * scale`, over as many trailing axes as `axes` names.

    Attributes:
      eps: number added to the mean square.
      axes: logical axes of the scale.
      offset: number added to the stored scale; 1 for checkpoints that store scale - 1.
      scale_in_float32: whether the scale is applied before the cast to the activations'
        dtype, and not after; the code that checkpoints were trained with differs in this.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467.
    """

    eps: float
    axes: tuple[str, ...] = ("embed",)
    offset: float = 0.0
    scale_in_float32: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        dims = tuple(range(-len(self.axes), 0))
        ones = with_axes(nn.initializers.constant(1 - self.offset), self.axes)
        scale = self.param("scale", ones, tuple(x.shape[d] for d in dims))
        x32 = _float32(x)
        mean_square = jnp.mean(x32 * x32, axis=dims, keepdims=True)
        y = x32 * jax.lax.rsqrt(mean_square + self.eps)
        if self.scale_in_float32:
            scale = scale.astype(y.dtype)
        else:
            y = y.astype(x.dtype)
        scale = scale + self.offset
        return (y * jnp.broadcast_to(scale, y.shape)).astype(x.dtype)


class LayerNorm(nn.Module):
    """`(x - mean(x)) / std(x) * scale + bias`; without scale and bias if not `affine`.

    Source: Ba et al. 2016, arXiv:1607.06450.
    """

    eps: float
    affine: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        x32 = _float32(x)
        centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.eps)
        if self.affine:
            ones = with_axes(nn.initializers.ones, ("embed",))
            zeros = with_axes(nn.initializers.zeros, ("embed",))
            scale = self.param("scale", ones, (x.shape[-1],))
            bias = self.param("bias", zeros, (x.shape[-1],))
            y = y * jnp.broadcast_to(scale, y.shape) + jnp.broadcast_to(bias, y.shape)
        return y.astype(x.dtype)


def _float32(x: Float[Array, "..."]) -> Float[Array, "..."]:
    # float64 stays float64, because the tests compare whole loops in it.
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
