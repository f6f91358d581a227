"""Qwen3: Llama's layer with a norm over each head's queries and keys.

Memory vectors enter where token vectors do, before the first layer, and are not scaled.

Source: Yang et al. 2025, arXiv:2505.09388.
"""

import dataclasses
import functools

from memcomp.nn.attention import SelfAttention
from memcomp.nn.decoder import Decoder, PreNormLayer, RotaryConfig
from memcomp.nn.norms import RMSNorm


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen3Config(RotaryConfig):
    """Sizes and options of one model, besides those of `RotaryConfig`."""

    attention_bias: bool = False


class Layer(PreNormLayer):
    """One layer of `Decoder`."""

    config: Qwen3Config

    def attention(self, name):
        cfg, bias = self.config, self.config.attention_bias
        return SelfAttention(
            *cfg.heads,
            qkv_bias=bias,
            out_bias=bias,
            qk_norm=functools.partial(RMSNorm, cfg.norm_eps),
            name=name,
        )


class Qwen3(Decoder):
    """Qwen3 as a `CausalLM` (see `memcomp.lm.protocol`)."""

    layer = Layer
