"""GPT-NeoX and Pythia: LayerNorm, partial rotary positions, parallel residual, GELU MLP.

Memory vectors enter where token vectors do, before the first layer, and are not scaled.

Source: Black et al. 2022, arXiv:2204.06745; Biderman et al. 2023, arXiv:2304.01373.
"""

import dataclasses

import flax.linen as nn

from memcomp.nn.attention import Attend
from memcomp.nn.decoder import Decoder, RotaryConfig
from memcomp.nn.einsum import Einsum
from memcomp.nn.mlp import MLP
from memcomp.nn.norms import LayerNorm
from memcomp.nn.rotary import rotate


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPTNeoXConfig(RotaryConfig):
    """Sizes and options of one model, besides those of `RotaryConfig`.

    Attributes:
      parallel_residual: whether attention and MLP both read the layer's input; otherwise
        the MLP reads the sum of input and attention.
      attention_bias: whether all four maps of attention have biases.
    """

    activation: str = "gelu"
    parallel_residual: bool = True
    attention_bias: bool = True


class Attention(nn.Module):
    """Causal self-attention; q, k and v share one kernel, in which axis c selects them."""

    config: GPTNeoXConfig

    @nn.compact
    def __call__(self, x, cached, positions):
        cfg = self.config
        D, N, H, bias = cfg.d_model, cfg.num_heads, cfg.head_dim, cfg.attention_bias
        axes = ("embed", None, "heads", "head_dim")
        shape = (D, 3, N, H)
        qkv = Einsum("btd,dcnh->btcnh", shape, axes, 3 * bias, name="qkv")(x)
        q = rotate(qkv[:, :, 0], positions.table)
        k = rotate(qkv[:, :, 1], positions.table)
        heads, cached = Attend(name="attend")(q, k, qkv[:, :, 2], cached, positions)
        axes = ("heads", "head_dim", "embed")
        out = Einsum("btnh,nhd->btd", (N, H, D), axes, int(bias), name="out")(heads)
        return out, cached


class Layer(nn.Module):
    """One residual layer of `Decoder`."""

    config: GPTNeoXConfig

    @nn.compact
    def __call__(self, x, cached, positions):
        cfg = self.config
        normed = LayerNorm(cfg.norm_eps, name="attn_norm")(x)
        attended, cached = Attention(cfg, name="attn")(normed, cached, positions)
        mlp_input = x if cfg.parallel_residual else x + attended
        normed = LayerNorm(cfg.norm_eps, name="mlp_norm")(mlp_input)
        return x + attended + MLP(cfg.d_mlp, cfg.activation, name="mlp")(normed), cached


class GPTNeoX(Decoder):
    """GPT-NeoX as a `CausalLM` (see `memcomp.lm.protocol`)."""

    layer = Layer

    def norm(self):
        return LayerNorm(self.config.norm_eps)
