"""Qwen2 and Qwen2.5: Llama's layer with biases on queries, keys and values.

Memory vectors enter where token vectors do, before the first layer, and are not scaled.

Source: Yang et al. 2024, arXiv:2407.10671; Qwen Team 2024, arXiv:2412.15115.
"""

import dataclasses

from memcomp.nn.attention import SelfAttention
from memcomp.nn.decoder import Decoder, PreNormLayer, RotaryConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen2Config(RotaryConfig):
    """Sizes and options of one model, the same as those of `RotaryConfig`."""


class Layer(PreNormLayer):
    """One layer of `Decoder`."""

    config: Qwen2Config

    def attention(self, name):
        return SelfAttention(*self.config.heads, qkv_bias=True, name=name)


class Qwen2(Decoder):
    """Qwen2 as a `CausalLM` (see `memcomp.lm.protocol`)."""

    layer = Layer
