"""What a context compressor is to the code that trains and uses it.

Letters: B chunks, C tokens of the longest chunk, M vectors a chunk, D d_model.
"""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int

Params = Any  # a nested dict of arrays


@runtime_checkable  # the tests check annotations
class Compressor(Protocol):
    """A network that turns a chunk of tokens into a few input vectors of one LM.

    A frozen, hashable dataclass, so that it goes into jitted functions as a static
    argument; it holds the LM's Flax module but no weights.
    """

    @property
    def num_digests(self) -> int:
        """M, the vectors that stand for a chunk."""
        ...

    def init(self, key: Array) -> Params:
        """Fresh trainable weights in float32, each leaf boxed with its logical axes.

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
        """The vectors of each chunk.

        Args:
          params: as from `init`, unboxed and in the dtype of the computation, which the
            caller chooses; gradients go here alone.
          lm_params: weights of the frozen LM, unboxed.
          tokens: one chunk a row, padded on the right.
          lengths: how many leading tokens of each row are true, at least 1; the result
            does not depend on the others.
        """
        ...
