"""Interface of a way of writing a text: what the LM reads for the text's memory.

The memory of a text is a matrix [M W], whatever the way: rows that the optimiser changes
and that a file stores. The rest of cramming is the same for all ways.

Letters: B texts, T tokens, R rows of input vectors, S positions, M rows of memory,
W numbers of a row, G given tokens, N tokens to decode, D d_model.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from memcomp.lm.protocol import Cache, CausalLM, Params


@runtime_checkable  # the tests check annotations
class Way(Protocol):
    """A way of writing; a frozen, hashable dataclass, static in jitted functions.

    Attributes:
      recipes: fields in which recipes of this way differ from those of `RECIPES`, by name.
      noun: what a row of the memory is.
      gives_tokens: whether the LM can read given tokens, as the reference protocol asks.
    """

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]]
    noun: ClassVar[str]
    gives_tokens: ClassVar[bool]

    def rows(self, num_memory: int) -> int:
        """Rows of the memory (M) of a config's `num_memory`."""
        ...

    def width(self, module: CausalLM) -> int:
        """Numbers of a row (W)."""
        ...

    def num_texts(self, num_memory: int) -> int:
        """Texts that one memory holds (`memcomp.cram.group`)."""
        ...

    def num_positions(self, num_memory: int, num_tokens: int) -> int:
        """Positions of the LM that are used to score a text of `num_tokens`."""
        ...

    def check(self, module: CausalLM, num_memory: int) -> None:
        """Raises `InputError` if this LM cannot be written to in this way."""
        ...

    def unit(self, params: Params, start: int, *, module: CausalLM) -> Float[Array, "*W"]:
        """Usual size of the numbers of a row: one for all, or one for each number."""
        ...

    def of_tokens(
        self, params: Params, tokens: Int[Array, "M"], *, module: CausalLM
    ) -> Float[Array, "M W"]:
        """Memory that stands for M real tokens."""
        ...

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
        ...

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
        ...

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
        ...
