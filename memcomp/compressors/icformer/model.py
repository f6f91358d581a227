"""IC-Former: digests read a context's token embeddings by cross-attention, layer by layer.

Every layer makes its keys and values from the same vectors, with its own weights: the token
embeddings ("words"), followed by the initial digests. Digests attend to all words and
causally to digests. From layer to layer only the queries change.

Letters: B chunks, C words of a chunk, M digests, S = C + M keys, D d_model, L layers,
N heads, K kv heads, H head width.

Source: Wang et al. 2024, arXiv:2406.13618, section 3, and its code
  (github.com/wonderful9462/IC-Former), which takes one chunk at a time.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from memcomp.compressors.icformer.config import ICFormerConfig, Sizes
from memcomp.convert.engine import Params
from memcomp.lm.protocol import CausalLM, embed
from memcomp.nn.attention import (
    attention_weights,
    causal_mask,
)
from memcomp.nn.einsum import Einsum
from memcomp.nn.mlp import GatedMLP
from memcomp.nn.norms import RMSNorm
from memcomp.nn.parameters import with_axes
from memcomp.nn.rotary import Rotary, rotary_table, rotate

INITS = {"zeros": nn.initializers.zeros, "normal": nn.initializers.normal(0.02)}


class View(NamedTuple):
    """Attention mask, and rotary tables of the positions of words and digests.

    Attributes:
      mask: True where a digest may attend to a key.
      words: cosines and sines of the words' angles.
      digests: cosines and sines of the digests' angles, which depend on the number of words
        of each chunk.
    """

    mask: Bool[Array, "B M S"]
    words: tuple[Float[Array, "C half"], Float[Array, "C half"]]
    digests: tuple[Float[Array, "B M half"], Float[Array, "B M half"]]


class Context(NamedTuple):
    """Vectors that keys and values are made from.

    Attributes:
      words: token embeddings, padded on the right.
      digests: initial digests, the same for all chunks.
    """

    words: Float[Array, "B C D"]
    digests: Float[Array, "1 M D"]


def digest_positions(
    lengths: Int[Array, "B"], num_digests: int, spread: bool
) -> Int[Array, "B {num_digests}"]:
    """Positions of the digests of chunks with `lengths` words at positions 0, 1, ..."""
    i, n = jnp.arange(num_digests)[None, :], lengths[:, None]
    return (2 * i + 1) * n // (2 * num_digests) if spread else n + i


def view_of(
    cfg: ICFormerConfig, head_dim: int, lengths: Int[Array, "B"], num_words: int
) -> View:
    """Makes the view of chunks that are padded on the right to `num_words`."""
    B, C, M = lengths.shape[0], num_words, cfg.num_digests
    words = jnp.arange(C)
    there = words[None, :] < lengths[:, None]
    seen = jnp.broadcast_to(there[:, None, :], (B, M, C))
    before = jnp.broadcast_to(causal_mask(jnp.arange(M), M)[None], (B, M, M))
    digests = digest_positions(lengths, M, cfg.spread_positions)
    rotary = Rotary(head_dim, cfg.rope_theta)
    return View(
        mask=jnp.concatenate([seen, before], axis=-1),
        words=rotary_table(rotary, words, C),
        digests=rotary_table(rotary, digests, C + M),
    )


class CrossAttention(nn.Module):
    """Attention of digests to words and digests; keys and values share the context's norm.

    Attention probabilities are stored if the collection "intermediates" is mutable.
    """

    config: ICFormerConfig
    sizes: Sizes

    @nn.compact
    def __call__(
        self, x: Float[Array, "B M D"], context: Context, view: View
    ) -> Float[Array, "B M D"]:
        cfg, axes = self.config, ("embed", "heads", "head_dim")
        D, N, H = self.sizes.d_model, self.sizes.num_heads, self.sizes.head_dim
        normed = RMSNorm(cfg.norm_eps, name="norm")(x)
        q = Einsum("btd,dnh->btnh", (D, N, H), axes, name="q")(normed)

        norm = RMSNorm(cfg.norm_eps, name="context_norm")
        words = norm(context.words)
        digests = norm(context.digests)
        word_k, digest_k = self._project("k", words, digests)
        word_v, digest_v = self._project("v", words, digests)
        k = [rotate(word_k, view.words), rotate(digest_k, view.digests)]
        weights = attention_weights(
            rotate(q, view.digests), jnp.concatenate(k, axis=1), view.mask
        )
        self.sow("intermediates", "weights", weights)

        # Transposed here because einsum transposes number by number on a CPU.
        v = jnp.concatenate([word_v, digest_v], axis=1).swapaxes(1, 2)  # [B K S H]
        heads = jnp.einsum("bkgts,bksh->bkgth", weights.astype(v.dtype), v)
        heads = heads.transpose(0, 3, 1, 2, 4).reshape(*x.shape[:2], N, H)
        # Einsum sums over letters in alphabetical order. With w in place of h for H, n
        # comes before w as in memory, and the kernel is not transposed.
        axes = ("heads", "head_dim", "embed")
        return Einsum("btnw,nwd->btd", (N, H, D), axes, name="out")(heads)

    def _project(self, name, words, digests):
        """Projects words to [B C K H] and digests to [B M K H], with one kernel."""
        D, K, H = self.sizes.d_model, self.sizes.num_kv_heads, self.sizes.head_dim
        axes = ("embed", "kv_heads", "head_dim")
        project = Einsum("bsd,dkh->bskh", (D, K, H), axes, name=name)
        of_digests = project(digests)  # once, as they are the same for all chunks
        shape = (words.shape[0], *of_digests.shape[1:])
        return project(words), jnp.broadcast_to(of_digests, shape)


class Layer(nn.Module):
    """One residual layer: cross-attention and MLP."""

    config: ICFormerConfig
    sizes: Sizes

    @nn.compact
    def __call__(
        self, x: Float[Array, "B M D"], context: Context, view: View
    ) -> Float[Array, "B M D"]:
        cfg = self.config
        x = x + CrossAttention(cfg, self.sizes, name="cross_attn")(x, context, view)
        normed = RMSNorm(cfg.norm_eps, name="mlp_norm")(x)
        return x + GatedMLP(self.sizes.d_mlp, "silu", name="mlp")(normed)


class DigestEncoder(nn.Module):
    """The network that turns token embeddings into soft prompts."""

    config: ICFormerConfig
    sizes: Sizes

    @nn.compact
    def __call__(
        self, words: Float[Array, "B C D"], lengths: Int[Array, "B"]
    ) -> Float[Array, "B M D"]:
        """Returns soft prompts of chunks of `lengths` words, padded on the right."""
        cfg = self.config
        (B, C, D), M = words.shape, cfg.num_digests
        init = with_axes(INITS[cfg.digest_init], (None, "embed"))
        digests = self.param("digests", init, (M, D))
        words = words.astype(digests.dtype)
        context = Context(words, digests[None])
        view = view_of(cfg, self.sizes.head_dim, lengths, C)

        x = jnp.broadcast_to(digests[None], (B, M, D))
        # A loop in place of a scan needs no copies of weights out of a stack, and the keys
        # and values of all layers, which depend on no other layer, can be made in parallel.
        for i in range(cfg.num_layers):
            x = Layer(cfg, self.sizes, name=f"layers_{i}")(x, context, view)
        return RMSNorm(cfg.norm_eps, name="final_norm")(x)


@dataclasses.dataclass(frozen=True)
class ICFormer:
    """IC-Former for one LM: a `Compressor` (see `memcomp.compressors.protocol`).

    Attributes:
      lm_module: a `CausalLM`, of which only the token embeddings are used.
      config: sizes and switches of IC-Former.

    Raises:
      InputError: neither the config nor the LM gives a size, or sizes do not fit.
    """

    lm_module: CausalLM
    config: ICFormerConfig

    def __post_init__(self):
        self.config.sizes(self.lm_module.config)

    @property
    def num_digests(self) -> int:
        """Number of vectors of a chunk (M)."""
        return self.config.num_digests

    @property
    def module(self) -> Any:
        """The `DigestEncoder`, static and hashable; use with `apply`."""
        return DigestEncoder(self.config, self.config.sizes(self.lm_module.config))

    def init(self, key: Array) -> Params:
        """Initial weights in float32, boxed with their logical axes."""
        words = jnp.zeros((1, 1, self.lm_module.config.d_model))
        return self.module.init(key, words, jnp.ones(1, jnp.int32))["params"]

    def digest(
        self,
        params: Params,
        lm_params: Params,
        tokens: Int[Array, "B C"],
        lengths: Int[Array, "B"],
    ) -> Float[Array, "B M D"]:
        """Compresses each chunk's token embeddings; see `Compressor.digest`."""
        words = self._words(lm_params, tokens)
        return self.module.apply({"params": params}, words, lengths)

    def attention(
        self,
        params: Params,
        lm_params: Params,
        tokens: Int[Array, "B C"],
        lengths: Int[Array, "B"],
    ) -> Float[Array, "L B N M S"]:
        """Attention probabilities of each digest over the C words, then over the digests.

        Arguments are those of `digest`. Probabilities sum to one over the keys and are zero
        at padding.
        """
        words = self._words(lm_params, tokens)
        _, state = self.module.apply(
            {"params": params}, words, lengths, mutable=["intermediates"]
        )
        layers = [
            state["intermediates"][f"layers_{i}"] for i in range(self.config.num_layers)
        ]
        weights = jnp.stack([layer["cross_attn"]["weights"][0] for layer in layers])
        L, B, K, G, M, S = weights.shape
        return weights.reshape(L, B, K * G, M, S)

    def _words(self, lm_params, tokens):
        words = embed(lm_params, tokens, module=self.lm_module)
        return jax.lax.stop_gradient(words)
