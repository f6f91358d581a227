"""`vectors`: memory is input vectors, which the LM reads before the text."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from memcomp.lm.decode import greedy_text
from memcomp.lm.protocol import CausalLM, Params, embed


@dataclasses.dataclass(frozen=True)
class Vectors:
    """M input vectors before the text; the last one predicts the first token.

    Source: Kuratov et al. 2025, arXiv:2502.13063, section 3; the authors' code drops the
      prediction of the first token.
    """

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    noun: ClassVar[str] = "vector"
    gives_tokens: ClassVar[bool] = True

    def rows(self, num_memory: int) -> int:
        """One row a vector."""
        return num_memory

    def width(self, module: CausalLM) -> int:
        """Width of an input vector (D)."""
        return module.config.d_model

    def num_texts(self, num_memory: int) -> int:
        """Each text has its own."""
        return 1

    def num_positions(self, num_memory: int, num_tokens: int) -> int:
        """The last token is predicted and not read."""
        return num_memory + num_tokens - 1

    def check(self, module: CausalLM, num_memory: int) -> None:
        """Every LM reads input vectors."""

    def unit(self, params, start, *, module):
        """That of tokens' input vectors."""
        return vector_std(params, module=module)

    def of_tokens(self, params, tokens, *, module):
        """The tokens' input vectors."""
        return embed(params, tokens[None], module=module)[0]

    def inputs(self, params, memory, tokens, start, *, module):
        """[memory, t_1 ... t_(T-1)], without a cache."""
        read = embed(params, tokens[None, :-1], module=module)[0]
        return jnp.concatenate([memory.astype(read.dtype), read])[None], None

    def before(self, memory, start):
        """The memory alone."""
        return (memory,), None

    def decode(self, params, memory, given, start, *, module, num_tokens):
        """Autoregressive: the LM reads memory and given tokens, then its own tokens."""
        read = embed(params, given, module=module)
        x = jnp.concatenate([memory.astype(read.dtype), read], axis=1)
        options = {"module": module, "num_tokens": num_tokens}
        return greedy_text(params, x, given, **options)


def vector_std(params: Params, *, module: CausalLM) -> Float[Array, ""]:
    """Standard deviation of all entries of all tokens' input vectors."""
    every = embed(params, jnp.arange(module.config.vocab_size)[None], module=module)
    # At least in float32. A float64 table stays float64, so that a mesh and one device
    # agree up to the rounding of float64.
    return jnp.std(every.astype(jnp.promote_types(every.dtype, jnp.float32)))
