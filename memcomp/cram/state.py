"""The state of a text in flight, before its first step, and batches of such states."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from memcomp.cram.config import CramConfig
from memcomp.cram.rates import Numbers
from memcomp.cram.recipe import INITS, OF_TOKENS, optimizer, start_unit
from memcomp.errors import InputError
from memcomp.lm.protocol import CausalLM, LanguageModel, Params
from memcomp.sharding import constrain_batch, fetch, on_mesh


class CramState(NamedTuple):
    """State of one text in flight; with a leading axis B, of a batch of texts.

    Attributes:
      memory: float32 rows that the next step scores; in the way `vectors`, input vectors.
      opt_state: optimiser state of this text.
      best_memory: rows that scored `best_accuracy` and `best_loss`; they were scored
        before the update, never one update later.
      best_prefix: number of leading tokens that `best_memory` has right by more than the
        recipe's margin; with a recipe that grows, the largest number of any memory so far.
      best_accuracy: share of the scored tokens that `best_memory` has right.
      best_loss: mean loss of `best_memory` in nats per scored token; with a recipe that
        grows, the mean over its exact prefix and the token after it.
      best_margin: smallest margin in logits of a scored token, with `best_memory`; minus
        infinity if the step did not look at the whole text.
      min_loss: smallest mean loss of any step, which the reference protocol reports.
      stale: evaluations since the last new best accuracy, or prefix.
      step: evaluations so far.
      unit: usual size of the memory's numbers (`Way.unit`), a mean over them.
      scale: what the learning rate is multiplied by: 1, or `SMALLER` in a text that has
        begun again in vain.
      failed: whether a loss was not finite; `step` counts the steps before it.
      done: whether the text is finished, so that its state no longer changes.
    """

    memory: Float[Array, "*B M W"]
    opt_state: optax.OptState
    best_memory: Float[Array, "*B M W"]
    best_prefix: Int[Array, "*B"]
    best_accuracy: Float[Array, "*B"]
    best_loss: Float[Array, "*B"]
    best_margin: Float[Array, "*B"]
    min_loss: Float[Array, "*B"]
    stale: Int[Array, "*B"]
    step: Int[Array, "*B"]
    unit: Float[Array, "*B"]
    scale: Float[Array, "*B"]
    failed: Bool[Array, "*B"]
    done: Bool[Array, "*B"]


def init_state(
    seed_id: Int[Array, ""],
    tokens: Int[Array, "M"],
    params: Params,
    numbers: Numbers,
    *,
    module: CausalLM,
    cfg: CramConfig,
) -> CramState:
    """Returns the initial state of a text, a function of its id, the seed and the LM.

    With the init "tokens" it is a function of the text's first `tokens` instead.
    """
    recipe, way = cfg.resolved_recipe(), cfg.way
    unit = way.unit(params, cfg.start, module=module)
    if recipe.init == OF_TOKENS:
        memory = way.of_tokens(params, tokens, module=module)
        memory = memory.astype(jnp.promote_types(memory.dtype, jnp.float32))
    else:
        key = jax.random.fold_in(jax.random.key(numbers.seed), seed_id)
        shape = way.rows(cfg.num_memory), way.width(module)
        begun = start_unit(recipe, unit, numbers.learning_rate)
        memory = INITS[recipe.init](key, shape, begun, recipe.init_scale)
    return CramState(
        memory=memory,
        opt_state=optimizer(recipe).init(memory),
        best_memory=memory,
        best_prefix=jnp.full((), -1, jnp.int32),
        best_accuracy=jnp.full((), -1.0, memory.dtype),
        best_loss=jnp.full((), jnp.inf, memory.dtype),
        best_margin=jnp.full((), -jnp.inf, memory.dtype),
        min_loss=jnp.full((), jnp.inf, memory.dtype),
        stale=jnp.zeros((), jnp.int32),
        step=jnp.zeros((), jnp.int32),
        unit=jnp.mean(unit),
        scale=jnp.ones((), memory.dtype),
        failed=jnp.zeros((), bool),
        done=jnp.zeros((), bool),
    )


def init_states(
    seed_ids: Int[Array, "B"] | Int[np.ndarray, "B"],
    params: Params,
    *,
    module: CausalLM,
    cfg: CramConfig,
    tokens: Int[np.ndarray, "B M"] | Int[Array, "B M"] | None = None,
) -> CramState:
    """Returns the states of a batch of texts before their first step.

    `tokens` are the first M tokens of each text (`first_tokens`), for recipes whose init is
    "tokens".
    """
    if tokens is None:
        assert cfg.resolved_recipe().init != OF_TOKENS
        tokens = np.zeros((len(seed_ids), cfg.num_memory), np.int32)
    static = {"module": module, "cfg": cfg.program()}
    return _init_states(seed_ids, tokens, params, cfg.numbers(), **static)


def first_tokens(
    texts: Sequence[Int[np.ndarray, "_"]], cfg: CramConfig
) -> Int[np.ndarray, "B M"]:
    """The first M tokens of each text; shorter ones are filled up with the start token."""
    first = np.full((len(texts), cfg.num_memory), cfg.start, np.int32)
    for row, text in zip(first, texts, strict=True):
        row[: len(text)] = text[: cfg.num_memory]
    return first


@functools.partial(jax.jit, static_argnames=("module", "cfg"))
def _init_states(seed_ids, tokens, params, numbers, *, module, cfg):
    init = functools.partial(init_state, module=module, cfg=cfg)
    batched = jax.vmap(init, in_axes=(0, 0, None, None))
    return constrain_batch(batched(seed_ids, tokens, params, numbers))


def states_from(
    lm: LanguageModel, memories: Sequence[Float[np.ndarray, "_ _"]], cfg: CramConfig
) -> list[CramState]:
    """Returns the state of each text before its first step, on the host.

    Args:
      lm: the frozen language model.
      memories: initial memory [M W] of each text.
      cfg: what to cram and how.

    Raises:
      InputError: a memory has another shape than that of the config's way of writing, or
        has values that are not finite.
    """
    wanted = cfg.way.rows(cfg.num_memory), cfg.way.width(lm.module)
    for i, memory in enumerate(memories):
        if np.shape(memory) != wanted or not np.isfinite(memory).all():
            raise InputError(
                f"the start of text {i} is {np.shape(memory)}, or not finite; give finite "
                f"numbers of shape {wanted}, as memory {cfg.memory!r} has for this LM"
            )
    init = functools.partial(init_state, module=lm.module, cfg=cfg.program())
    with on_mesh(lm.mesh):
        tokens = np.zeros(cfg.num_memory, np.int32)
        fresh = fetch(jax.jit(init)(np.int32(0), tokens, lm.params, cfg.numbers()))
    init_optimizer = jax.jit(optimizer(cfg.resolved_recipe()).init)

    def state(memory) -> CramState:
        memory = np.asarray(memory, fresh.memory.dtype)
        opt_state = fetch(init_optimizer(memory))
        return fresh._replace(memory=memory, best_memory=memory, opt_state=opt_state)

    return [state(memory) for memory in memories]


@functools.partial(jax.jit, donate_argnums=0)
def put_states(states: CramState, new: CramState, mask: Bool[Array, "B"]) -> CramState:
    """Returns `states` with the batch slots where `mask` is True taken from `new`."""

    def choose(old, fresh):
        return jnp.where(mask.reshape(-1, *[1] * (old.ndim - 1)), fresh, old)

    return constrain_batch(jax.tree.map(choose, states, new))


@jax.jit
def take_states(states: CramState, index: Int[Array, "N"]) -> CramState:
    """Returns the states of the batch slots `index`."""
    return constrain_batch(jax.tree.map(lambda leaf: leaf[index], states))
