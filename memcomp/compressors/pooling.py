"""Mean pooling: a baseline compressor whose only weights are one linear map.

The tokens of a chunk are split into M groups of neighbours. Each group becomes the mean of
its token embeddings, and one trained linear map, the same for all groups, turns the means
into the vectors that the LM reads. The map starts as the identity, so that without training
the vectors are the plain means.

Letters: B chunks, C tokens ("words") of a chunk, M groups, D d_model.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from memcomp.compressors.protocol import Params
from memcomp.lm.protocol import CausalLM, embed
from memcomp.nn.parameters import with_axes
from memcomp.ranges import check_count


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoolingConfig:
    """Size of mean pooling.

    Attributes:
      num_digests: number of vectors of a chunk (M).

    Raises:
      InputError: the number is below 1 or not whole.
    """

    num_digests: int = 128

    def __post_init__(self):
        check_count("num_digests", self.num_digests)


@dataclasses.dataclass(frozen=True)
class Pooling:
    """Mean pooling for one LM: a `Compressor` (see `memcomp.compressors.protocol`).

    Attributes:
      lm_module: a `CausalLM`, of which only the token embeddings are used.
      config: number of groups.
    """

    lm_module: CausalLM
    config: PoolingConfig

    @property
    def num_digests(self) -> int:
        """Number of vectors of a chunk (M)."""
        return self.config.num_digests

    def init(self, key: Array) -> Params:
        """Initial weights in float32: `kernel` [D D], the identity; `key` is not used."""
        D = self.lm_module.config.d_model
        identity = with_axes(lambda key, shape: jnp.eye(*shape), ("embed", None))
        return {"kernel": identity(key, (D, D))}

    def digest(
        self,
        params: Params,
        lm_params: Params,
        tokens: Int[Array, "B C"],
        lengths: Int[Array, "B"],
    ) -> Float[Array, "B M D"]:
        """Returns the mapped mean of each group of token embeddings."""
        words = jax.lax.stop_gradient(embed(lm_params, tokens, module=self.lm_module))
        words = words.astype(params["kernel"].dtype)
        members = groups(lengths, self.num_digests, tokens.shape[1])
        share = members / members.sum(axis=-1, keepdims=True)  # in float32
        means = jnp.einsum("bmc,bcd->bmd", share.astype(words.dtype), words)
        return jnp.einsum("bmd,de->bme", means, params["kernel"])


def groups(
    lengths: Int[Array, "B"], num_groups: int, num_words: int
) -> Bool[Array, "B {num_groups} {num_words}"]:
    """Mask that says which words belong to each group; no group is empty.

    Group m of a chunk with n words begins at word floor(m n / M) and ends where the next
    one begins. With fewer words than groups, a group that would be empty has the word that
    it begins at, which is then in several groups.

    Args:
      lengths: number of words of each chunk, at least 1.
      num_groups: number of groups (M).
      num_words: number of words of the padded chunks (C).
    """
    n, m = lengths[:, None], jnp.arange(num_groups)[None, :]
    begin, end = m * n // num_groups, (m + 1) * n // num_groups
    end = jnp.maximum(end, begin + 1)
    words = jnp.arange(num_words)[None, None, :]
    return (begin[:, :, None] <= words) & (words < end[:, :, None])
