"""Figures 1 and 5, and accuracy over length: capacity of memory by LM and source."""

import collections
import math

from matplotlib.axes import Axes

from memcomp.metrics.capacity import THRESHOLD, Capacity, Estimate
from memcomp.report.measures import Measures
from memcomp.report.published import (
    PublishedCapacity,
    published_capacity,
    published_lengths,
)
from memcomp.report.section import Section, by_lm
from memcomp.report.style import (
    GREY,
    Drawn,
    bar,
    drawn,
    label_ends,
    line,
    source_colours,
    spread,
    tick_lengths,
)

WHO = ("LM", "revision", "recipe", "source", "vectors")


def who(m: Measures) -> tuple:
    """Values of the columns WHO."""
    key = m.key
    return m.group.label, key.revision, key.recipe, key.source, key.num_memory


def beside(section: Section, m: Measures) -> PublishedCapacity | None:
    """Published capacity of the same LM, source and number of vectors."""
    model = m.group.published
    if model is None or not section.is_reference:
        return None
    return published_capacity(model.name, m.key.source, m.key.num_memory)


def bar_heights(lms: dict[str, list[Measures]]) -> list[tuple[Measures, float]]:
    """Returns measures from top to bottom with their bars' heights; gaps separate LMs."""
    rows, y = [], 0.0
    for measures in lms.values():
        rows += [(m, y - i) for i, m in enumerate(measures)]
        y -= len(measures) + 0.9
    return rows


def name_lms(axis: Axes, lms: dict[str, list[Measures]]) -> None:
    """Writes the LM above its bars, and the source beside each bar."""
    rows = bar_heights(lms)
    heights = [y for _, y in rows]
    axis.set_yticks(heights, [m.key.source for m, _ in rows])
    first = 0
    for name, measures in lms.items():
        axis.text(
            0,
            heights[first] + 0.55,
            name,
            transform=axis.get_yaxis_transform(),
            weight="bold",
            va="bottom",
        )
        first += len(measures)
    axis.set_ylim(min(heights) - 0.7, max(heights) + 1.3)
    axis.set_xlim(left=0)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", visible=False)


def _height(lms: dict[str, list[Measures]]) -> float:
    """Height of a panel of bars in inches."""
    heights = [y for _, y in bar_heights(lms)]
    return 1.2 + 0.42 * (max(heights, default=0) - min(heights, default=0) + 2)


def figure_1(section: Section) -> Drawn | None:
    """Draws the capacity of one vector by LM."""
    lms = by_lm(m for m in section.fewest_vectors() if m.key.num_memory == 1)
    colours = source_colours(section.sources)
    what = "mean teacher-forced accuracy of 0.99"
    if section.protocol == "strict":
        what = "99% of texts exact, greedily"

    def draw(axis: Axes) -> list[tuple]:
        rows = []
        for m, y in bar_heights(lms):
            c, known = m.capacity, beside(section, m)
            published = known.max if known else None
            words = _capacity_words(c) + (f"; published ◇ {published}" if known else "")
            interval = (c.low, c.high) if c.tokens else None
            bar(axis, y, c.tokens, interval, colours[m.key.source], words, published)
            rows.append((*who(m), *c[:5], published))
        axis.margins(x=0.28)
        name_lms(axis, lms)
        axis.set_xlabel(f"tokens in one vector ({what})")
        return rows

    return drawn(
        [()] if lms else [],
        draw,
        title="Figure 1. Capacity of one vector",
        caption="Bar: the longest length that passes; black line: its 95% interval over "
        "texts; “≥”: nothing longer was tried.",
        head=(*WHO, "tokens", "n", "low", "high", "nothing longer tried", "published"),
        width=8.0,
        height=_height(lms),
    )


def _capacity_words(c: Capacity) -> str:
    if not c.tokens:
        return "no length passes"
    return f"≥ {c.tokens}" if c.at_end else f"{c.tokens}"


def accuracy_over_length(section: Section) -> Drawn | None:
    """Draws the share of right tokens and of exact texts over length."""
    colours = source_colours(section.sources)

    def draw(axis: Axes, name: str, measures: list[Measures]) -> list[tuple]:
        rows, ends, lengths = [], [], set()
        for m in measures:
            colour = colours[m.key.source]
            accuracy, exact = (m.by_length[k] for k in ("accuracy", "exact_greedy"))
            ends.append((line(axis, accuracy, colour), m.key.source, colour))
            xs = list(accuracy)
            axis.plot(xs, [exact[x].mean for x in xs], "--", color=colour, lw=1.1)
            lengths |= set(xs)
            known = _published_accuracy(section, m)
            if known:
                axis.plot(*zip(*known.items(), strict=True), "D", mfc="none", mec=GREY)
                ends.append((known[max(known)], "published ◇", GREY))
            rows += [(*who(m), x, *accuracy[x], exact[x].mean, known.get(x)) for x in xs]
        axis.axhline(THRESHOLD, color="0.6", lw=0.8, ls=":")
        axis.set(xscale="log", ylim=(-0.03, 1.05), title=name, xlabel="tokens in the text")
        tick_lengths(axis, lengths)
        axis.set_ylabel("share of tokens right (—), of texts exact (- -)")
        label_ends(axis, ends)
        return rows

    return drawn(
        by_lm(section.fewest_vectors()).items(),
        draw,
        title="Accuracy over length",
        caption="Full line: mean teacher-forced accuracy with its 95% interval over "
        "texts; dashed: share of texts decoded exactly from the stored vector; dotted: "
        "0.99.",
        head=(*WHO, "tokens", *Estimate._fields, "exact", "published accuracy"),
        width=5.8,
        height=4.2,
    )


def _published_accuracy(section: Section, m: Measures) -> dict[int, float]:
    if not section.is_reference or not m.group.published or m.key.num_memory > 1:
        return {}
    lengths = published_lengths(m.group.published, m.key.source)
    longest = max(m.by_length["accuracy"])
    return {n: row["accuracy"] for n, row in lengths.items() if n <= longest}


def figure_5(section: Section) -> Drawn | None:
    """Draws token gain over the theoretical bound, and how much of the bound is used."""
    measures = [m for m in section.fewest_vectors() if m.token_gain.n]
    lms = by_lm(measures)
    colours = source_colours(section.sources)

    def bars(axis: Axes, label: str, metric: str, unit: str) -> None:
        for m, y in bar_heights(lms):
            e = m.bits_per_dimension
            if metric == "utilisation":
                e = m.utilisation.times(100.0)
            known = _published_use(section, m)[metric]
            words = f"{e.mean:.3g}{unit}"
            words += "" if known is None else f"; ◇ {known:.3g}{unit}"
            interval = None if e.low is None else e.interval
            bar(axis, y, e.mean, interval, colours[m.key.source], words, known)
        axis.set(xlabel=label)
        axis.margins(x=0.3)
        name_lms(axis, lms)

    def draw(axis: Axes, label: str, metric: str | None, unit: str) -> list[tuple]:
        if metric is not None:
            bars(axis, label, metric, unit)
            return []
        _bounds(section, axis, measures, colours)
        return [
            (*who(m), m.bound, m.token_gain.mean, *m.utilisation, *m.bits_per_dimension)
            + tuple(_published_use(section, m).values())
            for m, _ in bar_heights(lms)
        ]

    return drawn(
        [
            ("", None, ""),
            ("token gain over the bound (%)", "utilisation", "%"),
            ("information gain (bits a dimension)", "bits a dimension", ""),
        ]
        if lms
        else [],
        draw,
        title="Figure 5. Use of the theoretical bound",
        caption="Bound: 16 d / log2 V tokens a vector. Left: marker area grows with the "
        "LM's parameters. Bars: mean with its 95% interval over texts; ◇: published.",
        head=(
            *(*WHO, "bound, tokens", "token gain"),
            *(f"utilisation, {name}" for name in Estimate._fields),
            *(f"bits a dimension, {name}" for name in Estimate._fields),
            *("published utilisation, %", "published bits a dimension"),
        ),
        width=5.2,
        height=max(4.2, _height(lms)),
    )


def _published_use(section: Section, m: Measures) -> dict[str, float | None]:
    """Use of a vector by published numbers: percent of the bound, and bits per number."""
    known, width = beside(section, m), m.group.about["d_model"] * m.key.num_memory
    gain, nats = (getattr(known, field, None) for field in ("gain", "nats"))
    return {
        "utilisation": 100 * gain / m.bound if gain else None,
        "bits a dimension": nats / width / math.log(2) if nats else None,
    }


def _bounds(
    section: Section, axis: Axes, measures: list[Measures], colours: dict[str, str]
) -> None:
    """Draws token gain over the theoretical bound, one marker per group."""
    axis.set(xlabel="bound (tokens)", ylabel="token gain (tokens)")
    by_bound = collections.defaultdict[float, list[Measures]](list)
    for m in measures:
        by_bound[m.bound].append(m)
        area = 18 + 12 * max(0.0, math.log10(m.group.about["parameters"]) - 6) ** 2
        x, y, colour = m.bound, m.token_gain.mean, colours[m.key.source]
        axis.scatter(x, y, s=area, color=colour, alpha=0.85, edgecolor="white")
        known = beside(section, m)
        if known and known.gain:
            axis.scatter(x, known.gain, s=45, marker="D", fc="none", ec=GREY)
    axis.margins(0.12)
    axis.set_xlim(left=0, right=axis.get_xlim()[1] * 1.5)
    top = 1.12 * axis.get_ylim()[1]
    axis.set_ylim(0, top)
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
