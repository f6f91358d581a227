"""What a memory is scored by: how well the frozen LM predicts the text after it."""

from collections.abc import Callable
from typing import Any, NamedTuple

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


def exact_prefix(
    margins: Float[Array, "T"], scored: Bool[Array, "T"], margin: float
) -> Int[Array, ""]:
    """How many leading tokens are right by more than `margin`; what is given is right."""
    wrong = scored & (margins <= margin)
    given = jnp.cumsum(scored) == 0
    leading = (jnp.cumsum(wrong) == 0) & (scored | given)
    return jnp.sum(leading, dtype=jnp.int32)


class Objective(NamedTuple):
    """What an optimiser is after.

    Attributes:
      weights: of the loss of each position, given the margins less what the recipe asks
        for [T], the positions that are scored [T], and how many leading tokens are right
        or have been so far. No gradient goes through them.
      progress: of accuracy and the number of leading tokens that are right, what the best
        memory has most of.
    """

    weights: Callable[
        [Float[Array, "T"], Bool[Array, "T"], Int[Array, ""]], Float[Array, "T"]
    ]
    progress: Callable[[Float[Array, ""], Int[Array, ""]], Array]


def _alike(margins, scored, prefix):
    return scored.astype(margins.dtype)


def _frontier(margins, scored, prefix):
    within = scored & (jnp.arange(scored.shape[0]) <= prefix)
    return within * jnp.where(margins > SURE, SURE_WEIGHT, 1.0).astype(margins.dtype)


# Of tokens whose margin is above what is asked for by `SURE` logits the loss counts little:
# exactness asks for no more of them. What it brings: docs/results.md, "Horizons".
SURE = 0.2
SURE_WEIGHT = 0.02

OBJECTIVES = {
    # All tokens alike: Kuratov et al. 2025, arXiv:2502.13063, section 3.
    "mean": Objective(_alike, lambda accuracy, prefix: accuracy),
    # The leading tokens that have been right and the one after them: the target grows
    # within the loop, step by step, where Progressive Cramming, 2026, has a stage a token.
    "frontier": Objective(_frontier, lambda accuracy, prefix: prefix),
}


def mean_over(
    values: Float[Array, "T"] | Bool[Array, "T"], where: Bool[Array, "T"]
) -> Float[Array, ""]:
    """Mean of the values at the positions that count."""
    return jnp.sum(jnp.where(where, values, 0)) / jnp.sum(where)
