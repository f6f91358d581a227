"""`vectors`: memory is input vectors, which the LM reads before the text."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from memcomp.cram.ways.way import Way
from memcomp.lm.decode import greedy_text
from memcomp.lm.protocol import embed


@dataclasses.dataclass(frozen=True)
class Vectors(Way):
    """M input vectors before the text; the last one predicts the first token.

    Source: Kuratov et al. 2025, arXiv:2502.13063, section 3; the authors' code drops the
      prediction of the first token.
    """

    is_prompt: ClassVar[bool] = True

    def num_positions(self, num_memory: int, num_tokens: int) -> int:
        """The last token is predicted and not read."""
        return num_memory + num_tokens - 1

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
