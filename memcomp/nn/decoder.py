"""Decoder-only language model that all families share; each family defines its layer."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from memcomp.errors import InputError
from memcomp.nn.attention import (
    KVCache,
    Positions,
    causal_mask,
    empty_cache,
    prefix_mask,
)
from memcomp.nn.flash import check_attention, kernel_of
from memcomp.nn.mlp import ACTIVATIONS, GatedMLP
from memcomp.nn.norms import RMSNorm
from memcomp.nn.parameters import with_axes
from memcomp.nn.remat import check_remat, rematerialised
from memcomp.nn.rotary import Rotary, rotary_table


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Sizes and options that all families have.

    Attributes:
      d_model: width of an input vector (D).
      d_mlp: width inside the MLP (F).
      num_heads: number of query heads (N).
      num_kv_heads: number of key-value heads (K), a divisor of N.
      head_dim: width of a head (H).
      max_positions: longest sequence, memory included, that the model was made for.
      activation: activation of the MLP, a key of `ACTIVATIONS`.
      windows: number of keys that a query of each layer sees, its own included, or None for
        all; empty if all layers see all keys.
      tied_embeddings: whether the unembedding is the embedding.
      remat: what the backward pass keeps of a layer, a key of `REMAT`.
      attention: attention implementation, a key of `memcomp.nn.flash.ATTENTION`.

    Raises:
      InputError: the activation, remat or attention is unknown, `num_kv_heads` does not
        divide `num_heads`, or `windows` has another number of layers.
    """

    vocab_size: int
    num_layers: int
    d_model: int
    d_mlp: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    activation: str = "silu"
    norm_eps: float = 1e-5
    windows: tuple[int | None, ...] = ()
    tied_embeddings: bool = False
    remat: str = "none"
    attention: str = "plain"

    def __post_init__(self):
        if self.activation not in ACTIVATIONS:
            raise InputError(
                f"activation {self.activation!r} is not known; known are "
                f"{', '.join(ACTIVATIONS)}"
            )
        check_remat(self.remat)
        check_attention(self.attention)
        if self.num_heads % self.num_kv_heads:
            raise InputError(
                f"{self.num_kv_heads} heads of keys and values; wanted a divisor of the "
                f"{self.num_heads} heads"
            )
        if (given := len(self.windows)) not in (0, self.num_layers):
            raise InputError(
                f"windows for {given} layers; wanted {self.num_layers}, or none"
            )

    @property
    def heads(self) -> tuple[int, int, int]:
        """Number of heads, number of kv heads, width of a head: N, K, H."""
        return self.num_heads, self.num_kv_heads, self.head_dim


@dataclasses.dataclass(frozen=True, kw_only=True)
class RotaryConfig(DecoderConfig):
    """`DecoderConfig` with the same rotary positions in every layer."""

    rotary: Rotary


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedPositionConfig(DecoderConfig):
    """`DecoderConfig` with a learned vector for every position.

    Attributes:
      first_position: index of position 0 in the table of position vectors.
    """

    first_position: ClassVar[int] = 0

    @property
    def num_position_rows(self) -> int:
        """Number of vectors in the table of positions."""
        return self.max_positions + self.first_position


class LayerKind(NamedTuple):
    """Properties in which the layers of one stack may differ.

    Attributes:
      window: number of keys that a query sees, its own included; None for all.
      rotary: rotary positions of the layer; None if no layer of the stack has them. If only
        some have them, the others use `memcomp.nn.rotary.no_rotation`.
    """

    window: int | None = None
    rotary: Rotary | None = None


class PreNormLayer(nn.Module):
    """Residual layer: attention and MLP each read a norm of the stream and add to it.

    A family defines the submodules by these methods; each method makes one.

    Source: Xiong et al. 2020, arXiv:2002.04745.
    """

    config: Any

    def attention(self, name: str) -> nn.Module:
        """Attention, called as `attention(x, cached, positions)`; see `SelfAttention`."""
        raise NotImplementedError

    def mlp(self, name: str) -> nn.Module:
        """Gated MLP without biases."""
        return GatedMLP(self.config.d_mlp, self.config.activation, name=name)

    def norm(self, name: str) -> nn.Module:
        """Norm before attention or MLP, an RMSNorm."""
        return RMSNorm(self.config.norm_eps, name=name)

    @nn.compact
    def __call__(self, x, cached, positions):
        normed = self.norm("attn_norm")(x)
        attended, cached = self.attention("attn")(normed, cached, positions)
        x = x + attended
        return x + self.mlp("mlp")(self.norm("mlp_norm")(x)), cached


class Decoder(nn.Module):
    """Embedding, scanned layers, final norm: a `CausalLM` (see `memcomp.lm.protocol`).

    Attributes:
      config: the family's config.
      layer: class of one layer's module; `layer(config)(x, cached, positions)` returns the
        new `x` [B T D] and the layer's new keys and values.
      unroll: whether the layers are unrolled instead of a loop. This compiles slowly, but
        the compiler counts all operations; it counts those of a loop's body only once.
    """

    config: Any
    unroll: bool = False
    layer: ClassVar[type[nn.Module]]

    @property
    def softcap(self) -> float | None:
        """Soft cap c of the logits z, which become c tanh(z / c); None for no cap."""
        return None

    def setup(self):
        cfg = self.config
        normal = with_axes(nn.initializers.normal(0.02), ("vocab", "embed"))
        shape = (cfg.vocab_size, cfg.d_model)
        self.embedding = self.param("embedding", normal, shape)
        if not cfg.tied_embeddings:
            self.head = self.param("head", normal, shape)
        self.layers = self.layer(cfg)
        self.final_norm = self.norm()

    def norm(self) -> nn.Module:
        """Final norm, an RMSNorm."""
        return RMSNorm(self.config.norm_eps)

    def layer_kinds(self) -> tuple[LayerKind, ...]:
        """The kind of every layer."""
        cfg = self.config
        windows = cfg.windows or (None,) * cfg.num_layers
        rotary = getattr(cfg, "rotary", None)
        return tuple(LayerKind(window, rotary) for window in windows)

    def embed(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Input vectors of `tokens`; memory stands in their place."""
        return jnp.take(self.embedding, tokens, axis=0)

    def enter(self, x: Float[Array, "B T D"], positions: Int[Array, "T"]):
        """Turns input vectors into what the first layer reads; here they stay the same."""
        return x

    def leave(self, x):
        """Turns the outputs of the last layer into final hidden states [B T D]."""
        return self.final_norm(x)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        cache: KVCache | None = None,
        mask: Bool[Array, "L T S"] | None = None,
        prefix: Int[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:
        """Returns hidden states after the final norm, and the cache with `x` added to it.

        Args:
          x: input vectors.
          cache: keys and values of earlier positions; None to read without a cache.
          mask: for each layer, False where a query must not see a key that it would see
            otherwise; None hides nothing. A mask needs the attention probabilities, so that
            `config.attention` is ignored.
          prefix: number of first positions of each text that see each other in both
            directions, within the windows of the layers; None for causal attention
            throughout. With it too, `config.attention` is ignored.
        """
        T = x.shape[1]
        start = jnp.zeros((), jnp.int32) if cache is None else cache.length
        num_keys = T if cache is None else cache.k.shape[2]
        positions = start + jnp.arange(T)
        x = self.enter(x, positions)
        cached = None if cache is None else (cache.k, cache.v)
        views = [
            self._view(kind, positions, num_keys, prefix)
            for kind in dict.fromkeys(self.layer_kinds())
        ]
        x, cached = self._scan(x, cached, positions, views, mask, prefix is None)
        if cache is not None:
            k, v = cached
            cache = KVCache(k, v, cache.length + T)
        return self.leave(x), cache

    def _scan(self, x, cached, positions, views, masks, causal):
        cfg, of_layers = self.config, self.layer_kinds()
        kinds = list(dict.fromkeys(of_layers))
        number = jnp.array([kinds.index(kind) for kind in of_layers])
        views = jax.tree.map(lambda *arrays: jnp.stack(arrays), *views)
        windows = tuple(kind.window for kind in kinds)

        def read(layer, x, cached, kind, index, hiding):
            # If all layers are of one kind, the choice is made at compile time.
            chosen = kind if len(kinds) > 1 else 0
            mask, table = jax.tree.map(lambda array: array[chosen], views)
            kernel = kernel_of(cfg.attention, windows, chosen, x.shape[1])
            if hiding is not None:
                mask, kernel = mask & jnp.broadcast_to(hiding, mask.shape), None
            kernel = kernel if causal else None
            return layer(x, cached, Positions(mask, table, positions[0], index, kernel))

        scan = nn.scan(
            rematerialised(cfg.remat, read),
            variable_axes={"params": 0, "adapters": 0, "intermediates": 0},
            split_rngs={"params": True},
            length=cfg.num_layers,
            unroll=cfg.num_layers if self.unroll else 1,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return scan(self.layers, x, cached, number, jnp.arange(cfg.num_layers), masks)

    def _view(self, kind: LayerKind, positions, num_keys, prefix):
        mask = causal_mask(positions, num_keys, kind.window)
        if prefix is not None:
            mask = prefix_mask(positions, num_keys, prefix, kind.window)
        if kind.rotary is None:
            return mask, None
        return mask, rotary_table(kind.rotary, positions, num_keys)

    def unembedding(self) -> Float[Array, "V D"]:
        """Vector of each token whose product with a hidden state is the token's logit."""
        return self.embedding if self.config.tied_embeddings else self.head

    def empty_cache(self, batch: int, length: int, dtype) -> KVCache:
        """Makes a cache for `batch` texts of at most `length` positions."""
        cfg = self.config
        return empty_cache(
            cfg.num_layers, batch, length, cfg.num_kv_heads, cfg.head_dim, dtype
        )


class LearnedPositionDecoder(Decoder):
    """`Decoder` that adds a learned vector of its position to each input vector.

    Its config is a `LearnedPositionConfig`.
    """

    def setup(self):
        super().setup()
        normal = with_axes(nn.initializers.normal(0.02), (None, "embed"))
        shape = (self.config.num_position_rows, self.position_width())
        self.positions = self.param("positions", normal, shape)

    def position_width(self) -> int:
        """Width of the learned position vectors."""
        return self.config.d_model

    def enter(self, x, positions):
        rows = jnp.take(self.positions, positions + self.config.first_position, axis=0)
        return x + jnp.broadcast_to(rows, x.shape)
