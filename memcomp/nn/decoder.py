"""The stack that rotary decoder-only language models share; a family gives the layer."""

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from memcomp.nn.attention import KVCache, causal_mask, empty_cache
from memcomp.nn.parameters import with_axes
from memcomp.nn.rotary import rotary_table


class RotaryDecoder(nn.Module):
    """Embedding, scanned layers, final norm: a `CausalLM` (see `memcomp.lm`).

    Attributes:
      config: the family's config, with at least `vocab_size`, `num_layers`, `d_model`,
        `num_kv_heads`, `head_dim`, `rotary`, `norm_eps`, `tied_embeddings`, `remat`.
      layer: module of one layer; `layer(config)(x, cached, table, mask, start)` gives the
        new `x` [B T D] and the layer's new keys and values.
      norm: module of the final norm; called as `norm(config.norm_eps)`.
    """

    config: Any
    layer: ClassVar[type[nn.Module]]
    norm: ClassVar[Callable[..., nn.Module]]

    def setup(self):
        cfg = self.config
        normal = with_axes(nn.initializers.normal(0.02), ("vocab", "embed"))
        shape = (cfg.vocab_size, cfg.d_model)
        self.embedding = self.param("embedding", normal, shape)
        if not cfg.tied_embeddings:
            self.head = self.param("head", normal, shape)
        layer = nn.remat(self.layer, prevent_cse=False) if cfg.remat else self.layer
        self.layers: Any = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            # Flax annotates it by its default, an int, and takes a tree.
            in_axes=(0, *3 * (nn.broadcast,)),  # pyright: ignore[reportArgumentType]
            length=cfg.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(cfg)
        self.final_norm = self.norm(cfg.norm_eps)

    def embed(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Vectors that the first layer sees in place of `tokens`."""
        return jnp.take(self.embedding, tokens, axis=0)

    def __call__(
        self, x: Float[Array, "B T D"], cache: KVCache | None = None
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:
        """Hidden states after the final norm, and the cache with `x` added to it."""
        T = x.shape[1]
        start = jnp.zeros((), jnp.int32) if cache is None else cache.length
        num_keys = T if cache is None else cache.k.shape[2]
        positions = start + jnp.arange(T)
        mask = causal_mask(positions, num_keys)
        table = rotary_table(self.config.rotary, positions, num_keys)
        cached = None if cache is None else (cache.k, cache.v)
        x, cached = self.layers(x, cached, table, mask, start)
        if cache is not None:
            k, v = cached
            cache = KVCache(k, v, cache.length + T)
        return self.final_norm(x), cache

    def unembedding(self) -> Float[Array, "V D"]:
        """Rows whose product with a hidden state is a token's logit."""
        return self.embedding if self.config.tied_embeddings else self.head

    def empty_cache(self, batch: int, length: int, dtype) -> KVCache:
        """A cache for `batch` rows of at most `length` positions."""
        cfg = self.config
        return empty_cache(
            cfg.num_layers, batch, length, cfg.num_kv_heads, cfg.head_dim, dtype
        )
