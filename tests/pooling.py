"""The smallest compressor: a stand-in for tests of what all compressors share."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from memcomp.nn.parameters import with_axes


@dataclasses.dataclass(frozen=True)
class Pooling:
    """Mean of the token vectors, times a matrix for each digest, plus a vector."""

    module: Any
    num_digests: int = 2

    def init(self, key):
        M, D = self.num_digests, self.module.config.d_model
        normal = with_axes(nn.initializers.normal(0.3), (None, "embed", "mlp"))
        bias = with_axes(nn.initializers.normal(0.3), (None, "embed"))
        first, second = jax.random.split(key)
        return {
            "kernel": normal(first, (M, D, D), jnp.float32),
            "bias": bias(second, (M, D), jnp.float32),
        }

    def digest(self, params, lm_params, tokens, lengths):
        x = self.module.apply({"params": lm_params}, tokens, method="embed")
        true = jnp.arange(tokens.shape[1])[None] < lengths[:, None]
        # The position counts, so that the order of tokens does.
        weights = true * jnp.cos(jnp.arange(tokens.shape[1]))[None]
        mean = jnp.einsum("bcd,bc->bd", x, weights.astype(x.dtype))
        mean = mean / lengths[:, None].astype(x.dtype)
        digests = jnp.einsum("bd,mde->bme", mean, params["kernel"])
        return digests + jnp.broadcast_to(params["bias"], digests.shape)
