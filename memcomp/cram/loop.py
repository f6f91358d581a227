"""The cramming loop on the device: measure, keep what scored best, step.

Everything is written for one text; `vmap` adds the batch and `scan` a chunk of steps.
Traced inside `jax.set_mesh`, states lie where their texts do.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from memcomp.cram.config import CramConfig
from memcomp.cram.objective import (
    LOSSES,
    exact_prefix,
    mean_over,
    scored_positions,
    token_weights,
)
from memcomp.cram.recipe import Numbers, initial_memory, learning_rate, optimizer
from memcomp.lm.protocol import CausalLM, Params, embed
from memcomp.lm.score import memory_scores
from memcomp.sharding import BATCH, constrain_batch


class CramState(NamedTuple):
    """One text in flight; with a leading axis B, a batch of them.

    Attributes:
      memory: the vectors that are measured next, float32.
      opt_state: of the optimiser, for this text alone.
      best_memory: the vectors that scored `best_accuracy` and `best_loss`; measured
        before the update, never one update later.
      best_prefix: leading tokens that `best_memory` has right by more than the recipe's
        margin; with a recipe that grows, the most that any memory so far had.
      best_accuracy: share of the scored tokens that were right.
      best_loss: mean nats a scored token, of `best_memory`.
      best_margin: smallest margin in logits of a scored token, of `best_memory`.
      min_loss: smallest mean loss of any step, which the reference protocol reports.
      stale: evaluations since the last new best accuracy, or prefix.
      step: evaluations so far.
      failed: the loss of the next step is not finite; `step` counts the steps before it.
      done: nothing of this text changes any more.
    """

    memory: Float[Array, "*B M D"]
    opt_state: optax.OptState
    best_memory: Float[Array, "*B M D"]
    best_prefix: Int[Array, "*B"]
    best_accuracy: Float[Array, "*B"]
    best_loss: Float[Array, "*B"]
    best_margin: Float[Array, "*B"]
    min_loss: Float[Array, "*B"]
    stale: Int[Array, "*B"]
    step: Int[Array, "*B"]
    failed: Bool[Array, "*B"]
    done: Bool[Array, "*B"]


def init_state(
    text_id: Int[Array, ""],
    params: Params,
    numbers: Numbers,
    *,
    module: CausalLM,
    cfg: CramConfig,
) -> CramState:
    """The state of a text before its first step; a function of seed and text alone."""
    recipe = cfg.resolved_recipe()
    key = jax.random.fold_in(jax.random.key(numbers.seed), text_id)
    # The scale of what the first layer sees, which in some families is not the table.
    every = jnp.arange(module.config.vocab_size)
    embedding = embed(params, every[None], module=module)[0]
    memory = initial_memory(key, cfg.num_memory, embedding, recipe)
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
        failed=jnp.zeros((), bool),
        done=jnp.zeros((), bool),
    )


def cram_step(
    state: CramState,
    tokens: Int[Array, "T"],
    length: Int[Array, ""],
    params: Params,
    numbers: Numbers,
    *,
    module: CausalLM,
    cfg: CramConfig,
) -> tuple[CramState, dict[str, Array]]:
    """One update of one text; a finished text comes back unchanged.

    A text whose loss is not finite is finished, and keeps what it had before that step.

    What is kept is the vector that scored, taken before the update. (The authors keep the
    vector one update later.)

    Args:
      state: the text's state.
      tokens: the text, padded on the right to the length of its bucket.
      length: how many of `tokens` are text.
      params: of the LM.
      numbers: of the config; what `cfg` has in their place is not looked at.
      module: the LM's Flax module.
      cfg: what to cram and how.

    Returns:
      The new state, and of the old one: `loss`, the mean in nats a token, `accuracy`, and
      `right`, which of the T positions are right, padding included.
    """
    recipe = cfg.resolved_recipe()
    scored = scored_positions(length, tokens.shape[0], cfg.num_given)

    chunks = {"vocab_chunk": cfg.vocab_chunk, "token_chunk": cfg.token_chunk}

    def loss_of(memory):
        scores = memory_scores(memory, tokens, params, module=module, **chunks)
        asked = scores.margin - numbers.margin
        prefix = exact_prefix(scores.margin, scored, numbers.margin)
        reached = jnp.maximum(prefix, state.best_prefix)
        weights = token_weights(
            asked,
            scored,
            reached,
            state.stale,
            grows=recipe.grows,
            ahead=recipe.ahead,
            sure_weight=recipe.sure_weight,
        )
        weights = jax.lax.stop_gradient(weights)
        losses = LOSSES[recipe.loss](scores.loss, asked)
        return jnp.sum(weights * losses) / jnp.sum(weights), (scores, prefix)

    (_, (scores, prefix)), grad = jax.value_and_grad(loss_of, has_aux=True)(state.memory)
    loss, right = mean_over(scores.loss, scored), scores.margin > 0
    accuracy = mean_over(right, scored)
    margin = jnp.min(jnp.where(scored, scores.margin, jnp.inf))
    solved, exact = margin > numbers.margin, margin > 0

    progress = prefix if recipe.grows else accuracy
    best = state.best_prefix if recipe.grows else state.best_accuracy
    higher = progress > best
    lower = (progress == best) & (loss < state.best_loss)
    # Nothing that is not exact takes the place of a memory that is, however much longer the
    # prefix is that it has right by more than the margin.
    was_exact = state.best_margin > 0
    keep = solved | (exact & ~was_exact) | ((exact | ~was_exact) & (higher | lower))
    longest = jnp.where(keep, prefix, state.best_prefix)
    if recipe.grows:  # and nothing that has been right once is looked at as new
        longest = jnp.maximum(prefix, state.best_prefix)
    stale = jnp.where(higher, 0, state.stale + 1)
    step = state.step + 1
    updates, opt_state = optimizer(recipe).update(
        grad,
        state.opt_state,
        state.memory,
        learning_rate=learning_rate(recipe.schedule, numbers, state.step, stale),
    )
    memory: Any = optax.apply_updates(state.memory, updates)
    new = CramState(
        memory=memory,
        opt_state=opt_state,
        best_memory=jnp.where(keep, state.memory, state.best_memory),
        best_prefix=longest,
        best_accuracy=jnp.where(keep, accuracy, state.best_accuracy),
        best_loss=jnp.where(keep, loss, state.best_loss),
        best_margin=jnp.where(keep, margin, state.best_margin),
        min_loss=jnp.minimum(loss, state.min_loss),
        stale=stale,
        step=step,
        failed=state.failed,
        done=solved | (stale >= numbers.patience) | (step >= numbers.max_steps),
    )
    failed = ~jnp.isfinite(loss) & ~state.done
    new = jax.tree.map(lambda n, o: jnp.where(state.done | failed, o, n), new, state)
    new = new._replace(failed=state.failed | failed, done=new.done | failed)
    return new, {"loss": loss, "accuracy": accuracy, "right": right}


def init_states(
    text_ids: Int[Array, "B"] | Int[np.ndarray, "B"],
    params: Params,
    *,
    module: CausalLM,
    cfg: CramConfig,
) -> CramState:
    """`init_state` of a batch."""
    static = {"module": module, "cfg": cfg.program()}
    return _init_states(text_ids, params, cfg.numbers(), **static)


def cram_chunk(
    states: CramState,
    tokens: Int[Array, "B T"] | Int[np.ndarray, "B T"],
    lengths: Int[Array, "B"] | Int[np.ndarray, "B"],
    params: Params,
    *,
    module: CausalLM,
    cfg: CramConfig,
) -> tuple[CramState, dict[str, Array]]:
    """`cfg.steps_per_chunk` updates of every text of a batch.

    Chunks, not one long loop: between two of them the host logs, saves, and puts waiting
    texts in the place of finished ones. `params` is an argument, so that it keeps its
    sharding; a closure would make it a constant. Configs that differ in their `numbers`
    alone share the program.

    Returns:
      The new states, which take the place of `states`; and `loss` and `accuracy`
      [steps B] of every step, `first_right` [B T]: the step at which each position was
      first right, the number of steps where it never was.
    """
    static = {"module": module, "cfg": cfg.program()}
    return _cram_chunk(states, tokens, lengths, params, cfg.numbers(), **static)


def lower_cram_chunk(
    states: CramState,
    tokens: Any,
    lengths: Any,
    params: Params,
    *,
    module: CausalLM,
    cfg: CramConfig,
) -> jax.stages.Lowered:
    """The program of `cram_chunk` for arguments of these shapes, not yet compiled.

    What it compiles to is called with `states, tokens, lengths, params, cfg.numbers()`.
    """
    static = {"module": module, "cfg": cfg.program()}
    return _cram_chunk.lower(states, tokens, lengths, params, cfg.numbers(), **static)


@functools.partial(jax.jit, static_argnames=("module", "cfg"))
def _init_states(text_ids, params, numbers, *, module, cfg):
    init = functools.partial(init_state, module=module, cfg=cfg)
    batched = jax.vmap(init, in_axes=(0, None, None))
    return constrain_batch(batched(text_ids, params, numbers))


@functools.partial(jax.jit, static_argnames=("module", "cfg"), donate_argnums=0)
def _cram_chunk(states, tokens, lengths, params, numbers, *, module, cfg):
    step = functools.partial(cram_step, module=module, cfg=cfg)
    # On a mesh each device has whole texts: see `memory_scores`.
    axes = (0, 0, 0, None, None)
    batched = jax.vmap(step, in_axes=axes, spmd_axis_name=BATCH)

    def one(carry, _):
        carry, curves = batched(carry, tokens, lengths, params, numbers)
        return constrain_batch(carry), curves

    states, curves = jax.lax.scan(one, states, length=cfg.steps_per_chunk)
    right = curves.pop("right")
    never = jnp.ones((1, *right.shape[1:]), bool)
    return states, curves | {"first_right": jnp.argmax(jnp.concatenate([right, never]), 0)}


@functools.partial(jax.jit, donate_argnums=0)
def put_states(states: CramState, new: CramState, mask: Bool[Array, "B"]) -> CramState:
    """`states` with the rows of `new` where `mask` is True."""

    def choose(old, fresh):
        return jnp.where(mask.reshape(-1, *[1] * (old.ndim - 1)), fresh, old)

    return constrain_batch(jax.tree.map(choose, states, new))


@jax.jit
def take_states(states: CramState, index: Int[Array, "N"]) -> CramState:
    """The rows of `states` at `index`."""
    return constrain_batch(jax.tree.map(lambda leaf: leaf[index], states))
