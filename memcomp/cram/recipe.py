"""Recipes: how the memory is initialised, optimised and stopped; one table of them."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from memcomp.cram.objective import LOSSES, OF_MARGINS
from memcomp.cram.optimizers import scale_by_ggt
from memcomp.cram.parametrisation import PARAMETRISATIONS
from memcomp.cram.rates import SCHEDULES
from memcomp.errors import InputError
from memcomp.ranges import check_choice, check_count, check_number

COUNTS = ("max_steps", "patience", "window", "rank", "warmup_steps", "ahead")
COUNTS += ("stuck_after",)
POSITIVE = ("learning_rate", "max_steps", "patience", "eps", "window", "rank")
POSITIVE += ("sure_weight",)
NOT_NEGATIVE = ("margin", "weight_decay", "power", "init_scale", "final_learning_rate")
NOT_NEGATIVE += ("easy",)
DECAYS = ("b1", "b2")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that determines the memory of a text, apart from the LM and the seed.

    Attributes:
      learning_rate: peak learning rate.
      unit_rate: whether learning rates are in units of the usual size of the memory's
        numbers (`Way.unit`), as the scale of the init "normal" is; they are absolute
        otherwise.
      max_steps: largest number of gradient evaluations of a text; in a horizon, of each
        target, or of all targets together if the recipe `grows`.
      patience: a text is given up after this many evaluations without a new best
        accuracy, or longest prefix (see `grows`).
      margin: a text is done when the logit of every scored token is above that of the
        best other token by more than this; 0 is plain exactness.
      warmup_steps: number of steps in which the learning rate rises linearly to its peak.
      schedule: learning rate schedule after that, a key of `SCHEDULES`.
      final_learning_rate: learning rate at the end of a cosine.
      optimizer: optimiser of the memory, a key of `OPTIMIZERS`.
      b1: decay rate of its running mean of gradients.
      b2: decay rate of the second moments; in "ggt", of the gradients in their matrix.
      eps: AdamW's epsilon, or that of `scale_by_ggt`.
      window: number of gradients that "ggt" keeps.
      power: exponent of "ggt", see `scale_by_ggt`.
      weight_decay: decoupled weight decay, as in AdamW, with every optimiser.
      init: initialisation of the memory, a key of `INITS`, or "tokens" for the memory
        that stands for the first tokens of the text.
      init_scale: scale of the initialisation, see `INITS`.
      loss: loss of each token, a key of `LOSSES`.
      grows: whether the target starts with one token and grows by one whenever all of it
        is right. Progress is then a longer exact prefix, and the best memory has the
        longest; otherwise both go by accuracy.
      ahead: number of further tokens in a target that has just grown, see `token_weights`.
      sure_weight: weight of the loss of tokens that are surely right, see `token_weights`.
      easy: steps a token up to which a text is easy, see `hardness`. An easy text is
        written with the cross-entropy, in which sure tokens weigh as much as others. 0:
        `loss` and `sure_weight` hold from the first step on.
      stuck_after: steps without progress, for each token of the longest prefix, after
        which a text begins again, and then once more, see `stuck_at`; 0 for never.
      parametrisation: what the optimiser updates, a key of `PARAMETRISATIONS`.
      rank: number of coordinates of each memory vector in "low_dim".
    """

    learning_rate: float
    max_steps: int
    patience: int
    margin: float
    unit_rate: bool = False
    warmup_steps: int = 0
    schedule: str = "constant"
    final_learning_rate: float = 0.0
    optimizer: str = "adamw"
    b1: float = 0.9
    b2: float = 0.9
    eps: float = 1e-8
    window: int = 24
    power: float = 0.75
    weight_decay: float = 0.01
    init: str = "normal"
    init_scale: float = 1.0
    loss: str = "cross_entropy"
    grows: bool = False
    ahead: int = 0
    sure_weight: float = 1.0
    easy: float = 0.0
    stuck_after: int = 0
    parametrisation: str = "direct"
    rank: int = 256

    def __post_init__(self):
        for name in POSITIVE:
            check_number(name, getattr(self, name), above=0)
        for name in COUNTS:
            check_count(name, getattr(self, name), least=0)
        for name in (*NOT_NEGATIVE, *DECAYS):
            check_number(name, getattr(self, name))
        for name in DECAYS:
            if getattr(self, name) > 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be 1 or less")
        known_of = {
            "schedule": SCHEDULES,
            "optimizer": OPTIMIZERS,
            "init": (*INITS, OF_TOKENS),
            "loss": LOSSES,
            "parametrisation": PARAMETRISATIONS,
        }
        for name, known in known_of.items():
            check_choice(name, getattr(self, name), known)
        if self.optimizer == "ggt" and not 0 <= self.b1 < self.b2 <= 1:
            raise InputError(
                f"b1 is {self.b1} and b2 {self.b2}; ggt wants 0 <= b1 < b2 <= 1"
            )
        if self.stuck_after and self.parametrisation != "direct":
            raise InputError(
                f"stuck_after is {self.stuck_after}, but a memory that is parametrised as "
                f"{self.parametrisation} cannot begin again; set stuck_after to 0"
            )

    @property
    def reads_likelihoods(self) -> bool:
        """Whether its gradient needs that of the cross-entropy, or of margins alone."""
        return self.easy > 0 or self.loss not in OF_MARGINS


def _adam(recipe: Recipe) -> optax.GradientTransformation:
    return optax.scale_by_adam(recipe.b1, recipe.b2, recipe.eps)


def _ggt(recipe: Recipe) -> optax.GradientTransformation:
    return scale_by_ggt(recipe.b1, recipe.b2, recipe.eps, recipe.window, recipe.power)


# "adamw": Loshchilov and Hutter 2019, arXiv:1711.05101; `optimizer` adds its weight decay
# and learning rate. "ggt": see `scale_by_ggt`.
OPTIMIZERS = {"adamw": _adam, "ggt": _ggt}


def optimizer(recipe: Recipe) -> optax.GradientTransformationExtraArgs:
    """Optimiser of one text's memory [M D]; its `update` also takes `learning_rate`."""

    def scaled(updates, state, params=None, **extra_args):
        rate = extra_args["learning_rate"]
        return jax.tree.map(lambda u: -rate * u, updates), state

    none = optax.init_empty_state
    chain = optax.chain(
        OPTIMIZERS[recipe.optimizer](recipe),
        optax.add_decayed_weights(recipe.weight_decay),
        optax.GradientTransformationExtraArgs(none, scaled),
    )
    return PARAMETRISATIONS[recipe.parametrisation](chain, recipe.rank)


def start_unit(
    recipe: Recipe, unit: Float[Array, "*W"], learning_rate: float | Float[Array, ""]
) -> Float[Array, "*W"]:
    """Returns what `init_scale` multiplies: `unit`, or what a step moves a number by.

    Args:
      recipe: the recipe; with its init "steps", a step at the peak of the learning rate.
      unit: usual size of the memory's numbers (`Way.unit`), or a mean over them.
      learning_rate: peak learning rate, which may be traced; that of the recipe is ignored.
    """
    if recipe.init != "steps":
        return unit
    return learning_rate * (unit if recipe.unit_rate else jnp.ones_like(unit))


def _normal(key, shape, unit, scale):
    return jnp.broadcast_to(scale * unit, shape) * jax.random.normal(key, shape)


def _fixed_normal(key, shape, unit, scale):
    return scale * jax.random.normal(key, shape)


def _uniform(key, shape, unit, scale):
    return jax.random.uniform(key, shape, maxval=scale)


# "normal": normal with `init_scale` times the standard deviation that such numbers usually
# have, for input vectors that of all entries of the embedding matrix; "steps": normal with
# `init_scale` times what a step moves a number by, see `start_unit`; "fixed_normal": normal
# with standard deviation `init_scale`; "uniform": uniform between 0 and `init_scale`.
INITS = {
    "normal": _normal,
    "steps": _normal,
    "fixed_normal": _fixed_normal,
    "uniform": _uniform,
}
OF_TOKENS = "tokens"  # the init that is no function of a key: what the first tokens leave


_PROGRESSIVE = Recipe(
    learning_rate=0.1,
    max_steps=10_000,
    patience=1000,
    margin=0.0,
    warmup_steps=100,
    schedule="cosine",
    final_learning_rate=1e-3,
    init="uniform",
    init_scale=0.02,
    grows=True,
)

RECIPES = {
    # Exactly that of the first paper: Kuratov et al. 2025, arXiv:2502.13063, appendix A;
    # the paper does not give the patience, which is from its public code.
    "reference": Recipe(learning_rate=1e-2, max_steps=5000, patience=2000, margin=0.0),
    # That of the follow-up, arXiv:2607.21231, whose learning rate is 0.1 for all LMs except
    # Pythia, 0.5.
    "progressive": _PROGRESSIVE,
    "low_dim": dataclasses.replace(_PROGRESSIVE, parametrisation="low_dim"),
    # Ours, see docs/recipes.md. For exact reproduction of whole texts:
    "default": Recipe(
        learning_rate=125.0,
        unit_rate=True,
        max_steps=10_000,
        patience=200,
        margin=0.1,
        schedule="restarts",
        final_learning_rate=1e-3,
        optimizer="ggt",
        b1=0.7,
        eps=0.01,
        weight_decay=0.0,
        init="steps",
        init_scale=8.0,
        loss="margin",
        grows=True,
        ahead=4,
        sure_weight=0.02,
        easy=4.0,
        stuck_after=4,
    ),
    # For the smallest cross-entropy of the whole text, exact or not.
    "full": Recipe(
        learning_rate=1.0,
        max_steps=1000,
        patience=1000,
        margin=0.1,
        warmup_steps=20,
        schedule="cosine",
        final_learning_rate=1e-3,
    ),
}
