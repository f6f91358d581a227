"""What a memory is scored by: how well the frozen LM predicts the text after it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def scored_positions(
    length: Int[Array, ""], num_tokens: int, num_given: int
) -> Bool[Array, "T"]:
    """True for the tokens that count: not padding, and not given."""
    index = jnp.arange(num_tokens)
    return (index >= num_given) & (index < length)


def exact_prefix(
    margins: Float[Array, "T"], scored: Bool[Array, "T"], margin: float | Float[Array, ""]
) -> Int[Array, ""]:
    """How many leading tokens are right by more than `margin`; what is given is right."""
    wrong = scored & ~(margins > margin)  # a margin that is not a number is wrong
    given = jnp.cumsum(scored) == 0
    leading = (jnp.cumsum(wrong) == 0) & (scored | given)
    return jnp.sum(leading, dtype=jnp.int32)


# Asked margins are margins less what the recipe asks for: above 0 is good enough.
SURE = 0.2  # an asked margin from which a token is surely right, in logits
FRESH = 20  # steps after progress in which it is likely that there is more soon


def _cross_entropy(loss, asked):
    return loss


def _margin(loss, asked):
    return jax.nn.softplus(1 - asked)


# Loss of each position, given cross-entropies and asked margins [T]. "cross_entropy":
# Kuratov et al. 2025, arXiv:2502.13063, section 3. "margin": the logistic loss of the lead
# over the best other token, which is all that greedy decoding looks at.
LOSSES: dict[str, Callable[[Float[Array, "T"], Float[Array, "T"]], Float[Array, "T"]]] = {
    "cross_entropy": _cross_entropy,
    "margin": _margin,
}


def token_weights(
    asked: Float[Array, "T"],
    scored: Bool[Array, "T"],
    prefix: Int[Array, ""],
    stale: Int[Array, ""],
    *,
    grows: bool,
    ahead: int,
    sure_weight: float,
) -> Float[Array, "T"]:
    """Weight of the loss of each position; no gradient goes through them.

    Args:
      asked: margins.
      scored: positions that count.
      prefix: leading tokens that are right, or have been so far.
      stale: steps since progress.
      grows: whether only the tokens up to the first that has never been right weigh
        anything. Progressive Cramming, 2026, arXiv:2607.21231, whose stages of one token
        are steps here.
      ahead: tokens more than that, in the `FRESH` steps after progress.
      sure_weight: of tokens that are right by `SURE` more than asked for, of which
        exactness wants nothing more.
    """
    if grows:
        last = prefix + jnp.where(stale < FRESH, ahead, 0)
        scored = scored & (jnp.arange(scored.shape[0]) <= last)
    return scored * jnp.where(asked > SURE, sure_weight, 1.0).astype(asked.dtype)


def mean_over(
    values: Float[Array, "T"] | Bool[Array, "T"], where: Bool[Array, "T"]
) -> Float[Array, ""]:
    """Mean of the values at the positions that count."""
    return jnp.sum(jnp.where(where, values, 0)) / jnp.sum(where)
