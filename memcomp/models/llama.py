"""Llama and its relatives: pre-norm, rotary positions, grouped-query attention, SwiGLU.

Memory vectors enter where token vectors do, before the first layer, and are not scaled.

Source: Touvron et al. 2023, arXiv:2302.13971; Grattafiori et al. 2024, arXiv:2407.21783.
"""

import dataclasses

from memcomp.nn.attention import SelfAttention
from memcomp.nn.decoder import Decoder, PreNormLayer, RotaryConfig
from memcomp.nn.mlp import GatedMLP


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig(RotaryConfig):
    """Sizes and options of one model, besides those of `RotaryConfig`."""

    attention_bias: bool = False
    mlp_bias: bool = False


class Layer(PreNormLayer):
    """One layer of `Decoder`."""

    config: LlamaConfig

    def attention(self, name):
        cfg, bias = self.config, self.config.attention_bias
        return SelfAttention(*cfg.heads, qkv_bias=bias, out_bias=bias, name=name)

    def mlp(self, name):
        cfg = self.config
        return GatedMLP(cfg.d_mlp, cfg.activation, cfg.mlp_bias, name=name)


class Llama(Decoder):
    """Llama as a `CausalLM` (see `memcomp.lm.protocol`)."""

    layer = Layer
