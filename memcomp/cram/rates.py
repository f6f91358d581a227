"""What changes from step to step: the learning rate, and when memory begins again."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32


class Numbers(NamedTuple):
    """Numbers of a `CramConfig` that are traced, so that programs do not depend on them.

    Attributes:
      seed: seed of the initial memories.
      learning_rate, final_learning_rate, max_steps, patience, margin, warmup_steps: as in
        `Recipe`.
    """

    seed: np.uint32 | UInt32[Array, ""]
    learning_rate: float | Array
    final_learning_rate: float | Array
    max_steps: int | Array
    patience: int | Array
    margin: float | Array
    warmup_steps: int | Array


def _constant(numbers: Numbers, step: Array, stale: Array) -> Array:
    return jnp.zeros(())


def _cosine(numbers: Numbers, step: Array, stale: Array) -> Array:
    steps = jnp.maximum(numbers.max_steps - numbers.warmup_steps, 1)
    return (step - numbers.warmup_steps) / steps


def _restarts(numbers: Numbers, step: Array, stale: Array) -> Array:
    return stale / numbers.patience


# Position of the learning rate on a half cosine from 0, the peak, to 1, the floor, given
# the steps taken and the steps since the last progress. "cosine" reaches 1 at `max_steps`.
# "restarts" reaches 1 after `patience` steps without progress and returns to 0 with each
# progress: warm restarts as in Loshchilov and Hutter 2017, arXiv:1608.03983, except that
# theirs come at fixed steps.
SCHEDULES: dict[str, Callable[[Numbers, Array, Array], Array]] = {
    "constant": _constant,
    "cosine": _cosine,
    "restarts": _restarts,
}


def learning_rate(
    schedule: str, numbers: Numbers, step: Int[Array, ""], stale: Int[Array, ""]
) -> Float[Array, ""]:
    """Learning rate of the next step.

    Args:
      schedule: a key of `SCHEDULES`.
      numbers: peak and floor of the schedule, and the steps that it takes.
      step: number of steps taken.
      stale: steps since the last progress.
    """
    down = jnp.clip(SCHEDULES[schedule](numbers, step, stale), 0, 1)
    peak, floor = numbers.learning_rate, numbers.final_learning_rate
    rate = floor + (peak - floor) * (1 + jnp.cos(jnp.pi * down)) / 2
    return rate * jnp.minimum((step + 1) / jnp.maximum(numbers.warmup_steps, 1), 1)


SHORTEST = 10  # tokens; a shorter prefix is not stuck earlier than one of this length
TRIES = 2  # times that a stuck text begins again before it is given up
SMALLER = 0.04  # learning rate at the last try and after it, as a share of the recipe's


def stuck_at(
    stuck_after: int,
    patience: int | Array,
    prefix: Int[Array, "*B"] | Int[np.ndarray, "*B"],
) -> Any:
    """Steps without progress at which a text is stuck, and its memory begins again.

    Large steps make the memory large, so that later ones turn it less and less. A text may
    then stay at a short prefix from which no small step leads on, although almost every
    start leads further. So it gets another start: its memory points elsewhere, and has the
    size of the first one. If it is stuck there as well, it begins at its best memory, which
    is made small, and goes on with small steps (`SMALLER`): some LMs hold more that way.

    To come back to the prefix takes about as many steps as it took before, so that this is
    only done where they are fewer than those of waiting on: a prefix that would have to
    wait for `patience` steps or more is never stuck.

    Args:
      stuck_after: of the recipe, steps for each token of the prefix; 0 for never.
      patience: of the recipe; a text is given up after as many from its last beginning.
      prefix: number of leading tokens that have been right so far.

    Returns:
      The number of steps [*B], on the device or on the host as `prefix` is; 0 for never.
    """
    xp: Any = jnp if isinstance(prefix, jax.Array) else np
    at = stuck_after * xp.maximum(prefix + 1, SHORTEST)
    return xp.where(at < patience, at, 0)


def begun_again(stuck: Int[Array, "*B"], stale: Int[Array, "*B"]) -> Int[Array, "*B"]:
    """How many times a text has begun again since its last progress, up to `TRIES`.

    Args:
      stuck: what `stuck_at` returns; the text begins again whenever so many steps are over.
      stale: steps since the last progress.
    """
    return jnp.where(stuck > 0, jnp.minimum(stale // jnp.maximum(stuck, 1), TRIES), 0)
