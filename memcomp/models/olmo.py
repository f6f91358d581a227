"""OLMo: Llama's layer with norms that have no parameters, and clipped q, k and v.

Memory vectors enter where token vectors do, before the first layer, and are not scaled.

Source: Groeneveld et al. 2024, arXiv:2402.00838.
"""

import dataclasses

from memcomp.nn.attention import SelfAttention
from memcomp.nn.decoder import Decoder, PreNormLayer, RotaryConfig
from memcomp.nn.norms import LayerNorm


@dataclasses.dataclass(frozen=True, kw_only=True)
class OlmoConfig(RotaryConfig):
    """Sizes and options of one model, besides those of `RotaryConfig`.

    Attributes:
      clip: largest absolute value of queries, keys and values; None for no clipping.
    """

    attention_bias: bool = False
    clip: float | None = None


class Layer(PreNormLayer):
    """One layer of `Decoder`."""

    config: OlmoConfig

    def attention(self, name):
        cfg, bias = self.config, self.config.attention_bias
        return SelfAttention(
            *cfg.heads, qkv_bias=bias, out_bias=bias, clip=cfg.clip, name=name
        )

    def norm(self, name):
        return LayerNorm(self.config.norm_eps, affine=False, name=name)


class Olmo(Decoder):
    """OLMo as a `CausalLM` (see `memcomp.lm.protocol`)."""

    layer = Layer

    def norm(self):
        return LayerNorm(self.config.norm_eps, affine=False)
