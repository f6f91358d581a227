"""OPT: LayerNorm, learned positions whose table starts at index 2, ReLU MLP.

The model of 350M has input vectors narrower than its layers, with a linear map before the
first layer and one after the last; its norms stand after attention and MLP, not before.

Memory vectors enter where token vectors do: before the first map, if there is one, and
before position vectors are added, so that each memory vector also gets the vector of its
position. A memory vector is as wide as a token vector (512 for 350M).

Source: Zhang et al. 2022, arXiv:2205.01068.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn

from memcomp.nn.attention import SelfAttention
from memcomp.nn.decoder import (
    LearnedPositionConfig,
    LearnedPositionDecoder,
    PreNormLayer,
)
from memcomp.nn.einsum import Einsum
from memcomp.nn.mlp import MLP
from memcomp.nn.norms import LayerNorm


@dataclasses.dataclass(frozen=True, kw_only=True)
class OPTConfig(LearnedPositionConfig):
    """Sizes and options of one model, besides those of `LearnedPositionConfig`.

    Attributes:
      d_residual: width inside the layers (U); input vectors of another width are mapped.
      norm_first: whether norms stand before attention and MLP; otherwise they stand after
        each residual sum.
      final_norm: whether there is a norm after the last layer.
      affine_norms: whether norms have scales and biases.
      bias: whether the maps of attention and MLP have biases.
    """

    first_position: ClassVar[int] = 2

    activation: str = "relu"
    d_residual: int
    norm_first: bool = True
    final_norm: bool = True
    affine_norms: bool = True
    bias: bool = True


class Layer(PreNormLayer):
    """One layer of `Decoder`; without `norm_first`, norms stand after residual sums."""

    config: OPTConfig

    def attention(self, name):
        cfg, bias = self.config, self.config.bias
        return SelfAttention(*cfg.heads, qkv_bias=bias, out_bias=bias, name=name)

    def mlp(self, name):
        cfg = self.config
        return MLP(cfg.d_mlp, cfg.activation, cfg.bias, name=name)

    def norm(self, name):
        return LayerNorm(self.config.norm_eps, self.config.affine_norms, name=name)

    @nn.compact
    def __call__(self, x, cached, positions):
        if self.config.norm_first:
            return super().__call__(x, cached, positions)
        attended, cached = self.attention("attn")(x, cached, positions)
        x = self.norm("attn_norm")(x + attended)
        return self.norm("mlp_norm")(x + self.mlp("mlp")(x)), cached


class OPT(LearnedPositionDecoder):
    """OPT as a `CausalLM` (see `memcomp.lm.protocol`)."""

    layer = Layer

    def setup(self):
        super().setup()
        D, U = self.config.d_model, self.config.d_residual
        self.maps = D != U
        if self.maps:
            self.project_in = Einsum("btd,du->btu", (D, U), ("vector", "embed"))
            self.project_out = Einsum("btu,ud->btd", (U, D), ("embed", "vector"))

    def position_width(self):
        return self.config.d_residual

    def norm(self):
        cfg = self.config
        return LayerNorm(cfg.norm_eps, cfg.affine_norms) if cfg.final_norm else None

    def enter(self, x, positions):
        return super().enter(self.project_in(x) if self.maps else x, positions)

    def leave(self, x):
        x = self.final_norm(x) if self.config.final_norm else x
        return self.project_out(x) if self.maps else x
