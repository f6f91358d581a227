"""Trains a compressor in a workdir, with the loop of `memcomp.runs.training`."""

import functools
from collections.abc import Callable
from typing import Any

import grain
import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from memcomp.compressors import training
from memcomp.compressors.compress import TrainedCompressor
from memcomp.compressors.setup import FRESH, Setup, load_start
from memcomp.compressors.training import TrainState
from memcomp.distributed import say
from memcomp.runs.files import Record
from memcomp.runs.training import Intervals, Trained, train
from memcomp.sharding import make_mesh, put_batch

ADVICE = "lower the learning rate of train.schedule_options, or lengthen its warmup"


def train_compressor(
    setup: Setup,
    batches: grain.MapDataset,
    intervals: Intervals,
    folder: epath.Path,
    evaluate: Callable[[TrainState], Record],
    **hooks: Callable[..., Any],
) -> TrainState:
    """Trains to the last step and returns the state; resumes from the last checkpoint.

    Args:
      setup: what is trained, and how.
      batches: batches of micro-batches, as in `memcomp.compressors.training_data.Data`.
      intervals: see `Intervals`.
      folder: the workdir.
      evaluate: evaluates a state; returns entries for the log.
      hooks: `is_told_to_stop` and `after_step` of `memcomp.runs.training.train`.

    Raises:
      InputError: a loss is not finite, or there is no compressor to start with.
      Stopped: the run was told to stop, and is saved.
    """
    cfg, task = setup.settings.train, setup.task
    mesh = setup.lm.mesh or make_mesh()
    step = training.jit_train_step(task, cfg, mesh)
    like = functools.partial(training.abstract_state, task, cfg, mesh)
    trained = Trained(
        init=functools.partial(_first_state, setup, mesh),
        like=like,
        batches=batches,
        advance=lambda state, batch: step(
            state, setup.lm.params, put_batch(batch, mesh, axis=1)
        ),
        figures=_figures,
        evaluate=evaluate,
        shown=_shown,
        advice=ADVICE,
    )
    say(
        f"{num_params(like()):,} trained parameters, {cfg.num_steps:,} steps of "
        f"{cfg.batch_size} rows in {cfg.dtype} on {mesh.size} x "
        f"{jax.devices()[0].device_kind}"
    )
    with jax.set_mesh(mesh):
        return train(trained, intervals, folder, **hooks)


def _first_state(setup: Setup, mesh: Mesh) -> TrainState:
    """The state of step 0: with new weights, or with those of another run."""
    settings = setup.settings
    state = training.init_state(settings.seed, setup.task, settings.train, mesh)
    if settings.start in ("", FRESH):
        return state
    return training.with_params(state, load_start(setup).params)


def as_trained(setup: Setup, state: TrainState) -> TrainedCompressor:
    """Returns the compressor with the state's weights, as it is saved and used."""
    lm = setup.lm
    return TrainedCompressor(setup.task.compressor, state.params, lm.name, lm.fingerprint)


def num_params(state: TrainState) -> int:
    """Number of trained parameters."""
    return sum(x.size for x in jax.tree.leaves(state.params))


def _figures(step: int, metrics: dict[str, np.ndarray], seconds: float) -> Record:
    """Returns the log's record of some steps, which took `seconds` together."""
    names = ("loss", "nats_per_token", "accuracy", "grad_norm")
    record = {name: float(metrics[name].mean(dtype=np.float64)) for name in names}
    record["learning_rate"] = float(metrics["learning_rate"][-1])
    num_tokens = float(metrics["num_tokens"].sum(dtype=np.float64))
    record["tokens_per_second"] = num_tokens / seconds
    return record


def _shown(record: Record) -> list[str]:
    """Returns the losses, the throughput and BLEU of a record, for the terminal."""
    said = [f"loss {record['loss']:.3f}", f"accuracy {record['accuracy']:.3f}"]
    said.append(f"{record['tokens_per_second']:,.0f} tokens/s")
    return said + [
        f"{name.removeprefix('valid_')} {value:.3f}"
        for name, value in record.items()
        if name.endswith(("_nats_per_token", "_bleu"))
    ]
