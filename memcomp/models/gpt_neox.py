"""GPT-NeoX and Pythia: LayerNorm, partial rotary positions, parallel residual, GELU MLP.

Letters: B texts, T queries, S keys, L layers, D d_model, N heads, H head width, F MLP
width, V vocabulary; c = 3, the q, k, v slot of the fused kernel.

Memory enters where token vectors do: before the first layer, unscaled.

Source: Black et al. 2022, arXiv:2204.06745; Biderman et al. 2023, arXiv:2304.01373.
"""

import dataclasses
import functools

import flax.linen as nn

from memcomp.nn.attention import attend_cached
from memcomp.nn.decoder import RotaryDecoder
from memcomp.nn.einsum import Einsum
from memcomp.nn.norms import LayerNorm
from memcomp.nn.rotary import Rotary, rotate

ACTIVATIONS = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_new": functools.partial(nn.gelu, approximate=True),
    "gelu_pytorch_tanh": functools.partial(nn.gelu, approximate=True),
    "gelu_fast": functools.partial(nn.gelu, approximate=True),
    "relu": nn.relu,
}


@dataclasses.dataclass(frozen=True)
class GPTNeoXConfig:
    """Sizes and switches of one model.

    Attributes:
      max_positions: longest sequence, memory included, that the model was made for.
      activation: a key of `ACTIVATIONS`.
      parallel_residual: attention and MLP both read the layer's input; else the MLP reads
        the sum of input and attention.
      remat: recompute each layer in the backward pass instead of keeping it.
    """

    vocab_size: int
    num_layers: int
    d_model: int
    d_mlp: int
    num_heads: int
    head_dim: int
    max_positions: int
    rotary: Rotary
    norm_eps: float = 1e-5
    activation: str = "gelu"
    parallel_residual: bool = True
    attention_bias: bool = True
    tied_embeddings: bool = False
    remat: bool = False

    @property
    def num_kv_heads(self) -> int:
        """Every head has keys and values of its own."""
        return self.num_heads


class Attention(nn.Module):
    """Causal self-attention; q, k and v share one kernel."""

    config: GPTNeoXConfig

    @nn.compact
    def __call__(self, x, table, mask, cached, start):
        cfg = self.config
        D, N, H, bias = cfg.d_model, cfg.num_heads, cfg.head_dim, cfg.attention_bias
        axes = ("embed", None, "heads", "head_dim")
        shape = (D, 3, N, H)
        qkv = Einsum("btd,dcnh->btcnh", shape, axes, 3 * bias, name="qkv")(x)
        q = rotate(qkv[:, :, 0], table)
        k = rotate(qkv[:, :, 1], table)
        heads, cached = attend_cached(q, k, qkv[:, :, 2], mask, cached, start)
        axes = ("heads", "head_dim", "embed")
        out = Einsum("btnh,nhd->btd", (N, H, D), axes, int(bias), name="out")(heads)
        return out, cached


class MLP(nn.Module):
    """`down(activation(up(x)))`."""

    config: GPTNeoXConfig

    @nn.compact
    def __call__(self, x):
        cfg = self.config
        D, F = cfg.d_model, cfg.d_mlp
        x = Einsum("btd,df->btf", (D, F), ("embed", "mlp"), 1, name="up")(x)
        x = ACTIVATIONS[cfg.activation](x)
        return Einsum("btf,fd->btd", (F, D), ("mlp", "embed"), 1, name="down")(x)


class Layer(nn.Module):
    """One residual layer, in the form that `nn.scan` wants."""

    config: GPTNeoXConfig

    @nn.compact
    def __call__(self, x, cached, table, mask, start):
        cfg = self.config
        normed = LayerNorm(cfg.norm_eps, name="attn_norm")(x)
        attended, cached = Attention(cfg, name="attn")(normed, table, mask, cached, start)
        mlp_input = x if cfg.parallel_residual else x + attended
        normed = LayerNorm(cfg.norm_eps, name="mlp_norm")(mlp_input)
        return x + attended + MLP(cfg, name="mlp")(normed), cached


class GPTNeoX(RotaryDecoder):
    """A `CausalLM` (see `memcomp.lm`)."""

    layer = Layer
    norm = LayerNorm
