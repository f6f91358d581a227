"""Llama and its relatives: pre-norm, rotary positions, grouped-query attention, SwiGLU.

Letters: B texts, T queries, S keys, L layers, D d_model, N heads, K kv heads, H head
width, F MLP width, V vocabulary.

Memory enters where token vectors do: before the first layer, unscaled.

Source: Touvron et al. 2023, arXiv:2302.13971; Grattafiori et al. 2024, arXiv:2407.21783.
"""

import dataclasses

import flax.linen as nn

from memcomp.nn.attention import attend_cached
from memcomp.nn.decoder import RotaryDecoder
from memcomp.nn.einsum import Einsum
from memcomp.nn.norms import RMSNorm
from memcomp.nn.rotary import Rotary, rotate


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Sizes and switches of one model.

    Attributes:
      max_positions: longest sequence, memory included, that the model was made for.
      remat: recompute each layer in the backward pass instead of keeping it.
    """

    vocab_size: int
    num_layers: int
    d_model: int
    d_mlp: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    rotary: Rotary
    norm_eps: float = 1e-5
    tied_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    remat: bool = False


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    config: LlamaConfig

    @nn.compact
    def __call__(self, x, table, mask, cached, start):
        cfg = self.config
        D, N, K, H = cfg.d_model, cfg.num_heads, cfg.num_kv_heads, cfg.head_dim
        bias = cfg.attention_bias

        def project(name, num_heads, axis):
            axes = ("embed", axis, "head_dim")
            shape = (D, num_heads, H)
            return Einsum("btd,dnh->btnh", shape, axes, 2 * bias, name=name)(x)

        q = rotate(project("q", N, "heads"), table)
        k = rotate(project("k", K, "kv_heads"), table)
        v = project("v", K, "kv_heads")
        heads, cached = attend_cached(q, k, v, mask, cached, start)
        axes = ("heads", "head_dim", "embed")
        out = Einsum("btnh,nhd->btd", (N, H, D), axes, int(bias), name="out")(heads)
        return out, cached


class MLP(nn.Module):
    """`down(silu(gate(x)) * up(x))`.

    Source: Shazeer 2020, arXiv:2002.05202.
    """

    config: LlamaConfig

    @nn.compact
    def __call__(self, x):
        cfg = self.config
        D, F, bias = cfg.d_model, cfg.d_mlp, int(cfg.mlp_bias)
        wide = ("embed", "mlp")
        gate = Einsum("btd,df->btf", (D, F), wide, bias, name="gate")(x)
        up = Einsum("btd,df->btf", (D, F), wide, bias, name="up")(x)
        narrow = ("mlp", "embed")
        hidden = nn.silu(gate) * up
        return Einsum("btf,fd->btd", (F, D), narrow, bias, name="down")(hidden)


class Layer(nn.Module):
    """One pre-norm residual layer, in the form that `nn.scan` wants."""

    config: LlamaConfig

    @nn.compact
    def __call__(self, x, cached, table, mask, start):
        cfg = self.config
        normed = RMSNorm(cfg.norm_eps, name="attn_norm")(x)
        attended, cached = Attention(cfg, name="attn")(normed, table, mask, cached, start)
        x = x + attended
        x = x + MLP(cfg, name="mlp")(RMSNorm(cfg.norm_eps, name="mlp_norm")(x))
        return x, cached


class Llama(RotaryDecoder):
    """A `CausalLM` (see `memcomp.lm`)."""

    layer = Layer
    norm = RMSNorm
