"""The interface of a context compressor for the code that trains and uses it.

Letters: B chunks, C tokens of the longest chunk, M vectors of a chunk, D d_model.
"""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int

Params = Any  # a nested dict of arrays


@runtime_checkable  # the tests check annotations
class Compressor(Protocol):
    """A network that turns a chunk of tokens into a few input vectors of one LM.

    It is a frozen, hashable dataclass, so that it can be a static argument of jitted
    functions. It holds the LM's Flax module but no weights.
    """

    @property
    def num_digests(self) -> int:
        """Number of vectors of a chunk (M)."""
        ...

    def init(self, key: Array) -> Params:
        """Initial trainable weights in float32, each leaf boxed with its logical axes.

        The boxes are those of `nn.with_logical_partitioning`, as in an LM's parameters.
        """
        ...

    def digest(
        self,
        params: Params,
        lm_params: Params,
        tokens: Int[Array, "B C"],
        lengths: Int[Array, "B"],
    ) -> Float[Array, "B M D"]:
        """Compresses each chunk to its vectors.

        Args:
          params: weights as from `init`, unboxed and in the dtype of the computation, which
            the caller chooses; only they get gradients.
          lm_params: parameters of the frozen LM, unboxed.
          tokens: tokens of the chunks, padded on the right.
          lengths: number of tokens of each chunk without padding, at least 1; the result
            does not depend on the padding.
        """
        ...
