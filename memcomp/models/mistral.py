"""Mistral: Llama's layer, in which a query may see a window of keys only.

Memory enters where token vectors do: before the first layer, unscaled.

Source: Jiang et al. 2023, arXiv:2310.06825.
"""

import dataclasses

from memcomp.nn.attention import SelfAttention
from memcomp.nn.decoder import Decoder, PreNormLayer, RotaryConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class MistralConfig(RotaryConfig):
    """Sizes and switches of one model; nothing beyond `RotaryConfig`."""


class Layer(PreNormLayer):
    """One layer of `Decoder`."""

    config: MistralConfig

    def attention(self, name):
        return SelfAttention(*self.config.heads, name=name)


class Mistral(Decoder):
    """A `CausalLM` (see `memcomp.lm.load`)."""

    layer = Layer
