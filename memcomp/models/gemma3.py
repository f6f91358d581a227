"""The text model of Gemma 3: norms before and after each block, windowed and full layers.

The two kinds of layers have different rotary positions. Norms store their scale minus one.
Token vectors are the embeddings times sqrt(d_model). Memory vectors enter where token
vectors do, before the first layer, and are not scaled.

Source: Gemma Team 2025, arXiv:2503.19786; soft-capping: Gemma Team 2024, arXiv:2408.00118.
"""

import dataclasses
import functools

import flax.linen as nn
import jax.numpy as jnp

from memcomp.nn.attention import SelfAttention
from memcomp.nn.decoder import Decoder, RotaryConfig
from memcomp.nn.mlp import GatedMLP
from memcomp.nn.norms import RMSNorm
from memcomp.nn.rotary import Rotary

_norm = functools.partial(RMSNorm, offset=1.0, scale_in_float32=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gemma3Config(RotaryConfig):
    """Sizes and options of one model, besides those of `RotaryConfig`.

    Attributes:
      rotary: rotary positions of the layers that see all keys.
      window_rotary: rotary positions of the layers that see a window of keys.
      query_scale: attention logits are scaled by this to the power of -0.5.
      attention_bias: whether all four maps of attention have biases.
      attention_softcap: soft cap of the attention logits; None for no cap.
      final_softcap: soft cap of the next-token logits; None for no cap.
    """

    window_rotary: Rotary
    query_scale: int
    attention_bias: bool = False
    attention_softcap: float | None = None
    final_softcap: float | None = None


class Layer(nn.Module):
    """One layer of `Decoder`: a norm before and a norm after attention and MLP."""

    config: Gemma3Config

    @nn.compact
    def __call__(self, x, cached, positions):
        cfg, bias = self.config, self.config.attention_bias
        norm = functools.partial(_norm, cfg.norm_eps)
        attention = SelfAttention(
            *cfg.heads,
            qkv_bias=bias,
            out_bias=bias,
            qk_norm=norm,
            scale=cfg.query_scale**-0.5,
            softcap=cfg.attention_softcap,
            name="attn",
        )
        attended, cached = attention(norm(name="attn_norm")(x), cached, positions)
        x = x + norm(name="attn_post_norm")(attended)
        mlp = GatedMLP(cfg.d_mlp, cfg.activation, name="mlp")
        return x + norm(name="mlp_post_norm")(mlp(norm(name="mlp_norm")(x))), cached


class Gemma3(Decoder):
    """Gemma 3 as a `CausalLM` (see `memcomp.lm.protocol`)."""

    layer = Layer

    @property
    def softcap(self):
        """Soft cap of the next-token logits."""
        return self.config.final_softcap

    def embed(self, tokens):
        rows = super().embed(tokens)
        # The factor is first rounded to the dtype of the parameters, as in training.
        return rows * jnp.asarray(self.config.d_model**0.5, rows.dtype)

    def norm(self):
        return _norm(self.config.norm_eps)

    def layer_kinds(self):
        local = self.config.window_rotary
        kinds = super().layer_kinds()
        return tuple(k._replace(rotary=local) if k.window else k for k in kinds)
