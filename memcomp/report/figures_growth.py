"""Horizons over cost: how long the exact prefixes are after so many token-steps."""

import collections
import itertools
from collections.abc import Iterable, Mapping

import numpy as np
from matplotlib.axes import Axes

from memcomp.report.load import Key
from memcomp.report.published import lm_name
from memcomp.report.section import Section
from memcomp.report.style import COLOURS, Drawn, drawn, label_ends, plain_wide_ticks


class Curve:
    """Exact prefix of a text over token-steps, which does not change between its lines.

    Attributes:
      costs: token-steps of each line, increasing.
      prefixes: the longest exact prefix until then, in tokens.
      known_to: token-steps up to which the prefix is known; infinite for a text whose
        horizon is known.
    """

    def __init__(self, lines: Iterable[Mapping], ended: bool):
        at: dict[int, int] = {}
        for line in lines:
            at[line["token_steps"]] = line["prefix"]
        self.costs = np.array(sorted(at), np.float64)
        self.prefixes = np.maximum.accumulate([at[cost] for cost in sorted(at)])
        self.known_to = np.inf if ended else self.costs[-1]

    def at(self, costs: np.ndarray) -> np.ndarray:
        """Exact prefix after each of these numbers of token-steps; 0 before the first."""
        before = np.searchsorted(self.costs, costs, side="right")
        return np.concatenate([[0], self.prefixes])[before]


def mean_curve(curves: Iterable[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Mean prefix of texts over token-steps, as far as all of them are known."""
    curves = list(curves)
    costs = np.unique(np.concatenate([curve.costs for curve in curves]))
    costs = costs[costs <= min(curve.known_to for curve in curves)]
    return costs, np.mean([curve.at(costs) for curve in curves], axis=0)


def horizons_over_cost(section: Section) -> Drawn | None:
    """Draws the exact prefix of each text, and the mean of a recipe, over token-steps."""
    found: dict[Key, dict[Key, list[Curve]]] = {}
    for key, curves in _curves(section).items():
        found.setdefault(key._replace(recipe=""), {})[key] = curves

    def draw(axis: Axes, panel: Key) -> list[tuple]:
        axis.set_xscale("log")
        rows, ends = [], []
        of_recipes = zip(found[panel].items(), itertools.cycle(COLOURS), strict=False)
        for (key, curves), colour in of_recipes:
            for curve in curves:
                thin = {"color": colour, "lw": 0.8, "alpha": 0.35}
                axis.step(curve.costs, curve.prefixes, where="post", **thin)
            costs, means = mean_curve(curves)
            axis.step(costs, means, where="post", color=colour, lw=2.4)
            ends.append((float(means[-1]), f"{key.recipe} (n = {len(curves)})", colour))
            rows += [
                (*key[1:], len(curves), *point) for point in zip(costs, means, strict=True)
            ]
        axis.set(xlabel="token-steps a text", ylabel="exact prefix (tokens)")
        axis.set_title(f"{lm_name(panel.lm)}, {panel.source}, K = {panel.num_memory}")
        axis.set_ylim(bottom=0)
        plain_wide_ticks(axis, (1.0,))
        label_ends(axis, ends)
        return rows

    return drawn(
        [(panel,) for panel in found],
        draw,
        title="What a recipe holds after so much work: exact prefixes over token-steps",
        caption="Thin: a text. Thick: the mean of a recipe's texts, as far as all of them "
        "have come. The memory gives the prefix teacher-forced.",
        head=(*Key._fields[1:], "n", "token_steps", "mean_prefix"),
        width=7.0,
        most=2,
    )


def _curves(section: Section) -> dict[Key, list[Curve]]:
    ended = collections.defaultdict(set)
    for record in section.horizons:
        ended[record["key"]].add(record["seed_id"])
    lines: dict[Key, dict[int, list]] = {}
    for record in sorted(section.growth, key=lambda record: record["key"]):
        of_key = lines.setdefault(record["key"], {})
        of_key.setdefault(record["seed_id"], []).append(record)
    return {
        key: [Curve(of_text, i in ended[key]) for i, of_text in by_text.items()]
        for key, by_text in lines.items()
    }
