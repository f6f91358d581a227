"""Figure 4, and horizons: capacity of memory over its number of vectors."""

import collections
import math
from collections.abc import Iterable, Mapping
from typing import Any

from matplotlib.axes import Axes

from memcomp.metrics.capacity import Estimate, estimate_of
from memcomp.report.figures_capacity import WHO, beside, who
from memcomp.report.load import Key
from memcomp.report.measures import Measures
from memcomp.report.published import lm_name
from memcomp.report.section import Section
from memcomp.report.style import (
    GREY,
    Drawn,
    drawn,
    label_ends,
    line,
    plain_ticks,
    plain_wide_ticks,
    source_colours,
    tick_lengths,
)

# Key of a line, with num_memory 0 -> number of vectors -> its measures or records.
Series = dict[Key, dict[int, list[Any]]]


def figure_4(section: Section) -> Drawn | None:
    """Draws capacity, token gain and information gain over the number of vectors."""
    series = _series((m.key, m) for m in section.measures)
    unit, factor = section.unit

    def draw(axis: Axes, label: str, field: str, scale: float) -> list[tuple]:
        rows, means, published = [], {}, {}
        for key, by_k in series.items():
            means[key], published[key] = {}, {}
            for k, (m,) in by_k.items():
                means[key][k] = e = _estimate(m, field).times(scale)
                rows.append((*who(m), label, e.mean, *e.interval))
                known = getattr(beside(section, m), field, None)
                if known is not None:
                    published[key][k] = known * scale
        _draw(axis, means, label, published=published)
        return rows

    return drawn(
        [
            ("capacity (tokens)", "max", 1.0),
            ("token gain (tokens)", "gain", 1.0),
            (f"information gain ({unit})", "nats", factor),
        ]
        if series
        else [],
        draw,
        title="Figure 4. More vectors",
        caption="Line: ours, with its 95% interval over texts; dashed: the fewest vectors' "
        "value times their number; ◇: published. Gains are over texts with an accuracy of "
        "at most 0.99.",
        head=(*WHO, "metric", "value", "low", "high"),
        width=4.9,
        height=4.2,
    )


def horizons_over_vectors(section: Section) -> Drawn | None:
    """Draws the mean horizon, and its bits per vector, over the number of vectors."""
    series = _series((r["key"], r) for r in section.horizons)

    def draw(axis: Axes, field: str, label: str, a_vector: bool) -> list[tuple]:
        means = {
            key: {
                k: estimate_of(records, field).times(1 / k if a_vector else 1.0)
                for k, records in by_k.items()
            }
            for key, by_k in series.items()
        }
        _draw(axis, means, label, a_vector=a_vector)
        return [
            (*key[1:-1], k, label, e.n, e.mean, e.low, e.high)
            for key, by_k in means.items()
            for k, e in by_k.items()
        ]

    return drawn(
        [
            ("horizon", "mean horizon (tokens)", False),
            ("horizon_bits", "surprise of it, bits a vector", True),
        ]
        if series
        else [],
        draw,
        title="Horizons over the number of vectors",
        caption="Line: mean over texts with its 95% interval; dashed: as many times what "
        "the fewest vectors hold.",
        head=(*Key._fields[1:-1], "vectors", "metric", "n", "mean", "low", "high"),
        height=4.2,
    )


def horizons_over_parameters(section: Section) -> Drawn | None:
    """Draws the bits of mean horizons over the free parameters of memory, of all ways."""
    groups = collections.defaultdict[Key, dict[int, list[Any]]](dict)
    ways = collections.defaultdict[str, set[str]](set)
    names: dict[Key, str] = {}
    for r in section.horizons:
        if "num_parameters" in r:
            key, way = r["key"]._replace(num_memory=0), r["memory"]
            groups[key].setdefault(r["num_parameters"], []).append(r)
            ways[key.lm].add(way)
            # The recipe of any other way begins with its name.
            label = f"{key.recipe}, {key.source}"
            names[key] = f"vectors, {label}" if way == "vectors" else label

    def draw(axis: Axes, lm: str) -> list[tuple]:
        ends, rows = [], []
        lines = {key: by_n for key, by_n in sorted(groups.items()) if key.lm == lm}
        colours = source_colours(names.values())
        for key, by_n in lines.items():
            means = {n: estimate_of(of, "horizon_bits") for n, of in sorted(by_n.items())}
            colour = colours[names[key]]
            ends.append((line(axis, means, colour, bars=True), names[key], colour))
            tokens = {n: estimate_of(of, "horizon").mean for n, of in by_n.items()}
            rows += [
                (*key[1:-1], n, e.n, tokens[n], e.mean, e.low, e.high)
                for n, e in means.items()
            ]
        axis.set(xscale="log", yscale="log", title=lm_name(lm))
        axis.set(xlabel="free parameters of a memory", ylabel="surprise held exactly, bits")
        plain_ticks(axis)
        plain_wide_ticks(axis)
        label_ends(axis, [end for end in ends if math.isfinite(end[0])])
        return rows

    return drawn(
        [(lm,) for lm in sorted(ways) if len(ways[lm]) > 1],
        draw,
        title="Bits over free parameters",
        caption="Mean over texts of the surprise of the horizon, with its 95% interval.",
        head=(*Key._fields[1:-1], "parameters", "n", "tokens", "bits", "low", "high"),
        height=4.2,
    )


def _series(pairs: Iterable[tuple[Key, Any]]) -> Series:
    """Groups values by key and number of vectors; drops keys with only one number."""
    found = collections.defaultdict[Key, dict[int, list[Any]]](dict)
    for key, thing in pairs:
        found[key._replace(num_memory=0)].setdefault(key.num_memory, []).append(thing)
    return {
        key: dict(sorted(by_k.items()))
        for key, by_k in sorted(found.items())
        if len(by_k) > 1
    }


def _estimate(m: Measures, field: str) -> Estimate:
    """A metric by its field of `PublishedCapacity`; a capacity of 0 becomes NaN."""
    if field == "max":
        c = m.capacity
        tokens, low, high = (float(x) or math.nan for x in (c.tokens, c.low, c.high))
        return Estimate(c.n, tokens, None, None, low, high)
    return m.token_gain if field == "gain" else m.information_gain


def _draw(
    axis: Axes,
    means: Mapping[Key, Mapping[int, Estimate]],
    label: str,
    *,
    published: Mapping[Key, Mapping[int, float]] | None = None,
    a_vector: bool = False,
) -> None:
    """Draws lines and their names, and what each would be if all vectors held the same.

    Args:
      axis: axes of the panel.
      means: key of a line -> number of vectors -> mean.
      label: label of the y axis.
      published: published values, in the form of `means`.
      a_vector: whether means are per vector, which are drawn on a linear axis.
    """
    names = {key: f"{lm_name(key.lm)}, {key.source}" for key in means}
    colours = source_colours(names.values())
    ends = []
    for key, by_k in means.items():
        colour, fewest = colours[names[key]], min(by_k)
        ends.append((line(axis, by_k, colour, bars=True), names[key], colour))
        ideal = [by_k[fewest].mean * (1 if a_vector else k / fewest) for k in by_k]
        axis.plot(list(by_k), ideal, "--", color=colour, lw=1, alpha=0.7)
        ends.append((ideal[-1], "linear", colour))
        if known := (published or {}).get(key):
            axis.plot(*zip(*known.items(), strict=True), "D", mfc="none", mec=GREY)
            ends.append((known[max(known)], "published ◇", GREY))
    axis.set(xscale="log", xlabel="vectors", ylabel=label)
    axis.set(**({"ylim": (0, None)} if a_vector else {"yscale": "log"}))
    tick_lengths(axis, {k for by_k in means.values() for k in by_k})
    if not a_vector:
        plain_ticks(axis)
    label_ends(axis, [end for end in ends if math.isfinite(end[0])])
