"""SmolLM3: Llama's layers, of which every fourth has no rotary positions.

In such a layer the attention logits do not depend on the positions of queries and keys.
Memory vectors enter where token vectors do, before the first layer, and are not scaled.

Source: Bakouch et al. 2025, https://huggingface.co/blog/smollm3; layers without rotary
  positions: Yang et al. 2025, arXiv:2501.18795.
"""

import dataclasses

from memcomp.errors import InputError
from memcomp.nn.attention import SelfAttention
from memcomp.nn.decoder import Decoder, PreNormLayer, RotaryConfig
from memcomp.nn.mlp import GatedMLP
from memcomp.nn.rotary import no_rotation


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmolLM3Config(RotaryConfig):
    """Sizes and options of one model, besides those of `RotaryConfig`.

    Attributes:
      rotary: rotary positions of the layers that have them.
      rotary_layers: whether each layer has rotary positions.
      attention_bias: whether queries, keys, values and output have biases.
      mlp_bias: whether all three maps of the MLP have biases.

    Raises:
      InputError: see `DecoderConfig`; or `rotary_layers` has another number of layers.
    """

    rotary_layers: tuple[bool, ...]
    attention_bias: bool = False
    mlp_bias: bool = False

    def __post_init__(self):
        super().__post_init__()
        if (given := len(self.rotary_layers)) != self.num_layers:
            raise InputError(f"rotary_layers for {given} layers; wanted {self.num_layers}")


class Layer(PreNormLayer):
    """One layer of `Decoder`."""

    config: SmolLM3Config

    def attention(self, name):
        cfg, bias = self.config, self.config.attention_bias
        return SelfAttention(*cfg.heads, qkv_bias=bias, out_bias=bias, name=name)

    def mlp(self, name):
        cfg = self.config
        return GatedMLP(cfg.d_mlp, cfg.activation, cfg.mlp_bias, name=name)


class SmolLM3(Decoder):
    """SmolLM3 as a `CausalLM` (see `memcomp.lm.protocol`)."""

    layer = Layer

    def layer_kinds(self):
        cfg = self.config
        # The scan over layers stacks the tables of all kinds, which must have one shape. A
        # layer without rotary positions therefore has a table that rotates nothing, not
        # None.
        rotaries = {True: cfg.rotary, False: no_rotation(cfg.rotary)}
        return tuple(
            kind._replace(rotary=rotaries[rotates])
            for kind, rotates in zip(super().layer_kinds(), cfg.rotary_layers, strict=True)
        )
