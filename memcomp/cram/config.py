"""`CramConfig`: what to cram and how, as a frozen dataclass."""

import dataclasses
from typing import Any

import numpy as np

from memcomp.cram.rates import Numbers
from memcomp.cram.recipe import RECIPES, Recipe
from memcomp.cram.ways.table import WAYS
from memcomp.cram.ways.way import Way
from memcomp.data.texts import PROTOCOLS
from memcomp.errors import InputError
from memcomp.lm.protocol import LanguageModel
from memcomp.lm.score import start_token
from memcomp.ranges import check_choice, check_count, check_seed

OVERRIDES = ("learning_rate", "max_steps", "patience", "margin", "ahead")
# Numbers of a recipe that are traced, so that no program depends on their values; each with
# an arbitrary legal value, which stands in the static config.
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
      num_tokens: length in tokens to which texts are cut: one number for all texts, or one
        for each; None for whole texts.
      num_memory: number of input vectors for each text (M), or of what another way of
        writing has in their place; in the way "one_step_shared", of texts in a group.
      memory: way of writing, a key of `memcomp.cram.ways.table.WAYS`.
      recipe: a key of `RECIPES`, or a `Recipe` of your own.
      learning_rate: peak learning rate, in the recipe's units; None for the recipe's.
      max_steps: largest number of gradient evaluations of a text; None for the recipe's.
      patience: evaluations without progress before a text is given up; None for the
        recipe's.
      margin: margin in logits, see `Recipe`; None for the recipe's.
      ahead: number of tokens that a growing target is ahead; None for the recipe's. Eight
        vectors of a pretrained LM have room for more than that (docs/results.md).
      protocol: "strict": all T tokens are predicted from memory. "reference": the first
        token is given and not scored.
      seed: seed of the initial memories; text i uses `fold_in(seed, i)`.
      batch_size: number of texts in flight at once.
      steps_per_chunk: steps of one jitted call, after which the host looks at the states.
      vocab_chunk: number of vocabulary entries whose logits exist at once.
      token_chunk: number of tokens of a text whose logits exist at once.
      start: token that begins a text for the LM, where the way of writing needs one; set by
        `on`.

    Raises:
      InputError: a value out of its range.
    """

    num_tokens: int | tuple[int, ...] | None = 32
    num_memory: int = 1
    memory: str = "vectors"
    recipe: str | Recipe = "default"
    learning_rate: float | None = None
    max_steps: int | None = None
    patience: int | None = None
    margin: float | None = None
    ahead: int | None = None
    protocol: str = "strict"
    seed: int = 0
    batch_size: int = 16
    steps_per_chunk: int = 50
    vocab_chunk: int = 8192
    token_chunk: int = 256
    start: int = 0

    def __post_init__(self):
        sizes = ("batch_size", "steps_per_chunk", "vocab_chunk", "token_chunk")
        for name in ("num_memory", *sizes):
            check_count(name, getattr(self, name))
        check_seed("seed", self.seed)
        check_choice("protocol", self.protocol, PROTOCOLS)
        check_choice("memory", self.memory, WAYS)
        if self.num_given and not self.way.gives_tokens:
            raise InputError(
                f"memory {self.memory!r} gives no tokens, as the protocol {self.protocol} "
                "does; set protocol to strict"
            )
        if isinstance(self.recipe, str):
            check_choice("recipe", self.recipe, RECIPES)
        recipe = self.resolved_recipe()  # making the recipe checks its own ranges
        if self.ahead is not None and not recipe.grows:
            raise InputError(
                f"ahead is {self.ahead}, but the target of this recipe does not grow; "
                "leave ahead out, or take the recipe default"
            )

    def resolved_recipe(self) -> Recipe:
        """Returns the recipe of this way, with the numbers that this config overrides."""
        recipe, given = self.recipe, {}
        if isinstance(recipe, str):
            recipe, given = RECIPES[recipe], dict(self.way.recipes.get(recipe, {}))
        given |= {
            name: getattr(self, name)
            for name in OVERRIDES
            if getattr(self, name) is not None
        }
        return dataclasses.replace(recipe, **given)

    def numbers(self) -> Numbers:
        """Returns the numbers in which two configs that share a program may differ."""
        recipe = self.resolved_recipe()
        traced = {name: getattr(recipe, name) for name in TRACED}
        return Numbers(np.uint32(self.seed), **traced)

    def program(self) -> "CramConfig":
        """Returns the static part of the config, without what `numbers` returns."""
        kept = ("num_memory", "memory", "start", "protocol", "steps_per_chunk")
        kept += ("vocab_chunk", "token_chunk")
        recipe = dataclasses.replace(self.resolved_recipe(), **TRACED)
        return CramConfig(recipe=recipe, **{name: getattr(self, name) for name in kept})

    def on(self, lm: LanguageModel) -> "CramConfig":
        """Returns the config with the start token of this LM; 0 if it has none."""
        return dataclasses.replace(self, start=start_token(lm) or 0)

    @property
    def way(self) -> Way:
        """The way of writing."""
        return WAYS[self.memory]

    @property
    def num_given(self) -> int:
        """Number of leading tokens that are given and not scored."""
        return 1 if self.protocol == "reference" else 0
