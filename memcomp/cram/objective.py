"""What a memory is scored by: how well the frozen LM predicts the text after it."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from memcomp.nn.cross_entropy import TokenScores, token_scores


def memory_scores(
    memory: Float[Array, "M D"],
    tokens: Int[Array, "T"],
    params: Any,
    *,
    module: Any,
    vocab_chunk: int,
) -> TokenScores:
    """Loss and margin of each token, predicted from memory and the true tokens before it.

    The LM reads [memory, t_1 ... t_(T-1)]; the last memory vector predicts t_1.

    Source: Kuratov et al. 2025, arXiv:2502.13063, section 3; the authors' code drops the
      prediction of t_1 (reference/cramming.md, part a).
    """
    variables = {"params": params}
    read = module.apply(variables, tokens[None, :-1], method="embed")[0]
    x = jnp.concatenate([memory.astype(read.dtype), read])
    hidden, _ = module.apply(variables, x[None])
    rows = module.apply(variables, method="unembedding")
    return token_scores(
        hidden[0, memory.shape[0] - 1 :], rows, tokens, vocab_chunk, module.softcap
    )


def scored_positions(
    length: Int[Array, ""], num_tokens: int, num_given: int
) -> Bool[Array, "T"]:
    """True for the tokens that count: not padding, and not given."""
    index = jnp.arange(num_tokens)
    return (index >= num_given) & (index < length)


def mean_over(
    values: Float[Array, "T"] | Bool[Array, "T"], where: Bool[Array, "T"]
) -> Float[Array, ""]:
    """Mean of the values at the positions that count."""
    return jnp.sum(jnp.where(where, values, 0)) / jnp.sum(where)
