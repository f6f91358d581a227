"""Trajectories of memory during optimisation, and their principal components."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from memcomp.cram.config import CramConfig
from memcomp.cram.loop import cram_chunk
from memcomp.cram.state import first_tokens, init_states
from memcomp.data.texts import Text
from memcomp.lm.protocol import LanguageModel
from memcomp.sharding import on_mesh, row_multiple
from memcomp.studies.geometry import padded


class Pca(NamedTuple):
    """Principal components of a set of points.

    Attributes:
      mean: mean of the points.
      components: orthonormal directions, that of most variance first; the sign is such that
        the entry of largest magnitude is positive.
      explained: share of the variance along every direction, not only those kept.
    """

    mean: Float[np.ndarray, "D"]
    components: Float[np.ndarray, "K D"]
    explained: Float[np.ndarray, "_"]

    def project(self, points: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N K"]:
        """Coordinates of points along the components."""
        return (points - self.mean) @ self.components.T


def pca(points: Float[np.ndarray, "N D"], num: int) -> Pca:
    """Principal components of points, in float64."""
    points = np.asarray(points, np.float64)
    mean = points.mean(axis=0)
    _, values, components = np.linalg.svd(points - mean, full_matrices=False)
    largest = np.abs(components).argmax(axis=1)[:, None]
    components = components * np.sign(np.take_along_axis(components, largest, 1))
    total = np.sum(values**2) or 1.0  # if all points are the same, shares are 0
    return Pca(mean, components[:num], values**2 / total)


class Trajectory(NamedTuple):
    """Memory of a text at some steps of its optimisation.

    Attributes:
      steps: number of gradient evaluations before each point, from 0 to the last.
      memory: memory at each point; the last is the best memory, which is the result.
      exact: whether the best memory is exact, teacher-forced.
    """

    steps: Int[np.ndarray, "P"]
    memory: Float[np.ndarray, "P M D"]
    exact: bool


def initial_memories(
    lm: LanguageModel, seed_ids: Sequence[int], cfg: CramConfig
) -> Float[np.ndarray, "N M D"]:
    """Initial memory of each text, which depends on its `seed_id` and the seed."""
    ids = np.array(seed_ids, np.int32)
    with on_mesh(lm.mesh):
        states = init_states(ids, lm.params, module=lm.module, cfg=cfg)
    return np.array(states.memory, copy=True)


def trajectories(
    lm: LanguageModel, texts: Sequence[Text], cfg: CramConfig, every: int
) -> list[Trajectory]:
    """Crams all texts at once and records their memories after every `every` steps.

    Initial memories are those of `cram.loop`, by a text's `seed_id` and the seed.
    """
    cfg = dataclasses.replace(cfg, steps_per_chunk=every)
    num_texts = len(texts)
    # The mesh shards a batch into equal parts; the last text fills them up.
    texts = [*texts, *[texts[-1]] * (-num_texts % row_multiple(lm.mesh))]
    tokens, lengths = padded(texts)
    ids = np.array([text.seed_id for text in texts], np.int32)
    static = {"module": lm.module, "cfg": cfg}
    with on_mesh(lm.mesh):
        first = first_tokens([text.tokens for text in texts], cfg)
        states = init_states(ids, lm.params, **static, tokens=first)
    steps, memory = [np.zeros(len(ids), np.int32)], [np.array(states.memory)]
    while not np.all(states.done):
        with on_mesh(lm.mesh):
            states, _ = cram_chunk(states, tokens, lengths, lm.params, **static)
        # Copied, because on a CPU the host's view is the buffer that is donated next.
        steps.append(np.array(states.step, copy=True))
        memory.append(np.array(states.memory, copy=True))
    best, exact = np.array(states.best_memory), np.array(states.best_margin) > 0
    found = []
    for i in range(num_texts):
        moved = np.flatnonzero(np.diff([s[i] for s in steps], prepend=-1))
        points = np.stack([memory[k][i] for k in moved])
        points[-1] = best[i]
        at = np.array([steps[k][i] for k in moved])
        found.append(Trajectory(at, points, bool(exact[i])))
    return found
