"""Mistral: Llama's layer, in which a query may see only a window of keys.

Memory vectors enter where token vectors do, before the first layer, and are not scaled.

Source: Jiang et al. 2023, arXiv:2310.06825.
"""

import dataclasses

from memcomp.nn.attention import SelfAttention
from memcomp.nn.decoder import Decoder, PreNormLayer, RotaryConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class MistralConfig(RotaryConfig):
    """Sizes and options of one model, the same as those of `RotaryConfig`."""


class Layer(PreNormLayer):
    """One layer of `Decoder`."""

    config: MistralConfig

    def attention(self, name):
        return SelfAttention(*self.config.heads, name=name)


class Mistral(Decoder):
    """Mistral as a `CausalLM` (see `memcomp.lm.protocol`)."""

    layer = Layer
