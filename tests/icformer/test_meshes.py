"""IC-Former's own training on eight fake devices, beside one device."""

import jax
import numpy as np
import pytest
from tiny_lm import EIGHT_HEADS, make_tiny_lm, on_devices

from memcomp.compressor import layout, training
from memcomp.compressor.chunks import stack_chunks
from memcomp.compressor.objectives import Batch, Task
from memcomp.icformer.config import ICFormerConfig
from memcomp.icformer.model import ICFormer
from memcomp.sharding import put_batch

M, ROWS, STEPS = 2, 8, 50
CFG = training.TrainConfig(
    num_steps=STEPS,
    batch_size=ROWS,
    schedule_options=(("value", 1e-2),),
    dtype="float32",
)


def batches(step):
    rng = np.random.default_rng([7, step])
    contexts = [rng.integers(2, 23, n) for n in rng.integers(1, 9, ROWS)]
    chunks = stack_chunks(contexts, 4, 2)
    counts = M * (chunks.lengths > 0).sum(axis=1)
    rows = [
        layout.autoencoding_row(context, int(count), 1)
        for context, count in zip(contexts, counts, strict=True)
    ]
    batch = Batch(chunks, layout.stack_rows(rows, 14, 9))
    return jax.tree.map(lambda x: x[None], batch)


def trained(lm, sizes):
    lm = on_devices(lm, *sizes)
    config = ICFormerConfig(num_digests=M, num_layers=2, digest_init="normal")
    task = Task(lm.module, ICFormer(lm.module, config))
    step = training.jit_train_step(task, CFG, lm.mesh)
    losses = []
    with jax.set_mesh(lm.mesh):
        state = training.init_state(0, task, CFG, lm.mesh)
        for i in range(STEPS):
            batch = put_batch(batches(i), lm.mesh, axis=1)
            state, metrics = step(state, lm.params, batch)
            losses.append(float(metrics["loss"]))
    return losses, state


@pytest.mark.slow
def test_a_mesh_changes_no_loss_of_icformer():
    lm = make_tiny_lm("float32", EIGHT_HEADS)
    want, _ = trained(lm, (1, 1, 1))
    assert want[-1] < want[0]
    for sizes in ((8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)):
        got, state = trained(lm, sizes)
        np.testing.assert_allclose(got, want, rtol=1e-5)  # measured: 6e-7
        cut = {
            x.addressable_shards[0].data.size < x.size
            for x in jax.tree.leaves(state)
            if getattr(x, "ndim", 0) > 1
        }
        assert (True in cut) == (sizes[0] < 8)
