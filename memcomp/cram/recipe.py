"""Recipes: how the memory is initialised, optimised and stopped; one table of them."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from memcomp.cram.objective import OBJECTIVES
from memcomp.errors import InputError


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides which memory a text ends with, the LM and seed aside.

    Attributes:
      learning_rate: peak step size of AdamW.
      max_steps: gradient evaluations that a text gets at the most.
      patience: a text is given up after this many evaluations without a new best
        accuracy, or longest prefix (see `objective`).
      margin: a text is done when the logit of every scored token is above that of the
        best other token by more than this; 0 is plain exactness.
      warmup_steps: steps of linear rise to the learning rate.
      schedule: "constant", or "cosine" down to `final_learning_rate` at `max_steps`.
      final_learning_rate: where the cosine ends.
      b1: decay of AdamW's first moment.
      b2: decay of AdamW's second moment.
      eps: AdamW's epsilon.
      weight_decay: AdamW's decoupled decay.
      init: how memory starts, a key of `INITS`.
      init_scale: see `INITS`.
      objective: what the gradient is of, a key of `OBJECTIVES`. It also says which memory
        is the best one: "mean" the one of the highest accuracy, "frontier" the one of the
        longest exact prefix.
    """

    learning_rate: float
    max_steps: int
    patience: int
    margin: float
    warmup_steps: int = 0
    schedule: str = "constant"
    final_learning_rate: float = 0.0
    b1: float = 0.9
    b2: float = 0.9
    eps: float = 1e-8
    weight_decay: float = 0.01
    init: str = "normal"
    init_scale: float = 1.0
    objective: str = "mean"

    def __post_init__(self):
        positive = ("learning_rate", "max_steps", "patience", "eps")
        for name in positive:
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("margin", "warmup_steps", "weight_decay", "init_scale"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        known_of = {"schedule": SCHEDULES, "init": INITS, "objective": OBJECTIVES}
        for name, known in known_of.items():
            if getattr(self, name) not in known:
                raise InputError(
                    f"{name} {getattr(self, name)!r} is not one of {', '.join(known)}"
                )


def _constant(recipe: Recipe) -> optax.Schedule:
    return optax.constant_schedule(recipe.learning_rate)


def _cosine(recipe: Recipe) -> optax.Schedule:
    steps = max(recipe.max_steps - recipe.warmup_steps, 1)
    floor = recipe.final_learning_rate / recipe.learning_rate
    return optax.cosine_decay_schedule(recipe.learning_rate, steps, floor)


SCHEDULES: dict[str, Callable[[Recipe], optax.Schedule]] = {
    "constant": _constant,
    "cosine": _cosine,
}


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """AdamW with the recipe's schedule, for the memory [M D] of one text."""
    schedule = SCHEDULES[recipe.schedule](recipe)
    if recipe.warmup_steps:
        rise = optax.linear_schedule(
            recipe.learning_rate / recipe.warmup_steps,
            recipe.learning_rate,
            recipe.warmup_steps,
        )
        schedule = optax.join_schedules([rise, schedule], [recipe.warmup_steps])
    return optax.adamw(
        schedule,
        b1=recipe.b1,
        b2=recipe.b2,
        eps=recipe.eps,
        weight_decay=recipe.weight_decay,
    )


def _normal(key, shape, embedding, scale):
    std = jnp.std(embedding.astype(jnp.float32))
    return scale * std * jax.random.normal(key, shape)


def _uniform(key, shape, embedding, scale):
    return jax.random.uniform(key, shape, maxval=scale)


# "normal": normal with `init_scale` times the standard deviation of all entries of the
# embedding matrix; "uniform": uniform between 0 and `init_scale`.
INITS = {"normal": _normal, "uniform": _uniform}


def initial_memory(
    key: Key[Array, ""], num_memory: int, embedding: Float[Array, "V D"], recipe: Recipe
) -> Float[Array, "M D"]:
    """The memory of one text before the first step, in float32."""
    shape = (num_memory, embedding.shape[1])
    return INITS[recipe.init](key, shape, embedding, recipe.init_scale)


RECIPES = {
    # The first paper's, to the letter: Kuratov et al. 2025, arXiv:2502.13063, appendix A;
    # patience from its code (reference/cramming.md, part b).
    "reference": Recipe(learning_rate=1e-2, max_steps=5000, patience=2000, margin=0.0),
    "default": Recipe(
        learning_rate=1.0,
        max_steps=1000,
        patience=1000,
        margin=0.1,
        warmup_steps=20,
        schedule="cosine",
        final_learning_rate=1e-3,
        weight_decay=0.01,
    ),
}
