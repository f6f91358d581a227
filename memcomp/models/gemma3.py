"""Gemma 3, its text part: norms on both sides, and layers that see a window or everything.

The two kinds of layers have rotary positions of their own. Norms store their scale less
one. Token vectors are the embedding's rows times sqrt(d_model); memory enters beside them,
before the first layer, and is not scaled.

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
    """Sizes and switches of one model, with those of `RotaryConfig`.

    Attributes:
      rotary: of the layers that see all keys.
      window_rotary: of the layers that see a window.
      query_scale: logits of attention are scaled by this to the power of -0.5.
      attention_bias: whether all four maps of attention have biases.
      attention_softcap: of the logits of attention; None for none.
      final_softcap: of the logits of tokens; None for none.
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
    """A `CausalLM` (see `memcomp.lm.load`)."""

    layer = Layer

    @property
    def softcap(self):
        """Cap of the logits of tokens."""
        return self.config.final_softcap

    def embed(self, tokens):
        rows = super().embed(tokens)
        # Rounded to the dtype of the weights first, as the checkpoints were trained.
        return rows * jnp.asarray(self.config.d_model**0.5, rows.dtype)

    def norm(self):
        return _norm(self.config.norm_eps)

    def layer_kinds(self):
        local = self.config.window_rotary
        kinds = super().layer_kinds()
        return tuple(k._replace(rotary=local) if k.window else k for k in kinds)
