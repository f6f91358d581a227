"""GPT-Neo and TinyStories: learned positions, local attention, unscaled attention logits.

Layers that see all keys alternate with local ones, which see a window of keys.

Memory vectors enter where token vectors do, before position vectors are added, so that each
memory vector also gets the vector of its position.

Source: Black et al. 2021, doi:10.5281/zenodo.5297715; TinyStories: Eldan and Li 2023,
arXiv:2305.07759.
"""

import dataclasses

from memcomp.nn.attention import SelfAttention
from memcomp.nn.decoder import (
    LearnedPositionConfig,
    LearnedPositionDecoder,
    PreNormLayer,
)
from memcomp.nn.mlp import MLP
from memcomp.nn.norms import LayerNorm


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPTNeoConfig(LearnedPositionConfig):
    """Sizes and options of one model, the same as those of `LearnedPositionConfig`."""


class Layer(PreNormLayer):
    """One layer of `Decoder`."""

    config: GPTNeoConfig

    def attention(self, name):
        return SelfAttention(*self.config.heads, out_bias=True, scale=1.0, name=name)

    def mlp(self, name):
        return MLP(self.config.d_mlp, self.config.activation, name=name)

    def norm(self, name):
        return LayerNorm(self.config.norm_eps, name=name)


class GPTNeo(LearnedPositionDecoder):
    """GPT-Neo as a `CausalLM` (see `memcomp.lm.protocol`)."""

    layer = Layer

    def norm(self):
        return LayerNorm(self.config.norm_eps)
