"""Objective of cramming: how well the frozen LM predicts the text after a memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from memcomp.nn.cross_entropy import TokenScores


def scored_positions(
    length: Int[Array, ""], num_tokens: int, num_given: int
) -> Bool[Array, "T"]:
    """Mask of the tokens that are scored: those that are neither padding nor given."""
    index = jnp.arange(num_tokens)
    return (index >= num_given) & (index < length)


def exact_prefix(
    margins: Float[Array, "T"], scored: Bool[Array, "T"], margin: float | Float[Array, ""]
) -> Int[Array, ""]:
    """Number of leading tokens that are right by more than `margin`; given tokens count."""
    wrong = scored & ~(margins > margin)  # a token whose margin is NaN is wrong
    given = jnp.cumsum(scored) == 0
    leading = (jnp.cumsum(wrong) == 0) & (scored | given)
    return jnp.sum(leading, dtype=jnp.int32)


# An asked margin is the margin minus the recipe's `margin`; above 0, the token is right by
# as much as the recipe asks for.
SURE = 0.2  # asked margin in logits above which a token is surely right
FRESH = 20  # number of steps after progress in which more progress is likely
HARD = 2  # times the steps a token of an easy text after which a text is hard


def _cross_entropy(loss, asked):
    return loss


def _margin(loss, asked):
    return jax.nn.softplus(1 - asked)


# Loss of each position, given cross-entropies and asked margins [T]. "cross_entropy":
# Kuratov et al. 2025, arXiv:2502.13063, section 3. "margin": the logistic loss of the lead
# over the best other token, because greedy decoding depends on this lead alone.
LOSSES: dict[str, Callable[[Float[Array, "T"], Float[Array, "T"]], Float[Array, "T"]]] = {
    "cross_entropy": _cross_entropy,
    "margin": _margin,
}
# Losses that read the asked margins alone: the cross-entropy then needs no gradient.
OF_MARGINS = frozenset({"margin"})


def hardness(
    easy: float, step: Int[Array, ""], prefix: Int[Array, ""]
) -> float | Float[Array, ""]:
    """0 while a text is easy to write, 1 when it is hard, and a number between on the way.

    A memory has room at first. All tokens can then be made likely, and a text is written
    sooner if they are. Later, its room has to be kept for the tokens that are not right
    yet. How many tokens there is room for depends on the text and the LM. The number of
    steps that a token takes tells how much of it is left.

    Args:
      easy: of the recipe, steps a token up to which a text is easy; it is hard from `HARD`
        times as many on. 0: every text is hard.
      step: number of steps taken.
      prefix: number of leading tokens that have been right so far; -1 before the first
        step.
    """
    if not easy:
        return 1.0
    steps_a_token = step / jnp.maximum(prefix + 1, 1)
    return jnp.clip((steps_a_token / easy - 1) / (HARD - 1), 0, 1)


def blended_loss(
    loss: str,
    hard: float | Float[Array, ""],
    cross_entropy: Float[Array, "T"],
    asked: Float[Array, "T"],
) -> Float[Array, "T"]:
    """Loss of each position: cross-entropy of easy texts, and the recipe's of hard ones.

    Args:
      loss: of the recipe, a key of `LOSSES`.
      hard: see `hardness`.
      cross_entropy: of each position, in nats.
      asked: asked margins.
    """
    blend = hard * LOSSES[loss](cross_entropy, asked) + (1 - hard) * cross_entropy
    return blend.astype(cross_entropy.dtype)


SHORT = 8  # tokens up to which padding costs less than another program to compile
FURTHER = 4  # tokens after the target that a step computes too, soon after progress


def looked_at(
    length: Int[Array, "*B"] | Int[np.ndarray, "*B"],
    prefix: Int[Array, "*B"] | Int[np.ndarray, "*B"],
    stale: int | Int[Array, "*B"] | Int[np.ndarray, "*B"],
    ahead: int,
) -> Any:
    """How many leading tokens of a text a step computes, with a recipe that grows.

    The loss covers the tokens up to the first that has never been right and, in the `FRESH`
    steps after progress, `ahead` more. Further tokens are computed too, so that the prefix
    can grow by several tokens at once: `FURTHER` in these steps, when that is likely, and
    one in later steps. It is a function of the text's own state, so that a result depends
    neither on the padding nor on the other texts of the batch.

    Args:
      length: tokens of the text.
      prefix: leading tokens that have been right so far; -1 before the first step.
      stale: steps since the last progress.
      ahead: of the recipe.
    """
    xp: Any = jnp if isinstance(prefix, jax.Array) else np
    wanted = prefix + 1 + xp.where(stale < FRESH, ahead + FURTHER, 1)
    return xp.clip(wanted, SHORT, length)


def token_weights(
    asked: Float[Array, "T"],
    scored: Bool[Array, "T"],
    prefix: Int[Array, ""],
    stale: Int[Array, ""],
    *,
    grows: bool,
    ahead: int,
    sure_weight: float | Float[Array, ""],
) -> Float[Array, "T"]:
    """Weight of the loss of each position; no gradient flows through the weights.

    Args:
      asked: asked margins.
      scored: mask of the scored positions.
      prefix: number of leading tokens that are right, or were right at an earlier step.
      stale: number of steps since the last progress.
      grows: whether the tokens after the first that has never been right get no weight.
        Progressive Cramming, 2026, arXiv:2607.21231, whose stages of one token are steps
        here.
      ahead: number of further tokens that get a weight in the `FRESH` steps after progress.
      sure_weight: weight of tokens that are right by `SURE` more than asked for, and need
        no further training to be exact.
    """
    if grows:
        last = prefix + jnp.where(stale < FRESH, ahead, 0)
        scored = scored & (jnp.arange(scored.shape[0]) <= last)
    return scored * jnp.where(asked > SURE, sure_weight, 1.0).astype(asked.dtype)


def mean_over(
    values: Float[Array, "T"] | Bool[Array, "T"], where: Bool[Array, "T"]
) -> Float[Array, ""]:
    """Mean of the values at the positions where the mask `where` is True."""
    return jnp.sum(jnp.where(where, values, 0)) / jnp.sum(where)


def mean_scores(
    scores: TokenScores, scored: Bool[Array, "T"]
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """Mean loss in nats, accuracy and smallest margin in logits of the scored tokens."""
    return (
        mean_over(scores.loss, scored),
        mean_over(scores.margin > 0, scored),
        jnp.min(jnp.where(scored, scores.margin, jnp.inf)),
    )
