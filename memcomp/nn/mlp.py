"""MLPs, the feed-forward half of a layer."""

import functools

import flax.linen as nn
from jaxtyping import Array, Float

from memcomp.nn.einsum import Einsum

_exact_gelu = functools.partial(nn.gelu, approximate=False)
_tanh_gelu = functools.partial(nn.gelu, approximate=True)
# The keys are the names in Hugging Face configs.
ACTIVATIONS = {
    "gelu": _exact_gelu,
    "gelu_fast": _tanh_gelu,
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "relu": nn.relu,
    "silu": nn.silu,
}


class MLP(nn.Module):
    """`down(activation(up(x)))`.

    Attributes:
      d_mlp: width inside the MLP (F).
      activation: a key of `ACTIVATIONS`.
      bias: whether all maps have a bias.
    """

    d_mlp: int
    activation: str
    bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        D, F, bias = x.shape[-1], self.d_mlp, int(self.bias)
        x = Einsum("btd,df->btf", (D, F), ("embed", "mlp"), bias, name="up")(x)
        x = ACTIVATIONS[self.activation](x)
        return Einsum("btf,fd->btd", (F, D), ("mlp", "embed"), bias, name="down")(x)


class GatedMLP(nn.Module):
    """`down(activation(gate(x)) * up(x))`; the attributes are those of `MLP`.

    Source: Shazeer 2020, arXiv:2002.05202.
    """

    d_mlp: int
    activation: str
    bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        D, F, bias = x.shape[-1], self.d_mlp, int(self.bias)
        wide = ("embed", "mlp")
        gate = Einsum("btd,df->btf", (D, F), wide, bias, name="gate")(x)
        up = Einsum("btd,df->btf", (D, F), wide, bias, name="up")(x)
        hidden = ACTIVATIONS[self.activation](gate) * up
        return Einsum("btf,fd->btd", (F, D), ("mlp", "embed"), bias, name="down")(hidden)
