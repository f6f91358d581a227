"""Figures 4 and 5: capacity against the number and the size of the vectors."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from memcomp.metrics.capacity import Estimate
from memcomp.report.figures_capacity import (
    WHO,
    bar_rows,
    beside,
    name_lms,
    who,
)
from memcomp.report.measures import Measures
from memcomp.report.section import Section, by_lm
from memcomp.report.style import (
    GREY,
    Drawn,
    label_ends,
    panels,
    plain_ticks,
    source_colours,
    spread,
    tick_lengths,
)


def figure_4(section: Section) -> Drawn | None:
    """Capacity, token gain and information gain over the number of vectors."""
    series: dict[tuple, dict[int, Measures]] = {}
    for m in section.measures:
        series.setdefault(m.key._replace(num_memory=0), {})[m.key.num_memory] = m
    series = {key: by_k for key, by_k in sorted(series.items()) if len(by_k) > 1}
    if not series:
        return None
    unit, factor = section.unit
    figure, axes = panels(3, width=4.9, height=4.2)
    names = {
        key: f"{next(iter(s.values())).group.label}, {key.source}"
        for key, s in series.items()
    }
    colours = source_colours(names.values())
    fields = (
        ("max", "capacity (tokens)", 1.0),
        ("gain", "token gain (tokens)", 1.0),
        ("nats", f"information gain ({unit})", factor),
    )
    rows: list[tuple] = []
    for axis, (field, label, scale) in zip(axes, fields, strict=True):
        ends = []
        for key, by_k in series.items():
            colour, name = colours[names[key]], names[key]
            ends += _over_vectors(
                section, axis, by_k, field=field, scale=scale, colour=colour, name=name
            )
            rows += [
                (*who(m), label, *_point(m, field, scale)) for _, m in sorted(by_k.items())
            ]
        vectors = {k for by_k in series.values() for k in by_k}
        axis.set(xscale="log", yscale="log", xlabel="vectors", ylabel=label)
        tick_lengths(axis, vectors)
        plain_ticks(axis)
        label_ends(axis, ends)
    head = (*WHO, "metric", "value", "low", "high")
    caption = (
        "Line: ours, with its 95% interval over texts; dashed: the fewest vectors' value "
        "times their number; ◇: published. Gains are over texts with an accuracy of at "
        "most 0.99."
    )
    return Drawn("Figure 4. More vectors", caption, figure, head, rows)


def _point(m: Measures, field: str, scale: float) -> tuple[float, float, float]:
    """Value and interval of a metric; NaN where there is none."""
    if field == "max":
        c = m.capacity
        tokens, low, high = (float(x) or math.nan for x in (c.tokens, c.low, c.high))
        return tokens, low, high
    e = (m.token_gain if field == "gain" else m.information_gain).times(scale)
    low = e.mean if e.low is None else e.low
    return e.mean, low, e.mean if e.high is None else e.high


def _over_vectors(
    section: Section,
    axis: Axes,
    by_k: dict[int, Measures],
    *,
    field: str,
    scale: float,
    colour: str,
    name: str,
) -> list[tuple[float, str, str]]:
    """Draws one line of Figure 4; gives its labels."""
    ks = sorted(by_k)
    points = np.array([_point(by_k[k], field, scale) for k in ks])
    errors = np.maximum(np.abs(points[:, :1] - points[:, 1:]).T, 0)
    axis.errorbar(ks, points[:, 0], yerr=errors, fmt="-o", color=colour, ms=4, capsize=3)
    ideal = points[0, 0] / ks[0] * np.array(ks)
    axis.plot(ks, ideal, "--", color=colour, lw=1, alpha=0.7)
    ends = []
    if np.isfinite(points[-1, 0]):
        ends.append((points[-1, 0], name, colour))
    if np.isfinite(ideal[-1]):
        ends.append((float(ideal[-1]), "linear", colour))
    known = {k: getattr(row, field) for k in ks if (row := beside(section, by_k[k]))}
    known = {k: value * scale for k, value in known.items() if value is not None}
    if known:
        axis.plot(*zip(*known.items(), strict=True), "D", mfc="none", mec=GREY)
        ends.append((known[max(known)], "published ◇", GREY))
    return ends


def figure_5(section: Section) -> Drawn | None:
    """Theoretical bound against token gain, and how much of it is used."""
    measures = [m for m in section.fewest_vectors() if m.bound and m.token_gain.n]
    lms = by_lm(measures)
    if not lms:
        return None
    colours = source_colours(section.sources)
    _, heights = bar_rows(lms)
    height = max(4.2, 1.2 + 0.42 * (heights[0] - heights[-1] + 2))
    figure, axes = panels(3, width=5.2, height=height)
    _bounds(section, axes[0], measures, colours)
    rows: list[tuple[Any, ...]] = []
    for m, y in zip((m for ms in lms.values() for m in ms), heights, strict=True):
        tokens, bits = m.utilisation, m.bits_per_dimension
        assert tokens and bits and m.bound
        known = beside(section, m)
        share = 100 * known.gain / m.bound if known and known.gain else None
        _bar(
            axes[1],
            y,
            tokens.times(100.0),
            colours[m.key.source],
            "%",
            share,
        )
        width = m.group.about["d_model"] * m.key.num_memory
        nats = known.nats / width / math.log(2) if known and known.nats else None
        _bar(axes[2], y, bits, colours[m.key.source], "", nats)
        rows.append((*who(m), m.bound, m.token_gain.mean, *tokens, *bits, share, nats))
    for axis, label in zip(
        axes[1:],
        ("token gain over the bound (%)", "information gain (bits a dimension)"),
        strict=True,
    ):
        name_lms(axis, lms, heights)
        axis.set(xlabel=label)
        axis.margins(x=0.3)
        axis.set_xlim(left=0)
    head = (
        *WHO,
        "bound, tokens",
        "token gain",
        *(f"utilisation, {name}" for name in Estimate._fields),
        *(f"bits a dimension, {name}" for name in Estimate._fields),
        "published utilisation, %",
        "published bits a dimension",
    )
    caption = (
        "Bound: 16 d / log2 V tokens a vector. Left: marker area grows with the LM's "
        "parameters. Bars: mean with its 95% interval over texts; ◇: published."
    )
    return Drawn("Figure 5. Use of the theoretical bound", caption, figure, head, rows)


def _bar(
    axis: Axes, y: float, e: Estimate, colour: str, unit: str, known: float | None
) -> None:
    axis.barh(y, e.mean, height=0.72, color=colour, alpha=0.6)
    high = e.mean
    if e.low is not None and e.high is not None:
        axis.plot([e.low, e.high], [y, y], color="black", lw=1.4)
        high = e.high
    words = f"{e.mean:.3g}{unit}"
    if known is not None:
        axis.plot(known, y, "D", mfc="white", mec="black", ms=6)
        words += f"; ◇ {known:.3g}{unit}"
    axis.annotate(
        words,
        (max(high, known or 0), y),
        xytext=(9, 0),
        textcoords="offset points",
        va="center",
    )


def _bounds(
    section: Section, axis: Axes, measures: list[Measures], colours: dict[str, str]
) -> None:
    """Token gain over the theoretical bound, a marker a group."""
    axis.set(xlabel="bound (tokens)", ylabel="token gain (tokens)")
    for m in measures:
        area = 18 + 12 * max(0.0, math.log10(m.group.about.get("parameters") or 1) - 6) ** 2
        x, y, colour = m.bound or 0.0, m.token_gain.mean, colours[m.key.source]
        axis.scatter(x, y, s=area, color=colour, alpha=0.85, edgecolor="white")
        known = beside(section, m)
        if known and known.gain:
            axis.scatter(x, known.gain, s=45, marker="D", fc="none", ec=GREY)
    axis.margins(0.12)
    axis.set_xlim(left=0, right=axis.get_xlim()[1] * 1.5)
    top = 1.12 * axis.get_ylim()[1]
    axis.set_ylim(0, top)
    by_bound: dict[float, list[Measures]] = {}
    for m in measures:
        by_bound.setdefault(m.bound or 0.0, []).append(m)
    for x, here in by_bound.items():
        heights = spread([m.token_gain.mean / top for m in here], 0.055)
        for m, height in zip(here, heights, strict=True):
            axis.annotate(
                f"{m.group.label}, {m.key.source}",
                (x, height * top),
                xytext=(9, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color=colours[m.key.source],
            )
