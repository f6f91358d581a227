"""The training loop: checkpoints, evaluation and log of a run.

The steps themselves are in `memcomp.pretrain` and `memcomp.compressors.training`.
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

# Metrics of a step by name, always with `loss`: scalars, or [S] for a chunk of S steps.
Metrics = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Length of a run, and how often it is logged, saved and evaluated, in steps.

    The last step is always logged, saved and evaluated. A run is saved and evaluated only
    at steps that are logged: what is due at another step is done at the next logged one.

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
        """Whether (before, step] contains a multiple of `every` or the end of the run."""
        return step // every > before // every or step == self.num_steps


@dataclasses.dataclass(frozen=True)
class Trained:
    """What the loop trains: the state, the data, the step, and what is reported.

    Attributes:
      init: makes the state of step 0, a pytree with an array `step`.
      like: makes a tree with the structure, shapes, dtypes and shardings of the state.
      batches: inputs of the steps, in order.
      advance: takes a step, or a chunk of steps, on an element of `batches`.
      figures: makes the log's record of some steps. It gets the number of the last of
        them, their metrics as arrays [S] on the host, and the seconds that they took.
      evaluate: evaluates a state; names of its entries begin with "valid_".
      shown: chooses what is shown of a record on the terminal.
      advice: what to change in the config if the loss is not finite.
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
    """Trains to the last step and returns the state; resumes from the last checkpoint.

    All processes must call it; the first one writes the log.

    Args:
      trained: what is trained.
      intervals: see `Intervals`.
      folder: the workdir, for checkpoints/, log.jsonl and metrics/.
      is_told_to_stop: called in all processes after each logged step.
      after_step: called with the metrics of each step, or chunk, which the device may still
        be computing.

    Raises:
      InputError: a loss is not finite, or the checkpoint is of something else.
      Stopped: the run was told to stop before its end, and is saved.
    """
    # Threads read the data ahead of the steps.
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    iterator = iter(trained.batches.to_iter_dataset(options))
    with Checkpoints(folder / "checkpoints") as checkpoints:
        state = _resumed(trained, checkpoints, iterator)
        step = logged = int(state.step)
        # The time of the first steps includes the compilation.
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
                # This comes before the save: a run resumed from such a state fails again.
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
    """Returns the last checkpoint's state, with `iterator` moved there, or a new state."""
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
    """Returns the metrics of all waiting steps in order, each an array [S]."""
    found = [{k: np.atleast_1d(v) for k, v in m.items()} for m in jax.device_get(waiting)]
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def check_finite(before: int, losses: np.ndarray, advice: str) -> None:
    """Raises `InputError` that names the first step whose loss is not finite.

    Args:
      before: number of steps before the first of `losses`.
      losses: loss of each step.
      advice: what to change in the config.
    """
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        raise InputError(
            f"the loss is {losses[bad[0]]} at step {before + bad[0] + 1}; {advice}, in a "
            "new --workdir"
        )
