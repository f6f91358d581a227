"""The loop that trains a model: steps, checkpoints, evaluation and log of a run.

`memcomp.pretrain` and `memcomp.compressors.training` have the steps, this the rest.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import grain
import jax
import numpy as np
from etils import epath

from memcomp.distributed import is_first, say
from memcomp.errors import InputError, Stopped
from memcomp.ranges import check_count
from memcomp.runs.checkpoints import Checkpoints
from memcomp.runs.files import Record
from memcomp.runs.training_log import Log

# What a step reports, by name; `loss` is there. A scalar, or [S] for a chunk of S steps.
Metrics = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Intervals:
    """The length of a run, and how often it is logged, saved and evaluated, in steps.

    The last step is always logged, saved and evaluated. A run is saved and evaluated where
    it is logged: if another step is due, after the next one that is.

    Raises:
      InputError: a number below 1.
    """

    num_steps: int
    log_every: int
    save_every: int
    evaluate_every: int

    def __post_init__(self):
        for field in dataclasses.fields(self):
            check_count(field.name, getattr(self, field.name))

    def crossed(self, every: int, before: int, step: int) -> bool:
        """Whether a multiple of `every`, or the end, is after `before` and up to `step`."""
        return step // every > before // every or step == self.num_steps


@dataclasses.dataclass(frozen=True)
class Trained:
    """What is trained: its state, its data, its step, and what is said of it.

    Attributes:
      init: makes the state of step 0, a pytree with an array `step`.
      like: makes a tree with the structure, shapes, dtypes and shardings of the state.
      batches: what the steps are made on, one after the other.
      advance: makes a step, or a chunk of steps, on an element of `batches`.
      figures: makes the record of some steps, up to the first argument, from their
        metrics, arrays [S] on the host, and the seconds that they took.
      evaluate: makes the entries of a state's evaluation, whose names begin with "valid_".
      shown: what of a record is shown on the terminal.
      advice: what in the config would help where the loss is not finite.
    """

    init: Callable[[], Any]
    like: Callable[[], Any]
    batches: grain.MapDataset
    advance: Callable[[Any, Any], tuple[Any, Metrics]]
    figures: Callable[[int, dict[str, np.ndarray], float], Record]
    evaluate: Callable[[Any], Record]
    shown: Callable[[Record], list[str]]
    advice: str


def train(
    trained: Trained,
    intervals: Intervals,
    folder: epath.Path,
    *,
    is_told_to_stop: Callable[[], bool] = lambda: False,
    after_step: Callable[[Metrics], None] = lambda metrics: None,
) -> Any:
    """The state after the last step; a run resumes from its last checkpoint.

    All processes call it; the first one writes the log.

    Args:
      trained: what is trained.
      intervals: see `Intervals`.
      folder: the workdir, for checkpoints/, log.jsonl and metrics/.
      is_told_to_stop: asked where the run is logged, in all processes.
      after_step: called with the metrics of each step, or chunk, as it is on its way.

    Raises:
      InputError: a loss that is not finite, or a checkpoint of something else.
      Stopped: the run was told to stop before its end, and is saved.
    """
    # Threads read ahead of the steps.
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    iterator = iter(trained.batches.to_iter_dataset(options))
    with Checkpoints(folder / "checkpoints") as checkpoints:
        state = _resumed(trained, checkpoints, iterator)
        step = logged = int(state.step)
        # The time of the first steps also counts the compilation.
        waiting, clock = [], time.monotonic()
        with _open_log(folder, intervals, step) as log:
            for batch in iterator:
                state, metrics = trained.advance(state, batch)
                step += metrics["loss"].size
                waiting.append(metrics)
                after_step(metrics)
                if not intervals.crossed(intervals.log_every, logged, step):
                    continue
                found = _on_host(waiting)
                seconds = time.monotonic() - clock
                # A checkpoint of a run that has failed would only fail again.
                check_finite(logged, found["loss"], trained.advice)
                record = {"step": step, **trained.figures(step, found, seconds)}
                if intervals.crossed(intervals.evaluate_every, logged, step):
                    record |= trained.evaluate(state)
                if log:
                    log.add(record, trained.shown(record))
                told = is_told_to_stop()
                if told or intervals.crossed(intervals.save_every, logged, step):
                    checkpoints.save(step, state, iterator)
                if told and step < intervals.num_steps:
                    raise Stopped
                logged, waiting, clock = step, [], time.monotonic()
    return state


def _resumed(
    trained: Trained, checkpoints: Checkpoints, iterator: grain.DatasetIterator
) -> Any:
    """The state of the last checkpoint, where `iterator` then is; or that of step 0."""
    if checkpoints.latest() is None:
        return trained.init()
    state = checkpoints.restore(trained.like(), iterator)
    say(f"going on from step {int(state.step):,}")
    return state


def _open_log(
    folder: epath.Path, intervals: Intervals, step: int
) -> contextlib.AbstractContextManager[Log | None]:
    if not is_first():
        return contextlib.nullcontext()
    return Log(folder, num_steps=intervals.num_steps, step=step)


def _on_host(waiting: list[Metrics]) -> dict[str, np.ndarray]:
    """The metrics of one step after the other, each [S]."""
    found = [{k: np.atleast_1d(v) for k, v in m.items()} for m in jax.device_get(waiting)]
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def check_finite(before: int, losses: np.ndarray, advice: str) -> None:
    """Raises `InputError` that names the first step whose loss is not finite.

    Args:
      before: steps before the first of `losses`.
      losses: one a step.
      advice: what in the config would help.
    """
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        raise InputError(
            f"the loss is {losses[bad[0]]} at step {before + bad[0] + 1}; {advice}, in a "
            "new --workdir"
        )
