"""What a way of writing a text must say: what the LM reads for the text's memory.

The memory of a text is a matrix [M W], whatever the way: rows that the optimiser changes
and that a file stores. The rest of cramming is the same for all ways.

Letters: B texts, T tokens, R rows of input vectors, S positions, M rows of memory,
W numbers of a row, G given tokens, N tokens to decode, D d_model.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from memcomp.lm.protocol import Cache, CausalLM, Params, embed


@dataclasses.dataclass(frozen=True)
class Way(abc.ABC):
    """A way of writing; hashable, and static in jitted functions.

    What is not abstract holds for a memory of one input vector a row.

    Attributes:
      recipes: fields in which recipes of this way differ from those of `RECIPES`, by name.
      noun: what a row of the memory is.
      gives_tokens: whether the LM can read given tokens, as the reference protocol asks.
      is_prompt: whether the rows are read as input vectors before the text, as the vectors
        of a compressor are.
    """

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    noun: ClassVar[str] = "vector"
    gives_tokens: ClassVar[bool] = True
    is_prompt: ClassVar[bool] = False

    def rows(self, num_memory: int) -> int:
        """Rows of the memory (M) of a config's `num_memory`."""
        return num_memory

    def width(self, module: CausalLM) -> int:
        """Numbers of a row (W)."""
        return module.config.d_model

    def num_texts(self, num_memory: int) -> int:
        """Texts that one memory holds (`memcomp.cram.group`)."""
        return 1

    @abc.abstractmethod
    def num_positions(self, num_memory: int, num_tokens: int) -> int:
        """Positions of the LM that are used to score a text of `num_tokens`."""

    def check(self, module: CausalLM, num_memory: int) -> None:
        """Raises `InputError` if this LM cannot be written to in this way."""
        return  # every LM reads input vectors

    def unit(self, params: Params, start: int, *, module: CausalLM) -> Float[Array, "*W"]:
        """Usual size of the numbers of a row: one for all, or one for each number."""
        return vector_std(params, module=module)

    @abc.abstractmethod
    def of_tokens(
        self, params: Params, tokens: Int[Array, "M"], *, module: CausalLM
    ) -> Float[Array, "M W"]:
        """Memory that stands for M real tokens."""

    @abc.abstractmethod
    def inputs(
        self,
        params: Params,
        memory: Float[Array, "M W"],
        tokens: Int[Array, "T"],
        start: int,
        *,
        module: CausalLM,
    ) -> tuple[Float[Array, "R S D"], Cache]:
        """What the LM reads to predict a text teacher-forced.

        Args:
          params: parameters of the LM.
          memory: memory of the text.
          tokens: the text.
          start: token that begins a text for this LM.
          module: the LM's Flax module.

        Returns:
          Rows of input vectors, which are read side by side, and the cache after which they
          are read; None for no cache. The last vectors of row r predict the tokens r,
          r + R, r + 2 R and so on, so that one row predicts the tokens in order.
        """

    @abc.abstractmethod
    def before(
        self, memory: Float[np.ndarray, "B M W"], start: Int[np.ndarray, "B 1"]
    ) -> tuple[tuple[np.ndarray, ...], Float[np.ndarray, "B M W"] | None]:
        """What stands before a text that the LM reads.

        Args:
          memory: memory of each text.
          start: token that begins a text for this LM.

        Returns:
          Parts of input vectors, each memory [B M D] or token ids [B T], and the numbers of
          the cache after which they are read; None for no cache.

        Raises:
          InputError: in this way, the LM does not read the text.
        """

    @abc.abstractmethod
    def decode(
        self,
        params: Params,
        memory: Float[Array, "B M W"],
        given: Int[Array, "B G"],
        start: int,
        *,
        module: CausalLM,
        num_tokens: int,
    ) -> tuple[Int[Array, "B N"], Bool[Array, ""]]:
        """Greedy text of each memory, and whether all logits were finite.

        Args:
          params: parameters of the LM.
          memory: memory of each text.
          given: leading tokens of each text that are read and not decoded.
          start: token that begins a text for this LM.
          module: the LM's Flax module.
          num_tokens: tokens of a text, the given ones included (N).
        """


def vector_std(params: Params, *, module: CausalLM) -> Float[Array, ""]:
    """Standard deviation of all entries of all tokens' input vectors."""
    every = embed(params, jnp.arange(module.config.vocab_size)[None], module=module)
    # At least in float32. A float64 table stays float64, so that a mesh and one device
    # agree up to the rounding of float64.
    return jnp.std(every.astype(jnp.promote_types(every.dtype, jnp.float32)))
