"""Linear maps as einsums whose kernels name their axes."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from memcomp.nn.parameters import with_axes


class Einsum(nn.Module):
    """`einsum(equation, x, kernel)`, plus a bias over the last `bias_ndim` outputs.

    If the collection "adapters" has `down` [in R] and `up` [R out] for this map, it acts as
    if the kernel were kernel + down up, without forming this sum (Hu et al. 2021,
    arXiv:2106.09685).

    Attributes:
      equation: einsum equation of `x` and `kernel`.
      shape: shape of `kernel`.
      axes: logical axis of each kernel dimension, for the sharding rules.
      bias_ndim: number of trailing output dimensions of the bias; 0 for no bias. They
        must be kernel dimensions.
      init_std: standard deviation of the normal that new kernels are drawn from.
    """

    equation: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    bias_ndim: int = 0
    init_std: float = 0.02

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        normal = nn.initializers.normal(self.init_std)
        kernel = self.param("kernel", with_axes(normal, self.axes), self.shape)
        y = jnp.einsum(self.equation, x, kernel)
        if self.has_variable("adapters", "down"):
            y = y + self._adapted(x)
        if self.bias_ndim:
            operands, output = self.equation.split("->")
            letters = operands.split(",")[1]
            dims = [letters.index(c) for c in output[-self.bias_ndim :]]
            zeros = with_axes(nn.initializers.zeros, [self.axes[d] for d in dims])
            bias = self.param("bias", zeros, tuple(self.shape[d] for d in dims))
            y = y + jnp.broadcast_to(bias, y.shape)
        return y

    def _adapted(self, x):
        operands, output = self.equation.split("->")
        read, kernel = operands.split(",")
        inner = "".join(c for c in kernel if c not in output)
        outer = "".join(c for c in kernel if c in output)
        kept = "".join(c for c in read if c not in inner)
        down, up = (self.get_variable("adapters", name) for name in ("down", "up"))
        low = jnp.einsum(f"{read},{inner}R->{kept}R", x, down)
        return jnp.einsum(f"{kept}R,R{outer}->{output}", low, up)
