"""GradMem's own training on eight fake devices, beside one device."""

import functools

import jax
import numpy as np
import pytest
from tiny_lm import EIGHT_HEADS, make_tiny_lm
from training_run import ROWS, M, losses, run, step_rows

from memcomp.compressors import training
from memcomp.compressors.gradmem import GradMem, GradMemConfig
from memcomp.compressors.objectives import Task

STEPS = 20
CFG = training.TrainConfig(
    num_steps=STEPS,
    batch_size=ROWS,
    schedule_options=(("value", 3e-2),),
    dtype="float32",
)


@pytest.mark.slow
def test_a_mesh_changes_no_loss_of_gradmem():
    lm = make_tiny_lm("float32", EIGHT_HEADS)
    config = GradMemConfig(num_digests=M, rate=0.1, projection=True, start_std=0.5)
    task = Task(lm.module, GradMem(lm.module, config))
    # All rows reproduce their context.
    rows = functools.partial(step_rows, goes_on=False)
    _, metrics = run(task, CFG, lm, (1, 1, 1), STEPS, rows=rows)
    want = losses(metrics)
    assert np.mean(want[-5:]) < np.mean(want[:5]) - 0.1
    for sizes in ((8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)):
        state, metrics = run(task, CFG, lm, sizes, STEPS, rows=rows)
        np.testing.assert_allclose(losses(metrics), want, rtol=1e-6)  # measured: 2.2e-7
        cut = {
            x.addressable_shards[0].data.size < x.size
            for x in jax.tree.leaves(state)
            if getattr(x, "ndim", 0) > 1
        }
        assert (True in cut) == (sizes[1] > 1)
