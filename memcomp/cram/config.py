"""`CramConfig`: what to cram and how, as a frozen dataclass."""

import dataclasses
from typing import Any

import numpy as np

from memcomp.cram.recipe import RECIPES, Numbers, Recipe
from memcomp.data.texts import PROTOCOLS
from memcomp.errors import InputError
from memcomp.ranges import check_count, check_seed

OVERRIDES = ("learning_rate", "max_steps", "patience", "margin")
# The numbers of a recipe that programs do not depend on, each with some legal value.
TRACED: dict[str, Any] = {
    "learning_rate": 1.0,
    "final_learning_rate": 0.0,
    "max_steps": 1,
    "patience": 1,
    "margin": 0.0,
    "warmup_steps": 0,
}


@dataclasses.dataclass(frozen=True)
class CramConfig:
    """What to cram, and how.

    Attributes:
      num_tokens: each text is cut to this many tokens, one number for all or one a
        text; None for whole texts.
      num_memory: input vectors a text (M).
      recipe: a key of `RECIPES`, or a `Recipe` of your own.
      learning_rate: peak step size; None for the recipe's.
      max_steps: gradient evaluations a text at the most; None for the recipe's.
      patience: evaluations without progress; None for the recipe's.
      margin: in logits, see `Recipe`; None for the recipe's.
      protocol: "strict": all T tokens are predicted from memory. "reference": the first
        token is given and not scored.
      seed: of the initial memories; text i uses `fold_in(seed, i)`.
      batch_size: texts in flight at a time.
      steps_per_chunk: steps between two looks of the host, in one jitted call.
      vocab_chunk: rows of the vocabulary whose logits exist at a time.
      token_chunk: tokens of a text for which they do.

    Raises:
      InputError: a value out of its range.
    """

    num_tokens: int | tuple[int, ...] | None = 32
    num_memory: int = 1
    recipe: str | Recipe = "default"
    learning_rate: float | None = None
    max_steps: int | None = None
    patience: int | None = None
    margin: float | None = None
    protocol: str = "strict"
    seed: int = 0
    batch_size: int = 16
    steps_per_chunk: int = 50
    vocab_chunk: int = 8192
    token_chunk: int = 256

    def __post_init__(self):
        sizes = ("batch_size", "steps_per_chunk", "vocab_chunk", "token_chunk")
        for name in ("num_memory", *sizes):
            check_count(name, getattr(self, name))
        check_seed("seed", self.seed)
        if self.protocol not in PROTOCOLS:
            raise InputError(
                f"protocol {self.protocol!r} is not one of {', '.join(PROTOCOLS)}"
            )
        if isinstance(self.recipe, str) and self.recipe not in RECIPES:
            raise InputError(f"recipe {self.recipe!r} is not one of {', '.join(RECIPES)}")
        self.resolved_recipe()  # its own ranges are checked where it is made

    def resolved_recipe(self) -> Recipe:
        """The recipe with what this config says of its own put in."""
        recipe = RECIPES[self.recipe] if isinstance(self.recipe, str) else self.recipe
        given = {
            name: getattr(self, name)
            for name in OVERRIDES
            if getattr(self, name) is not None
        }
        return dataclasses.replace(recipe, **given)

    def numbers(self) -> Numbers:
        """What may differ between two configs that share a program."""
        recipe = self.resolved_recipe()
        traced = {name: getattr(recipe, name) for name in TRACED}
        return Numbers(np.uint32(self.seed), **traced)

    def program(self) -> "CramConfig":
        """The config with everything left out that `numbers` says; static in programs."""
        kept = ("num_memory", "protocol", "steps_per_chunk", "vocab_chunk", "token_chunk")
        recipe = dataclasses.replace(self.resolved_recipe(), **TRACED)
        return CramConfig(recipe=recipe, **{name: getattr(self, name) for name in kept})

    @property
    def num_given(self) -> int:
        """How many leading tokens are given and not scored."""
        return 1 if self.protocol == "reference" else 0
