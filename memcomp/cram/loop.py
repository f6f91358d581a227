"""The cramming loop on the device: score the memory, keep the best one, take a step.

Everything is written for one text; `vmap` adds the batch, and `scan` a chunk of steps.
When traced inside `jax.set_mesh`, states are sharded as their texts are.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from memcomp.cram.config import CramConfig
from memcomp.cram.objective import (
    blended_loss,
    exact_prefix,
    hardness,
    looked_at,
    mean_over,
    mean_scores,
    scored_positions,
    token_weights,
)
from memcomp.cram.rates import (
    SMALLER,
    TRIES,
    Numbers,
    begun_again,
    learning_rate,
    stuck_at,
)
from memcomp.cram.recipe import optimizer, start_unit
from memcomp.cram.state import CramState
from memcomp.cram.ways.table import memory_scores
from memcomp.lm.protocol import CausalLM, Params
from memcomp.sharding import BATCH, constrain_batch


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
    """Takes one step on one text; the state of a finished text does not change.

    With a recipe that grows, a step computes and scores only the tokens that `looked_at`
    counts. A text that asks for more tokens than `tokens` has waits for a longer array:
    its state does not change either.

    A text whose loss is not finite is finished, and keeps the state before that step.

    The best memory is the one that was scored, before the update. (The authors keep the
    memory one update later.)

    Args:
      state: the text's state.
      tokens: the text, padded on the right, or its beginning.
      length: number of tokens of the whole text.
      params: parameters of the LM.
      numbers: traced numbers of the config; the same fields of `cfg` are ignored.
      module: the LM's Flax module.
      cfg: what to cram and how.

    Returns:
      The new state, and a dict about the old one: `looked_at`, the number of tokens that
      the step scored; `loss`, their mean in nats per token; `accuracy`, the number of them
      that are right as a share of all scored tokens of the text; and `right` [T], whether
      each of them is right.
    """
    recipe = cfg.resolved_recipe()
    looked = length
    if recipe.grows:
        looked = looked_at(length, state.best_prefix, state.stale, recipe.ahead)
    scored = scored_positions(looked, tokens.shape[0], cfg.num_given)

    loss_of = functools.partial(_loss, module=module, cfg=cfg)
    (_, (scores, prefix)), grad = jax.value_and_grad(loss_of, has_aux=True)(
        state.memory, state, tokens, scored, params, numbers
    )
    loss, accuracy, margin = mean_scores(scores, scored)
    # The rest of a text that was not looked at may be wrong.
    margin = jnp.where(looked == length, margin, -jnp.inf)
    # Memories with the same prefix are compared by the loss of this prefix and of the token
    # after it, so that it does not matter how much else each of them was scored on.
    compared = loss
    if recipe.grows:
        compared = mean_over(scores.loss, scored & (jnp.arange(len(scored)) <= prefix))
    progress = prefix if recipe.grows else accuracy
    higher, keep = _judged(state, progress, compared, margin, numbers, recipe)
    longest = jnp.where(keep, prefix, state.best_prefix)
    if recipe.grows:  # a prefix that has been right once is no progress again
        longest = jnp.maximum(prefix, state.best_prefix)
    stale, step = jnp.where(higher, 0, state.stale + 1), state.step + 1
    stuck = stuck_at(recipe.stuck_after, numbers.patience, longest)
    begun = begun_again(stuck, stale)
    scale = jnp.where(begun == TRIES, SMALLER, state.scale)
    waited = stale - begun * stuck  # steps without progress since it last began
    best_memory = jnp.where(keep, state.memory, state.best_memory)
    scored_now = state._replace(best_memory=best_memory, scale=scale)
    memory, opt_state = _moved(scored_now, grad, waited, numbers, recipe)
    another = _another_start(scored_now, memory, begun, numbers, recipe)
    memory = jnp.where((begun > 0) & (waited == 0), another, memory)
    given_up = stale >= numbers.patience + TRIES * stuck
    new = CramState(
        memory=memory,
        opt_state=opt_state,
        best_memory=best_memory,
        best_prefix=longest,
        best_accuracy=jnp.where(keep, accuracy, state.best_accuracy),
        best_loss=jnp.where(keep, compared, state.best_loss),
        best_margin=jnp.where(keep, margin, state.best_margin),
        min_loss=jnp.minimum(loss, state.min_loss),
        stale=stale,
        step=step,
        unit=state.unit,
        scale=scale,
        failed=state.failed,
        done=(margin > numbers.margin) | given_up | (step >= numbers.max_steps),
    )
    waits = looked > tokens.shape[0]
    failed = ~jnp.isfinite(loss) & ~state.done & ~waits
    stays = state.done | failed | waits
    new = jax.tree.map(lambda n, o: jnp.where(stays, o, n), new, state)
    new = new._replace(failed=state.failed | failed, done=new.done | failed)
    share = (looked - cfg.num_given) / (length - cfg.num_given)
    curves = {"loss": loss, "accuracy": accuracy * share, "looked_at": looked}
    return new, curves | {"right": (scores.margin > 0) & scored}


def _judged(state, progress, compared, margin, numbers, recipe):
    """Whether a memory is progress, and whether it is the best one so far."""
    best = state.best_prefix if recipe.grows else state.best_accuracy
    higher = progress > best
    lower = (progress == best) & (compared < state.best_loss)
    solved, exact = margin > numbers.margin, margin > 0
    # A memory that is not exact never replaces an exact one, even if it has a longer prefix
    # right by more than the margin.
    was_exact = state.best_margin > 0
    keep = solved | (exact & ~was_exact) | ((exact | ~was_exact) & (higher | lower))
    return higher, keep


def _moved(state, grad, waited, numbers, recipe):
    """The memory after a step, and the state of the optimiser."""
    rate = state.scale * learning_rate(recipe.schedule, numbers, state.step, waited)
    if recipe.unit_rate:
        rate = rate * state.unit
    updates, opt_state = optimizer(recipe).update(
        grad, state.opt_state, state.memory, learning_rate=rate
    )
    memory: Any = optax.apply_updates(state.memory, updates)
    return memory, opt_state


def _another_start(state, memory, begun, numbers, recipe):
    """Where a stuck text begins again: elsewhere first, and then at its best memory."""
    # The same numbers in other places point elsewhere, as a new draw would.
    elsewhere = jnp.roll(memory, 1, axis=-1)
    start = jnp.where(begun == TRIES, state.best_memory, elsewhere)
    unit = start_unit(recipe, state.unit, state.scale * numbers.learning_rate)
    size = jnp.sqrt(jnp.mean(start**2))
    # A given start of zeros (`states_from`) may be the best memory. It points nowhere.
    return start * (recipe.init_scale * unit / jnp.where(size > 0, size, 1))


def _loss(memory, state, tokens, scored, params, numbers, *, module, cfg):
    """Loss that the optimiser steps on; the scores of all tokens, and the exact prefix."""
    recipe = cfg.resolved_recipe()
    scores = _scores(memory, tokens, params, module, cfg, recipe.reads_likelihoods)
    asked = scores.margin - numbers.margin
    prefix = exact_prefix(scores.margin, scored, numbers.margin)
    hard = hardness(recipe.easy, state.step, state.best_prefix)
    weights = token_weights(
        asked,
        scored,
        jnp.maximum(prefix, state.best_prefix),
        state.stale,
        grows=recipe.grows,
        ahead=recipe.ahead,
        sure_weight=recipe.sure_weight**hard,
    )
    weights = jax.lax.stop_gradient(weights)
    losses = blended_loss(recipe.loss, hard, scores.loss, asked)
    return jnp.sum(weights * losses) / jnp.sum(weights), (scores, prefix)


def _scores(memory, tokens, params, module, cfg, loss_gradient=True):
    return memory_scores(
        memory,
        tokens,
        params,
        module=module,
        vocab_chunk=cfg.vocab_chunk,
        token_chunk=cfg.token_chunk,
        loss_gradient=loss_gradient,
        way=cfg.memory,
        start=cfg.start,
    )


def score_memory(
    memory: Float[Array, "M W"],
    tokens: Int[Array, "T"],
    length: Int[Array, ""],
    params: Params,
    *,
    module: CausalLM,
    cfg: CramConfig,
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """Mean loss of a scored token in nats, accuracy, and smallest margin in logits.

    Args:
      memory: memory of the text.
      tokens: the text, padded on the right.
      length: number of tokens of the text.
      params: parameters of the LM.
      module: the LM's Flax module.
      cfg: its protocol says which tokens are scored.
    """
    scores = _scores(memory, tokens, params, module, cfg)
    return mean_scores(scores, scored_positions(length, tokens.shape[0], cfg.num_given))


def cram_chunk(
    states: CramState,
    tokens: Int[Array, "B T"] | Int[np.ndarray, "B T"],
    lengths: Int[Array, "B"] | Int[np.ndarray, "B"],
    params: Params,
    *,
    module: CausalLM,
    cfg: CramConfig,
) -> tuple[CramState, dict[str, Array]]:
    """Takes `cfg.steps_per_chunk` steps on every text of a batch.

    Between two chunks the host logs, saves, and replaces finished texts by waiting ones.
    `params` is an argument so that it keeps its sharding; a closure would make it a
    constant. Configs that differ only in their `numbers` share the program.

    Returns:
      The new states, for which `states` is donated, and a dict: `loss`, `accuracy` and
      `looked_at` [steps B] of every step, and `first_right` [B T], the step of the chunk at
      which each position was first right; the number of steps where it never was.
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
    """Returns the program of `cram_chunk` for these shapes, lowered but not yet compiled.

    The compiled program is called with `states, tokens, lengths, params, cfg.numbers()`.
    """
    static = {"module": module, "cfg": cfg.program()}
    return _cram_chunk.lower(states, tokens, lengths, params, cfg.numbers(), **static)


@functools.partial(jax.jit, static_argnames=("module", "cfg"), donate_argnums=0)
def _cram_chunk(states, tokens, lengths, params, numbers, *, module, cfg):
    step = functools.partial(cram_step, module=module, cfg=cfg)
    # On a mesh, each device holds whole texts; see `memory_scores`.
    axes = (0, 0, 0, None, None)
    batched = jax.vmap(step, in_axes=axes, spmd_axis_name=BATCH)

    def one(carry, _):
        carry, curves = batched(carry, tokens, lengths, params, numbers)
        return constrain_batch(carry), curves

    states, curves = jax.lax.scan(one, states, length=cfg.steps_per_chunk)
    right = curves.pop("right")
    never = jnp.ones((1, *right.shape[1:]), bool)
    return states, curves | {"first_right": jnp.argmax(jnp.concatenate([right, never]), 0)}


@functools.partial(jax.jit, static_argnames=("module", "cfg"))
def score_memories(
    params: Params,
    memory: Float[Array, "B M W"],
    tokens: Int[Array, "B T"],
    lengths: Int[Array, "B"],
    *,
    module: CausalLM,
    cfg: CramConfig,
) -> tuple[Float[Array, "B"], Float[Array, "B"], Float[Array, "B"]]:
    """`score_memory` of a batch."""
    one = functools.partial(score_memory, module=module, cfg=cfg)
    return jax.vmap(one, (0, 0, 0, None))(memory, tokens, lengths, params)
