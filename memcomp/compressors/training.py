"""Training of a compressor: float32 weights and one jitted step over a mesh.

Letters: N micro-batches of a step, B sequences of a micro-batch, A scored tokens of a
sequence.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from memcomp.compressors.layout import SPECIAL
from memcomp.compressors.objectives import Batch, Task, batch_scores, token_weights
from memcomp.compressors.protocol import Params
from memcomp.errors import InputError
from memcomp.lm.load import DTYPES, check_dtype
from memcomp.nn.parameters import with_axes
from memcomp.ranges import check_count, check_number
from memcomp.sharding import param_shardings

Metrics = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Settings of the optimiser.

    Attributes:
      num_steps: number of optimiser steps of the run.
      batch_size: sequences per step, over all micro-batches and devices.
      accumulation: micro-batches per step; it changes memory, not the result.
      schedule: learning-rate schedule, a name in optax such as "constant_schedule" or
        "warmup_cosine_decay_schedule".
      schedule_options: arguments of the schedule, as pairs of name and value.
      b1: decay of AdamW's first moment.
      b2: decay of AdamW's second moment.
      eps: eps of AdamW.
      weight_decay: weight decay of AdamW, which is multiplied by the learning rate and
        applied to all weights, as published.
      max_grad_norm: global norm to which longer gradients are clipped.
      dtype: dtype of weights and activations in the forward and backward pass, a key of
        `memcomp.lm.load.DTYPES`; the weights that are trained stay in float32.

    Raises:
      InputError: a number is out of its range, or optax does not have the schedule.
    """

    num_steps: int
    batch_size: int
    accumulation: int = 1
    schedule: str = "constant_schedule"
    schedule_options: tuple[tuple[str, Any], ...] = (("value", 1e-4),)
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    max_grad_norm: float = 2.0
    dtype: str = "bfloat16"

    def __post_init__(self):
        for name in ("num_steps", "batch_size", "accumulation"):
            check_count(name, getattr(self, name))
        check_number("max_grad_norm", self.max_grad_norm, above=0)
        if self.batch_size % self.accumulation:
            raise InputError(
                f"batch_size {self.batch_size} cannot be divided into {self.accumulation} "
                "micro-batches; give a multiple of accumulation"
            )
        check_dtype(self.dtype)
        learning_rate(self)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The training state; a checkpoint holds it and the position in the data.

    Attributes:
      params: {"compressor": ..., "ae": [D], "ft": [D]} in float32.
      opt_state: state of `optimizer`.
      step: Int[Array, ""], number of steps taken.
    """

    params: Any
    opt_state: Any
    step: Any


def learning_rate(cfg: TrainConfig) -> optax.Schedule:
    """Makes the learning-rate schedule that the config names.

    Raises:
      InputError: optax does not have it, or it does not take these options.
    """
    make = getattr(optax, cfg.schedule, None)
    if make is None or not cfg.schedule.endswith("schedule"):
        raise InputError(
            f"schedule {cfg.schedule!r} is not one of optax; give a name such as "
            "warmup_cosine_decay_schedule"
        )
    try:
        return make(**dict(cfg.schedule_options))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{cfg.schedule} does not take schedule_options {dict(cfg.schedule_options)} "
            f"({error}); give the arguments that optax documents"
        ) from error


def optimizer(cfg: TrainConfig) -> optax.GradientTransformation:
    """AdamW after clipping of the gradients by their global norm.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101; with the published settings:
      arXiv:2406.13618, tables 8 and 9.
    """
    return optax.chain(
        optax.clip_by_global_norm(cfg.max_grad_norm),
        optax.adamw(
            learning_rate(cfg), cfg.b1, cfg.b2, cfg.eps, weight_decay=cfg.weight_decay
        ),
    )


def init_params(key: Array, task: Task) -> Params:
    """Initial weights of the compressor and AE and FT, boxed with their logical axes.

    AE and FT begin at 0, as published (arXiv:2406.13618, the authors' code).
    """
    zeros = with_axes(nn.initializers.zeros, ("embed",))
    D = task.module.config.d_model
    vectors = {name: zeros(key, (D,), jnp.float32) for name in SPECIAL}
    return {"compressor": task.compressor.init(key), **vectors}


def _boxed_state(key: Array, task: Task, cfg: TrainConfig) -> TrainState:
    # The optimiser's moments get the boxes of their weights.
    params = init_params(key, task)
    return TrainState(params, optimizer(cfg).init(params), jnp.zeros((), jnp.int32))


def abstract_state(task: Task, cfg: TrainConfig, mesh: Mesh) -> TrainState:
    """Returns shapes, dtypes and shardings of the state, without any computation."""
    make = functools.partial(_boxed_state, task=task, cfg=cfg)
    # The key is only a shape too, because the mesh may be of devices that are not here.
    boxed = jax.eval_shape(make, jax.eval_shape(lambda: jax.random.key(0)))
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        nn.unbox(boxed),
        param_shardings(boxed, mesh),
    )


def init_state(seed: int, task: Task, cfg: TrainConfig, mesh: Mesh) -> TrainState:
    """Returns the state of step 0, sharded over the mesh; all meshes give equal values."""

    def make(key):
        return nn.unbox(_boxed_state(key, task, cfg))

    return jax.jit(make, out_shardings=_shardings(task, cfg, mesh))(jax.random.key(seed))


def _shardings(task: Task, cfg: TrainConfig, mesh: Mesh) -> TrainState:
    return jax.tree.map(lambda x: x.sharding, abstract_state(task, cfg, mesh))


def with_params(state: TrainState, params: Params) -> TrainState:
    """Returns `state`, which is that of step 0, with other weights, as for fine-tuning.

    The optimiser's state is new, since old moments would belong to another objective.
    """
    return dataclasses.replace(state, params=_copies(params, like=state.params))


def _copies(params: Params, like: Params) -> Params:
    """Copies to new buffers, as the state is donated, in dtype and sharding of `like`."""
    shardings = jax.tree.map(lambda x: x.sharding, like)

    def copy(params):
        return jax.tree.map(lambda x, y: jnp.copy(x).astype(y.dtype), params, like)

    return jax.jit(copy, out_shardings=shardings)(jax.tree.map(np.asarray, params))


def train_step(
    state: TrainState, lm_params: Params, batches: Batch, *, task: Task, cfg: TrainConfig
) -> tuple[TrainState, Metrics]:
    """Takes one optimiser step on N micro-batches, whose gradients are summed in float32.

    Args:
      state: state to update; `jit_train_step` donates it.
      lm_params: parameters of the frozen LM, in the dtype of the computation. They are an
        argument so that they keep their sharding; they get no gradient.
      batches: micro-batches; each array has an axis N before that of the sequences.
      task: see `Task`.
      cfg: see `TrainConfig`.

    Returns:
      The new state, and metrics from before the update: `loss` (the loss that is
      minimised), `nats_per_token` and `accuracy` (over all scored tokens, teacher-forced),
      `num_tokens`, `grad_norm` (before clipping), `learning_rate`.
    """
    weights = token_weights(batches.rows.scored, task.average)
    differentiate = jax.value_and_grad(_weighted_loss, has_aux=True)

    def add(totals, micro):
        batch, weights = micro
        (_, sums), grads = differentiate(
            state.params, lm_params, batch, weights, task, DTYPES[cfg.dtype]
        )
        return jax.tree.map(jnp.add, totals, (grads, sums)), None

    start = (jax.tree.map(jnp.zeros_like, state.params), _no_sums())
    (grads, sums), _ = jax.lax.scan(add, start, (batches, weights))
    updates, opt_state = optimizer(cfg).update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = _means(sums) | {
        "grad_norm": optax.tree.norm(grads),
        "learning_rate": jnp.asarray(learning_rate(cfg)(state.step)),
    }
    return TrainState(params, opt_state, state.step + 1), metrics


def _weighted_loss(params, lm_params, batch: Batch, weights, task: Task, dtype):
    """Returns a micro-batch's share of the loss, and its sums for the metrics."""
    params = jax.tree.map(lambda x: x.astype(dtype), params)
    found = batch_scores(params, lm_params, batch, task)
    loss = jnp.sum(weights * found.nats)
    scored = batch.rows.scored
    sums = {
        "loss": loss,
        "nats": jnp.sum(jnp.where(scored, found.nats, 0.0)),
        "right": jnp.sum(found.right & scored, dtype=jnp.float32),
        "num_tokens": jnp.sum(scored, dtype=jnp.float32),
    }
    return loss, sums


def _no_sums() -> dict[str, Float[Array, ""]]:
    names = ("loss", "nats", "right", "num_tokens")
    return {name: jnp.zeros((), jnp.float32) for name in names}


def _means(sums: Metrics) -> Metrics:
    """Turns sums over tokens into means over tokens."""
    counted = jnp.maximum(sums["num_tokens"], 1.0)
    return {
        "loss": sums["loss"],
        "nats_per_token": sums["nats"] / counted,
        "accuracy": sums["right"] / counted,
        "num_tokens": sums["num_tokens"],
    }


def jit_train_step(
    task: Task, cfg: TrainConfig, mesh: Mesh
) -> Callable[[TrainState, Params, Batch], tuple[TrainState, Metrics]]:
    """Returns jitted `train_step` for a mesh; the state is donated and keeps its sharding.

    Call it inside `jax.set_mesh(mesh)`.
    """
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        functools.partial(train_step, task=task, cfg=cfg),
        donate_argnums=0,
        out_shardings=(_shardings(task, cfg, mesh), whole),
    )
