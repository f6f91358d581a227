"""Some steps of a compressor's training, for the tests of it on one device and on more."""

import functools

import jax
import numpy as np
from tiny_lm import on_devices

from memcomp.compressors import layout, training
from memcomp.compressors.chunks import stack_chunks
from memcomp.compressors.objectives import Batch
from memcomp.sharding import put_batch

M, ROWS = 2, 8


def step_rows(step, goes_on=True):
    """The examples of a step, whose rows have very different numbers of scored tokens.

    Every other row goes on with the text where `goes_on`, and the rest reproduces it.
    """
    rng = np.random.default_rng([7, step])
    contexts = [rng.integers(2, 23, n) for n in rng.integers(1, 9, ROWS)]
    chunks = stack_chunks(contexts, 4, 2)
    counts = M * (chunks.lengths > 0).sum(axis=1)
    rows = [
        layout.continuation_row(context, int(count))
        if goes_on and i % 2 == 0
        else layout.autoencoding_row(context, int(count), 1)
        for i, (context, count) in enumerate(zip(contexts, counts, strict=True))
    ]
    return Batch(chunks, layout.stack_rows(rows, 14, 9))


def in_parts(batch, number):
    return jax.tree.map(lambda x: x.reshape(number, -1, *x.shape[1:]), batch)


@functools.cache  # a program for each, and not for each test
def program(task, cfg, mesh):
    return training.jit_train_step(task, cfg, mesh)


def run(task, cfg, lm, sizes=(1, 1, 1), steps=4, state=None, first=0, rows=step_rows):
    """State and metrics of steps on a mesh of these sizes."""
    lm = on_devices(lm, *sizes)
    step = program(task, cfg, lm.mesh)
    metrics = []
    with jax.set_mesh(lm.mesh):
        state = state(lm.mesh) if state else training.init_state(0, task, cfg, lm.mesh)
        for i in range(first, first + steps):
            batch = put_batch(in_parts(rows(i), cfg.accumulation), lm.mesh, axis=1)
            state, found = step(state, lm.params, batch)
            metrics.append(jax.device_get(found))
    return state, metrics


def losses(metrics):
    return [float(found["loss"]) for found in metrics]
