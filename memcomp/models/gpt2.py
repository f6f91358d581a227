"""GPT-2: LayerNorm, learned positions, one kernel for queries, keys and values.

Memory vectors enter where token vectors do, before position vectors are added, so that each
memory vector also gets the vector of its position.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; logits
divided by the layer's number: Mistral (Karamcheti et al. 2021, Stanford CRFM).
"""

import dataclasses

import flax.linen as nn

from memcomp.nn.attention import Attend
from memcomp.nn.decoder import (
    LearnedPositionConfig,
    LearnedPositionDecoder,
    PreNormLayer,
)
from memcomp.nn.einsum import Einsum
from memcomp.nn.mlp import MLP
from memcomp.nn.norms import LayerNorm


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPT2Config(LearnedPositionConfig):
    """Sizes and options of one model, besides those of `LearnedPositionConfig`.

    Attributes:
      divide_by_width: whether attention logits are divided by the root of the head's width.
      divide_by_layer: whether they are divided by the layer's number, from 1.
    """

    divide_by_width: bool = True
    divide_by_layer: bool = False


class Attention(nn.Module):
    """Causal self-attention; q, k and v share one kernel, in which axis c selects them."""

    config: GPT2Config

    @nn.compact
    def __call__(self, x, cached, positions):
        cfg = self.config
        D, N, H = cfg.d_model, cfg.num_heads, cfg.head_dim
        axes, shape = ("embed", None, "heads", "head_dim"), (D, 3, N, H)
        qkv = Einsum("btd,dcnh->btcnh", shape, axes, 3, name="qkv")(x)
        q, k, v = (qkv[:, :, c] for c in range(3))
        scale = H**-0.5 if cfg.divide_by_width else 1.0
        if cfg.divide_by_layer:
            scale = scale / (positions.layer + 1)
        heads, cached = Attend(name="attend")(q, k, v, cached, positions, scale=scale)
        axes = ("heads", "head_dim", "embed")
        return Einsum("btnh,nhd->btd", (N, H, D), axes, 1, name="out")(heads), cached


class Layer(PreNormLayer):
    """One layer of `Decoder`."""

    config: GPT2Config

    def attention(self, name):
        return Attention(self.config, name=name)

    def mlp(self, name):
        return MLP(self.config.d_mlp, self.config.activation, name=name)

    def norm(self, name):
        return LayerNorm(self.config.norm_eps, name=name)


class GPT2(LearnedPositionDecoder):
    """GPT-2 as a `CausalLM` (see `memcomp.lm.protocol`)."""

    layer = Layer

    def norm(self):
        return LayerNorm(self.config.norm_eps)
