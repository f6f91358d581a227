"""Llama and its relatives: pre-norm, rotary positions, grouped-query attention, SwiGLU.

Memory enters where token vectors do: before the first layer, unscaled.

Source: Touvron et al. 2023, arXiv:2302.13971; Grattafiori et al. 2024, arXiv:2407.21783.
"""

import dataclasses

import flax.linen as nn

from memcomp.nn.attention import SelfAttention
from memcomp.nn.decoder import Decoder, RotaryConfig
from memcomp.nn.mlp import GatedMLP
from memcomp.nn.norms import RMSNorm


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig(RotaryConfig):
    """Sizes and switches of one model, with those of `RotaryConfig`."""

    attention_bias: bool = False
    mlp_bias: bool = False


class Layer(nn.Module):
    """One pre-norm residual layer, in the form that `Decoder` wants."""

    config: LlamaConfig

    @nn.compact
    def __call__(self, x, cached, positions):
        cfg, bias = self.config, self.config.attention_bias
        heads = (cfg.num_heads, cfg.num_kv_heads, cfg.head_dim)
        attention = SelfAttention(*heads, qkv_bias=bias, out_bias=bias, name="attn")
        normed = RMSNorm(cfg.norm_eps, name="attn_norm")(x)
        attended, cached = attention(normed, cached, positions)
        x = x + attended
        mlp = GatedMLP(cfg.d_mlp, cfg.activation, cfg.mlp_bias, name="mlp")
        return x + mlp(RMSNorm(cfg.norm_eps, name="mlp_norm")(x)), cached


class Llama(Decoder):
    """A `CausalLM` (see `memcomp.lm`)."""

    layer = Layer

    def norm(self):
        return RMSNorm(self.config.norm_eps)
