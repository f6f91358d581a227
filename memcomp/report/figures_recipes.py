"""What one vector of a real language model holds by each recipe, and what was published."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from memcomp.metrics.capacity import estimate
from memcomp.report.corpora import is_random
from memcomp.report.published import (
    PublishedHorizon,
    lm_name,
    published_horizons,
)
from memcomp.report.section import Section, is_lower_bound
from memcomp.report.style import COLOURS, Drawn, panels

# Panel -> figure -> field of a record, and of the published row.
PANELS = {
    "tokens": {"horizon": "horizon"},
    "bits": {"surprise": "horizon_bits", "gain": "information_gain_bits"},
}
OURS = {"horizon": COLOURS[0], "surprise": COLOURS[0], "gain": COLOURS[2]}
PUBLISHED = COLOURS[1]
HEAD = ("lm", "recipe", "figure", "panel", "n", "mean", "spread", "kind of spread")


class _Line(NamedTuple):
    """A recipe of one LM: what we measured, and what was published, if anything was."""

    lm: str
    recipe: str
    records: list[dict]
    published: PublishedHorizon | None


def horizons_by_recipe(section: Section) -> Drawn | None:
    """Horizons of one vector by recipe, of LMs of which horizons were published."""
    of_lm: dict[str, dict[str, list[dict]]] = {}
    for r in sorted(section.horizons, key=lambda r: r["key"]):
        key = r["key"]
        if key.num_memory == 1 and not is_random(key.source) and published_horizons(key.lm):
            name = key.recipe
            if (key.source, key.dtype) != ("novels", "float32"):
                name = f"{name} ({key.source}, {key.dtype})"
            of_lm.setdefault(key.lm, {}).setdefault(name, []).append(r)
    if not of_lm:
        return None
    lines = {lm: _lines(lm, ours) for lm, ours in of_lm.items()}
    height = 1.2 + 0.42 * max(map(len, lines.values()))
    figure, axes = panels(2 * len(lines), width=5.6, height=height, most=2)
    rows: list[tuple] = []
    for i, (lm, of_this) in enumerate(lines.items()):
        for axis, panel in zip(axes[2 * i : 2 * i + 2], PANELS, strict=True):
            rows += _draw(axis, panel, of_this)
            axis.set_yticks(range(len(of_this)), [line.recipe for line in of_this])
            axis.set(ylim=(-0.6, len(of_this) - 0.2), xlabel=f"{lm_name(lm)}: {panel}")
            axis.set_xlim(left=0)
    handles, labels = axes[1].get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    figure.legend(
        list(named.values()), list(named), loc="outside lower center", ncols=3, fontsize=9
    )
    caption = (
        "A point a text, decoded from its stored vector; black: the mean. Surprise: bits "
        "of the prefix for the LM without memory; gain: what memory saves; ≥: some texts "
        "are exact to their end or were still growing. Published: "
        "mean and standard deviation on other texts, teacher-forced, in bfloat16, bits of "
        "gain; an instruction-tuned LM stands beside its base model."
    )
    title = "What one vector holds: the longest prefix of a text that comes back exactly"
    return Drawn(title, caption, figure, HEAD, rows)


def _lines(lm: str, ours: dict[str, list[dict]]) -> list[_Line]:
    """Published recipes from the bottom, then ours that nobody else has published."""
    published = published_horizons(lm)
    names = dict.fromkeys([*published, *ours])
    return [_Line(lm, name, ours.get(name, []), published.get(name)) for name in names]


def _draw(axis: Axes, panel: str, lines: Sequence[_Line]) -> list[tuple]:
    """One quantity of all recipes of an LM; the numbers that are drawn."""
    rows = []
    for y, line in enumerate(lines):
        if line.published is not None:
            rows += _draw_published(axis, panel, y, line)
        for figure, field in PANELS[panel].items():
            if line.records:
                rows.append(_draw_ours(axis, panel, y, line, figure, field))
    return rows


def _draw_published(axis: Axes, panel: str, y: int, line: _Line) -> list[tuple]:
    mean = getattr(line.published, panel)
    std = getattr(line.published, f"{panel}_std")
    if mean is None:
        return []
    style = {"fmt": "D", "color": PUBLISHED, "mfc": "white", "capsize": 3}
    axis.errorbar(mean, y - 0.2, xerr=std, label="published", **style)
    row = (lm_name(line.lm), line.recipe, "published", panel, None, mean, std)
    return [(*row, "standard deviation")]


def _draw_ours(
    axis: Axes, panel: str, y: int, line: _Line, figure: str, field: str
) -> tuple:
    values = np.array([r.get(field, np.nan) for r in line.records], np.float64)
    e = estimate(values, np.array([r["text_id"] for r in line.records]))
    heights = y + 0.1 + np.random.default_rng(0).uniform(-0.1, 0.1, len(values))
    label = f"ours, {figure}" if panel == "bits" else "ours"
    axis.scatter(values, heights, s=14, alpha=0.6, color=OURS[figure], label=label)
    axis.plot([e.mean] * 2, [y - 0.05, y + 0.25], color="black", lw=2)
    at_least = any(map(is_lower_bound, line.records))
    said = f"≥ {e.mean:.4g}" if at_least else f"{e.mean:.4g}"
    axis.text(e.mean, y + 0.25, said, ha="center", va="bottom", fontsize=8)
    row = (lm_name(line.lm), line.recipe, figure, panel, e.n, e.mean, e.standard_error)
    return (*row, "standard error")
