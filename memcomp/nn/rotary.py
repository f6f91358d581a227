"""Rotary position embedding, with the published ways to scale it to longer contexts."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Settings that turn positions into rotary angles.

    Attributes:
      dim: number of leading dimensions of a head that are rotated (R); an odd number
        counts as the even one above it, as in published checkpoints.
      theta: base of the geometric series of wavelengths.
      scaling: "default", "linear", "dynamic" or "llama3".
      factor: factor by which the context is stretched ("linear", "dynamic", "llama3").
      low_freq_factor: wavelengths above `original_positions` divided by this are stretched
        by the whole `factor` ("llama3").
      high_freq_factor: wavelengths below `original_positions` divided by this are not
        stretched ("llama3").
      original_positions: context length before scaling ("dynamic", "llama3").

    Source: Su et al. 2021, arXiv:2104.09864; Chen et al. 2023, arXiv:2306.15595 (linear);
      Peng et al. 2023, arXiv:2309.00071, appendix (dynamic NTK); Llama 3.1 (llama3).
    """

    dim: int
    theta: float = 10_000.0
    scaling: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    original_positions: int = 0


def no_rotation(rotary: Rotary) -> Rotary:
    """Returns a `Rotary` with the same `dim` whose angles are 0 at every position.

    It is for layers without rotary positions in a stack where others have them. Its table
    has the same shape, and its cosines of 1 and sines of 0 leave heads exactly unchanged.
    """
    return Rotary(rotary.dim, scaling="linear", factor=math.inf)


def inverse_frequencies(rotary: Rotary, length: int) -> np.ndarray:
    """Radians per position of each rotated pair, float32 [R/2].

    Args:
      rotary: settings of the angles.
      length: number of positions in use; it matters only to "dynamic" scaling, beyond
        `original_positions`.
    """
    return _SCALINGS[rotary.scaling](rotary, length)


def rotary_table(
    rotary: Rotary, positions: Int[Array, "*B T"], length: int
) -> tuple[Float[Array, "*B T half"], Float[Array, "*B T half"]]:
    """Cosines and sines in float32 of every position's angles, for `rotate`."""
    frequencies = jnp.asarray(inverse_frequencies(rotary, length))
    angles = jnp.einsum("...t,r->...tr", positions.astype(jnp.float32), frequencies)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(
    x: Float[Array, "*B T N H"],
    table: tuple[Float[Array, "*#B T half"], Float[Array, "*#B T half"]],
) -> Float[Array, "*B T N H"]:
    """Rotates dimensions i and i + R/2 of each head by the angle of its position.

    The layout in two halves is that of Hugging Face checkpoints. Dimensions after R do not
    change.
    """
    # The table gets an axis for the heads, and one for each axis of `x` that it lacks.
    new_axes = (*range(x.ndim - 1 - table[0].ndim), -2)
    cos, sin = (jnp.expand_dims(t, new_axes) for t in table)
    half = cos.shape[-1]
    x32 = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    turning, rest = x32[..., : 2 * half], x[..., 2 * half :]
    # Each half needs the other. Both are computed at once, because computing them one by
    # one and joining them is several times slower on a CPU.
    same, other = jnp.concatenate([cos, cos], -1), jnp.concatenate([-sin, sin], -1)
    turned = turning * same + jnp.roll(turning, half, axis=-1) * other
    return jnp.concatenate([turned.astype(x.dtype), rest], axis=-1)


def _plain(rotary: Rotary, length: int) -> np.ndarray:
    exponents = np.arange(0, rotary.dim, 2, dtype=np.float32) / rotary.dim
    return (1.0 / np.float32(rotary.theta) ** exponents).astype(np.float32)


def _linear(rotary: Rotary, length: int) -> np.ndarray:
    return _plain(rotary, length) / np.float32(rotary.factor)


def _dynamic(rotary: Rotary, length: int) -> np.ndarray:
    length = max(length, rotary.original_positions)
    stretch = rotary.factor * length / rotary.original_positions - (rotary.factor - 1)
    theta = rotary.theta * stretch ** (rotary.dim / (rotary.dim - 2))
    return _plain(dataclasses.replace(rotary, theta=theta), length)


def _llama3(rotary: Rotary, length: int) -> np.ndarray:
    frequencies = _plain(rotary, length)
    wavelengths = 2 * math.pi / frequencies
    turns = rotary.original_positions / wavelengths
    keep = (turns - rotary.low_freq_factor) / (
        rotary.high_freq_factor - rotary.low_freq_factor
    )
    keep = np.clip(keep, 0.0, 1.0).astype(np.float32)
    return (1 - keep) * frequencies / np.float32(rotary.factor) + keep * frequencies


_SCALINGS = {
    "default": _plain,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
}
SCALINGS = tuple(_SCALINGS)
