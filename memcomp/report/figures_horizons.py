"""Horizons: how long a prefix of each text comes back, and how that grows with vectors."""

import math

import numpy as np
from matplotlib.axes import Axes

from memcomp.metrics.capacity import Estimate, estimate
from memcomp.report.load import Key
from memcomp.report.published import lm_name
from memcomp.report.section import Section
from memcomp.report.style import (
    GREY,
    Drawn,
    label_ends,
    panels,
    plain_ticks,
    source_colours,
    tick_lengths,
)


def horizons(section: Section) -> Drawn | None:
    """The longest exact prefix of each text: in tokens, and in bits of surprise."""
    records = section.horizons
    if not records:
        return None
    groups: dict[Key, list] = {}
    for r in sorted(records, key=lambda r: r["key"]):
        groups.setdefault(r["key"], []).append(r)
    colours = source_colours(section.sources)
    several = len({key._replace(source="") for key in groups}) > 1
    figure, axes = panels(2, width=5.4, height=1.6 + 0.62 * len(groups))
    rng = np.random.default_rng(0)
    rows = []
    fields = (("horizon", "tokens"), ("horizon_bits", "bits of surprise without memory"))
    for axis, (field, unit) in zip(axes, fields, strict=True):
        for y, (key, found) in enumerate(groups.items()):
            values = np.array([r.get(field, math.nan) for r in found], np.float64)
            jitter = y + rng.uniform(-0.16, 0.16, len(values))
            axis.scatter(values, jitter, s=12, alpha=0.5, color=colours[key.source])
            axis.plot([np.nanmean(values)] * 2, [y - 0.32, y + 0.32], color="black", lw=2)
            axis.text(
                float(np.nanmean(values)),
                y + 0.34,
                f"{np.nanmean(values):.4g}",
                ha="center",
                va="bottom",
                fontsize=9,
            )
            rows += [(*key[1:], unit, float(v)) for v in values]
        names = [
            f"{key.source}\n{lm_name(key.lm)}, K = {key.num_memory}, {key.recipe}"
            if several
            else key.source
            for key in groups
        ]
        axis.set_yticks(range(len(groups)), names)
        axis.set(ylim=(-0.6, len(groups) - 0.3), xlabel=f"horizon ({unit})")
        axis.set_xlim(left=0)
    head = (*Key._fields[1:], "unit", "horizon")
    title = "Horizons: the longest prefix of a text that comes back exactly"
    caption = "A point a text; the black line is the mean."
    return Drawn(title, caption, figure, head, rows)


def horizons_over_vectors(section: Section) -> Drawn | None:
    """Mean horizon in tokens, and the surprise that a vector holds, over their number."""
    series: dict[Key, dict[int, list]] = {}
    for r in section.horizons:
        by_k = series.setdefault(r["key"]._replace(num_memory=0), {})
        by_k.setdefault(r["key"].num_memory, []).append(r)
    series = {key: by_k for key, by_k in sorted(series.items()) if len(by_k) > 1}
    if not series:
        return None
    names = {key: f"{lm_name(key.lm)}, {key.source}" for key in series}
    colours = source_colours(names.values())
    figure, axes = panels(2, height=4.2)
    fields = (
        ("horizon", "mean horizon (tokens)", False),
        ("horizon_bits", "surprise of it, bits a vector", True),
    )
    rows: list[tuple] = []
    for axis, (field, label, a_vector) in zip(axes, fields, strict=True):
        ends = []
        for key, by_k in series.items():
            found = {k: _mean(by_k[k], field, k if a_vector else 1) for k in sorted(by_k)}
            first = next(iter(found))
            ideal = [found[first].mean * (1 if a_vector else k / first) for k in found]
            axis.plot(list(found), ideal, "--", color=GREY, lw=1)
            end = _line(axis, found, colours[names[key]])
            ends += [(end, names[key], colours[names[key]]), (ideal[-1], "linear", GREY)]
            for k, e in found.items():
                rows.append((*key[1:-1], k, label, e.n, e.mean, e.low, e.high))
        axis.set(xscale="log", xlabel="vectors", ylabel=label)
        axis.set(**({"ylim": (0, None)} if a_vector else {"yscale": "log"}))
        tick_lengths(axis, {k for by_k in series.values() for k in by_k})
        if not a_vector:
            plain_ticks(axis)
        label_ends(axis, ends)
    head = (*Key._fields[1:-1], "vectors", "metric", "n", "mean", "low", "high")
    caption = (
        "Line: mean over texts with its 95% interval; dashed: as many times what the "
        "fewest vectors hold."
    )
    return Drawn("Horizons over the number of vectors", caption, figure, head, rows)


def _mean(records: list[dict], field: str, divisor: int) -> Estimate:
    values = np.array([r.get(field, math.nan) for r in records], np.float64) / divisor
    return estimate(values, np.array([r["text_id"] for r in records]))


def _line(axis: Axes, found: dict[int, Estimate], colour: str) -> float:
    """Means with their intervals over the number of vectors; the last mean."""
    means = [e.mean for e in found.values()]
    low = [e.mean if e.low is None else e.low for e in found.values()]
    high = [e.mean if e.high is None else e.high for e in found.values()]
    errors = np.abs(np.array([low, high]) - means)
    axis.errorbar(list(found), means, errors, fmt="-o", color=colour, ms=4, capsize=3)
    return means[-1]
