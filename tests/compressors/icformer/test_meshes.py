"""IC-Former's own training on eight fake devices, beside one device."""

import functools

import jax
import numpy as np
import pytest
from tiny_lm import EIGHT_HEADS, make_tiny_lm
from training_run import ROWS, M, losses, run, step_rows

from memcomp.compressors import training
from memcomp.compressors.icformer.config import ICFormerConfig
from memcomp.compressors.icformer.model import ICFormer
from memcomp.compressors.objectives import Task

STEPS = 50
CFG = training.TrainConfig(
    num_steps=STEPS,
    batch_size=ROWS,
    schedule_options=(("value", 1e-2),),
    dtype="float32",
)


@pytest.mark.slow
def test_a_mesh_changes_no_loss_of_icformer():
    lm = make_tiny_lm("float32", EIGHT_HEADS)
    config = ICFormerConfig(num_digests=M, num_layers=2, digest_init="normal")
    task = Task(lm.module, ICFormer(lm.module, config))
    # All rows reproduce their context.
    rows = functools.partial(step_rows, goes_on=False)
    _, metrics = run(task, CFG, lm, (1, 1, 1), STEPS, rows=rows)
    want = losses(metrics)
    assert np.mean(want[-5:]) < np.mean(want[:5]) - 0.2
    for sizes in ((8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)):
        state, metrics = run(task, CFG, lm, sizes, STEPS, rows=rows)
        np.testing.assert_allclose(losses(metrics), want, rtol=1e-5)  # measured: 6e-7
        cut = {
            x.addressable_shards[0].data.size < x.size
            for x in jax.tree.leaves(state)
            if getattr(x, "ndim", 0) > 1
        }
        assert (True in cut) == (sizes[0] < 8)
