"""OLMo 2: norms after attention and MLP, one norm over all heads of q, and one over k.

Memory vectors enter where token vectors do, before the first layer, and are not scaled.

Source: OLMo Team 2025, arXiv:2501.00656.
"""

import dataclasses
import functools

import flax.linen as nn

from memcomp.nn.attention import SelfAttention
from memcomp.nn.decoder import Decoder, RotaryConfig
from memcomp.nn.mlp import GatedMLP
from memcomp.nn.norms import RMSNorm

_norm = functools.partial(RMSNorm, scale_in_float32=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Olmo2Config(RotaryConfig):
    """Sizes and options of one model, besides those of `RotaryConfig`."""

    attention_bias: bool = False


class Layer(nn.Module):
    """One layer of `Decoder`, which norms the outputs of attention and MLP, not inputs."""

    config: Olmo2Config

    @nn.compact
    def __call__(self, x, cached, positions):
        cfg, bias = self.config, self.config.attention_bias
        norm = functools.partial(_norm, cfg.norm_eps)
        attention = SelfAttention(
            *cfg.heads,
            qkv_bias=bias,
            out_bias=bias,
            qk_norm=norm,
            norm_heads_together=True,
            name="attn",
        )
        attended, cached = attention(x, cached, positions)
        x = x + norm(name="attn_norm")(attended)
        mlp = GatedMLP(cfg.d_mlp, cfg.activation, name="mlp")
        return x + norm(name="mlp_norm")(mlp(x)), cached


class Olmo2(Decoder):
    """OLMo 2 as a `CausalLM` (see `memcomp.lm.protocol`)."""

    layer = Layer

    def norm(self):
        return _norm(self.config.norm_eps)
