"""The loop itself, on a state that only adds up numbers."""

import dataclasses
import functools
import json
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from memcomp.errors import InputError, Stopped
from memcomp.runs.training import Intervals, Trained, train

INTERVALS = Intervals(num_steps=10, log_every=2, save_every=4, evaluate_every=5)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sum:
    value: Any
    step: Any


def advance(state, numbers):
    """As many steps as there are numbers, the loss of each being the sum before it."""
    losses = state.value + np.cumsum(numbers)
    metrics = {"loss": jnp.asarray(losses, jnp.float32)}
    return Sum(state.value + numbers.sum(), state.step + len(numbers)), metrics


def summing(chunk=2, shift=0.0, evaluated=None):
    def init():
        return Sum(jnp.asarray(shift, jnp.float32), jnp.asarray(0, jnp.int32))

    def evaluate(state):
        if evaluated is not None:
            evaluated.append(int(state.step))
        return {"valid_sum": float(state.value)}

    return Trained(
        init=init,
        like=init,
        batches=grain.MapDataset.range(10).batch(chunk),
        advance=advance,
        figures=lambda step, metrics, seconds: {"losses": len(metrics["loss"])},
        evaluate=evaluate,
        shown=lambda record: [],
        advice="add less",
    )


def read_log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_steps_are_logged_evaluated_and_saved_when_due(tmp_path):
    evaluated, stepped = [], []
    trained = summing(evaluated=evaluated)
    state = train(trained, INTERVALS, epath.Path(tmp_path), after_step=stepped.append)
    assert float(state.value) == 45 and len(stepped) == 5
    records = read_log(tmp_path)
    assert [r["step"] for r in records] == [2, 4, 6, 8, 10]
    # The fifth step is within a chunk, so that the state after the sixth is evaluated.
    assert evaluated == [6, 10] and [r.get("valid_sum") for r in records][2] == 15
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} >= {"8", "10"}


@pytest.mark.parametrize("chunk", [1, 2])
def test_a_run_that_is_told_to_stop_is_saved_and_ends_alike(tmp_path, chunk):
    whole, cut = epath.Path(tmp_path / "whole"), epath.Path(tmp_path / "cut")
    whole.mkdir()
    cut.mkdir()
    run = functools.partial(train, summing(chunk), INTERVALS)
    wanted = run(whole)
    asked = []

    def told():
        asked.append(None)
        return len(asked) == 3

    with pytest.raises(Stopped):
        run(cut, is_told_to_stop=told)
    assert read_log(cut)[-1]["step"] == 6 and (cut / "checkpoints" / "6").exists()
    assert jax.tree.map(float, run(cut)) == jax.tree.map(float, wanted)
    assert read_log(cut) == read_log(whole)


def test_a_loss_that_is_not_finite_is_neither_logged_nor_saved(tmp_path):
    with pytest.raises(InputError, match="nan at step 1; add less"):
        train(summing(shift=np.nan), INTERVALS, epath.Path(tmp_path))
    assert not read_log(tmp_path)
    assert not any(path.name.isdigit() for path in (tmp_path / "checkpoints").iterdir())


def test_intervals_below_one_are_refused():
    with pytest.raises(InputError, match="log_every is 0; it must be 1"):
        Intervals(num_steps=10, log_every=0, save_every=4, evaluate_every=5)
