"""Geometry of solutions: where memories of a text lie, and how those between them score.

These are functions of vectors and an LM. Where two memories [M D] are compared, each is
flattened to one vector. A "solution" is a memory from which its text is decoded exactly.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from memcomp.cram.config import CramConfig
from memcomp.cram.loop import score_memories, score_memory
from memcomp.data.texts import Text
from memcomp.lm.protocol import CausalLM, LanguageModel, Params, embed
from memcomp.lm.score import in_groups
from memcomp.ranges import check_count, check_number, check_seed
from memcomp.sharding import fetch

GROUP = 64  # number of memories scored at once, so that one program serves all studies
PAIRS = 8  # number of curves optimised at once

Numbers = Float[Array, "..."] | Float[np.ndarray, "..."]


class Solutions(NamedTuple):
    """Memories and their texts; entry i of each array belongs to the same solution.

    Attributes:
      memory: the memories, in float32.
      tokens: token ids of the texts, padded on the right.
      lengths: number of tokens of each text, without padding.
    """

    memory: Float[np.ndarray, "N M D"]
    tokens: Int[np.ndarray, "N T"]
    lengths: Int[np.ndarray, "N"]

    def at(self, rows: Any, memory: Float[np.ndarray, "P M D"] | None = None):
        """Returns the solutions with indices `rows`, with other memory if it is given."""
        found = self.memory[rows] if memory is None else memory
        return Solutions(found, self.tokens[rows], self.lengths[rows])


class Scores(NamedTuple):
    """How well each memory predicts its text, teacher-forced.

    Attributes:
      accuracy: share of the scored tokens that are right.
      loss_nats: mean cross-entropy of a scored token.
    """

    accuracy: Float[np.ndarray, "N"]
    loss_nats: Float[np.ndarray, "N"]


def score(lm: LanguageModel, solutions: Solutions, cfg: CramConfig) -> Scores:
    """Teacher-forced accuracy and loss of every memory; `cfg` says which tokens count."""
    loss, accuracy, _ = in_groups(
        lambda rows: lm.run(score_memories, *rows, cfg=cfg), solutions, GROUP
    )
    return Scores(accuracy, loss)


def pairs(
    texts: Int[np.ndarray, "N"], *, same: bool, most: int | None = None, seed: int = 0
) -> Int[np.ndarray, "P 2"]:
    """Pairs of solutions i < j of the same text, or of different texts.

    Args:
      texts: id of the text of each solution.
      same: whether the two solutions of a pair are of the same text.
      most: largest number of pairs, for each text if `same`, else in total; None for all.
      seed: seed of the draw of these pairs.
    """
    first, second = np.triu_indices(len(texts), 1)
    wanted = (texts[first] == texts[second]) == same
    found = np.stack([first[wanted], second[wanted]], 1)
    if most is None:
        return found
    deals = texts[found[:, 0]] if same else np.zeros(len(found), np.int64)
    order = np.random.default_rng(seed).permutation(len(found))
    keep = [order[deals[order] == deal][:most] for deal in np.unique(deals)]
    return found[np.sort(np.concatenate([*keep, np.empty(0, np.int64)]))]


def cosines(
    memory: Float[np.ndarray, "N M D"], rows: Int[np.ndarray, "P 2"]
) -> Float[np.ndarray, "P"]:
    """Cosine of the angle between the two memories of each pair.

    Source: Kuratov et al. 2025, arXiv:2502.13063, Figure 7.
    """
    flat = np.asarray(memory, np.float64).reshape(len(memory), -1)
    flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    return np.sum(flat[rows[:, 0]] * flat[rows[:, 1]], axis=1)


def bezier(start: Numbers, control: Numbers, end: Numbers, theta: Numbers) -> Numbers:
    """Points of quadratic Bezier curves, from `start` at theta = 0 to `end` at theta = 1.

    If the control point is half-way, the curve is the straight line at constant speed. All
    shapes are broadcast against each other.
    """
    rest = 1 - theta
    return rest**2 * start + 2 * rest * theta * control + theta**2 * end


def length_ratios(
    start: Float[np.ndarray, "P M D"],
    control: Float[np.ndarray, "P M D"],
    end: Float[np.ndarray, "P M D"],
) -> Float[np.ndarray, "P"]:
    """Length of each curve divided by that of the straight line between its ends.

    The speed at theta is twice the length of u + theta w, with u = control - start and
    w = start - 2 control + end. It is the root of a quadratic in theta, and is integrated
    by Gauss-Legendre quadrature.
    """
    start, control, end = (
        np.asarray(x, np.float64).reshape(len(x), -1) for x in (start, control, end)
    )
    u, w = control - start, start - 2 * control + end
    nodes, weights = np.polynomial.legendre.leggauss(64)
    theta = (nodes + 1) / 2
    uu, uw, ww = (np.sum(x * y, 1)[:, None] for x, y in ((u, u), (u, w), (w, w)))
    speed = 2 * np.sqrt(np.maximum(uu + 2 * theta * uw + theta**2 * ww, 0))
    return speed @ (weights / 2) / np.linalg.norm(end - start, axis=1)


@dataclasses.dataclass(frozen=True)
class CurveConfig:
    """How the control point of a curve is optimised.

    Attributes:
      steps: number of Adam steps; the learning rate falls to 0 along half a cosine.
      learning_rate: learning rate of the first step, in units of the root mean square
        difference between the two ends, since their distance depends on the LM.
      points: number of points of the curve at every step; each is drawn uniformly from one
        of so many equal parts of the curve.
      seed: seed of the draws; those of a pair do not depend on the other pairs.

    Raises:
      InputError: a value is out of its range.
    """

    steps: int = 100
    learning_rate: float = 0.02
    points: int = 4
    seed: int = 0

    def __post_init__(self):
        for name in ("steps", "learning_rate", "points"):
            check_number(name, getattr(self, name), above=0)
        for name in ("steps", "points"):
            check_count(name, getattr(self, name))
        check_seed("seed", self.seed)


def find_controls(
    lm: LanguageModel,
    solutions: Solutions,
    rows: Int[np.ndarray, "P 2"],
    cfg: CramConfig,
    curve: CurveConfig,
    report: Callable[[int], None] = lambda num_done: None,
) -> Float[np.ndarray, "P M D"]:
    """Finds control points of curves of low loss between two solutions of a text.

    Each starts half-way between the ends and is optimised by gradient descent on the mean
    cross-entropy of the text over the curve.

    Args:
      lm: the frozen language model.
      solutions: solutions of any texts.
      rows: indices of the two ends of each curve, which are solutions of the same text.
      cfg: cram config, which says which tokens are scored.
      curve: how the control points are optimised.
      report: called with the number of curves found, after each group.

    Source: Mezentsev and Oseledets 2025, arXiv:2505.21189; curves between the minima of a
      loss: Garipov et al. 2018, arXiv:1802.10026.
    """
    key = jax.random.key(curve.seed)
    keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(key, row[0]), row[1]))
    ends = solutions.memory[rows[:, 0]], solutions.memory[rows[:, 1]]
    texts = solutions.tokens[rows[:, 0]], solutions.lengths[rows[:, 0]]
    num_done = itertools.count(PAIRS, PAIRS)

    def find(group: tuple) -> Float[np.ndarray, "P M D"]:
        found = fetch(lm.run(_descend, *group, cfg=cfg, curve=curve))
        report(min(next(num_done), len(rows)))
        return found

    return in_groups(find, (keys(jnp.asarray(rows)), *ends, *texts), PAIRS)


@functools.partial(jax.jit, static_argnames=("module", "cfg", "curve"))
def _descend(
    params: Params,
    keys: Key[Array, "P"],
    start: Float[Array, "P M D"],
    end: Float[Array, "P M D"],
    tokens: Int[Array, "P T"],
    lengths: Int[Array, "P"],
    *,
    module: CausalLM,
    cfg: CramConfig,
    curve: CurveConfig,
) -> Float[Array, "P M D"]:
    adam = optax.adam(optax.cosine_decay_schedule(curve.learning_rate, curve.steps))

    def loss(offset, start, end, tokens, length, thetas):
        control = _control(offset, start, end)

        def at(theta):
            point: Any = bezier(start, control, end, theta)
            return score_memory(point, tokens, length, params, module=module, cfg=cfg)[0]

        return jnp.mean(jax.vmap(at)(thetas))

    def one(key, start, end, tokens, length):
        def step(carry, i):
            offset, opt_state = carry
            draws = jax.random.uniform(jax.random.fold_in(key, i), (curve.points,))
            thetas = (jnp.arange(curve.points) + draws) / curve.points
            grad = jax.grad(loss)(offset, start, end, tokens, length, thetas)
            updates, opt_state = adam.update(grad, opt_state, offset)
            return (optax.apply_updates(offset, updates), opt_state), None

        still = jnp.zeros_like(start)
        first = still, adam.init(still)
        (offset, _), _ = jax.lax.scan(step, first, jnp.arange(curve.steps))
        return _control(offset, start, end)

    return jax.vmap(one)(keys, start, end, tokens, lengths)


def _control(offset, start, end):
    """Control point at `offset` from half-way, in root mean square differences of ends."""
    return (start + end) / 2 + offset * jnp.sqrt(jnp.mean((end - start) ** 2))


def along_curves(
    lm: LanguageModel,
    solutions: Solutions,
    rows: Int[np.ndarray, "P 2"],
    controls: Float[np.ndarray, "P M D"],
    thetas: Sequence[float],
    cfg: CramConfig,
) -> Scores:
    """Scores [P thetas] at points along the curve of each pair; see `find_controls`.

    Source: Kuratov et al. 2025, arXiv:2502.13063, Figure 8, for straight lines.
    """
    start, end = solutions.memory[rows[:, 0]], solutions.memory[rows[:, 1]]
    at = np.array(thetas, np.float32)[:, None, None]
    points = bezier(start[:, None], controls[:, None], end[:, None], at)
    each = np.repeat(rows[:, 0], len(thetas))
    memory = np.asarray(points).reshape(len(each), *controls.shape[1:])
    scores = score(lm, solutions.at(each, memory), cfg)
    return Scores(*(column.reshape(len(rows), len(thetas)) for column in scores))


class Nearest(NamedTuple):
    """The token embeddings nearest to a vector.

    Attributes:
      norm: norm of the vector.
      cosine, cosine_token: largest cosine with a token's embedding, and this token.
      distance, distance_token: smallest distance from an embedding, and its token.
    """

    norm: float
    cosine: float
    cosine_token: int
    distance: float
    distance_token: int


def vocabulary(lm: LanguageModel) -> Float[np.ndarray, "V D"]:
    """The input vector that the LM reads for each token, in float32."""
    return fetch(lm.run(_vectors, jnp.arange(lm.config.vocab_size)))


@functools.partial(jax.jit, static_argnames="module")
def _vectors(
    params: Params, tokens: Int[Array, "V"], *, module: CausalLM
) -> Float[Array, "V D"]:
    return embed(params, tokens[None], module=module)[0].astype(jnp.float32)


def nearest(
    vectors: Float[np.ndarray, "N D"],
    table: Float[np.ndarray, "V D"],
    but: Int[np.ndarray, "N"] | None = None,
) -> list[Nearest]:
    """Finds the entries of `table` nearest to each vector i, except entry `but[i]`.

    Entries of length 0 have no direction and are never the nearest by cosine.
    """
    norms = np.linalg.norm(table, axis=1)
    found = []
    for i, vector in enumerate(np.asarray(vectors, np.float32)):
        norm = float(np.linalg.norm(vector))
        distance = np.linalg.norm(table - vector, axis=1)
        cosine = np.full(len(table), -np.inf)
        np.divide(table @ vector, norm * norms, out=cosine, where=norm * norms > 0)
        if but is not None:
            cosine[but[i]], distance[but[i]] = -np.inf, np.inf
        a, b = int(cosine.argmax()), int(distance.argmin())
        found.append(Nearest(norm, float(cosine[a]), a, float(distance[b]), b))
    return found


def padded(texts: Sequence[Text]) -> tuple[np.ndarray, np.ndarray]:
    """Returns token ids [N T], padded on the right with 0, and lengths [N]."""
    lengths = np.array([len(text.tokens) for text in texts], np.int32)
    tokens = np.zeros((len(texts), lengths.max()), np.int32)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text.tokens)] = text.tokens
    return tokens, lengths
