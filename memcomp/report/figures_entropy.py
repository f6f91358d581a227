"""Figures 3 and 6: capacity against the surprise of the text."""

from typing import Any

import numpy as np
from matplotlib import cm, colors
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from memcomp.metrics.capacity import THRESHOLD, Estimate, offset
from memcomp.report.measures import Measures
from memcomp.report.section import Section, by_lm
from memcomp.report.style import Drawn, drawn

MOST_POINTS = 2000  # largest number of points drawn per group; the CSV has all
MARKERS, GLYPHS = "osD^vP*", "●■◆▲▼✚★"
LINE, LEFT = "#D55E00", "#0072B2"


def figure_3_6(section: Section) -> Drawn | None:
    """Draws cross-entropy of a text with memory against that without memory."""
    measures = section.fewest_vectors()
    if not measures:
        return None
    unit, factor = section.unit
    written = [m for m in measures if not m.is_random] or measures
    lengths = np.concatenate([m.group.columns["num_tokens"] for m in written])
    low, high = lengths.min(), lengths.max()
    shades = cm.ScalarMappable(colors.LogNorm(low, max(high, low + 1)), "viridis_r")

    def draw(axis: Axes, name: str, measures: list[Measures]) -> list[tuple]:
        for rank, m in enumerate(measures):
            _scatter(axis, m, factor, shades, MARKERS[rank % len(MARKERS)])
            # Written sources end near each other, so their names go above each other.
            written_before = sum(not other.is_random for other in measures[:rank])
            glyph = GLYPHS[rank % len(GLYPHS)]
            _name(axis, m, factor, glyph, 0 if m.is_random else written_before)
        _lines(axis, measures, unit, factor)
        axis.set(title=name, ylabel=f"with memory ({unit})")
        axis.set_xlabel(f"cross-entropy of the text without memory ({unit})")
        return [row for m in measures for row in _rows(m, factor)]

    made = drawn(
        by_lm(measures).items(),
        draw,
        title="Figures 3 and 6. Cross-entropy before and after",
        caption=f"A point a text (at most {MOST_POINTS} of a source are drawn), its colour "
        "the length; random texts black. Solid: the line of slope 1 through the texts with "
        "an accuracy below 0.99, fitted to each panel's written texts; dotted: the highest "
        "that is left of a text with an accuracy of 0.99.",
        head=("LM", "source", "tokens", f"before, {unit}", f"after, {unit}", "accuracy"),
        width=5.2,
        height=4.6,
    )
    assert made
    axes, label = made.figure.axes, "tokens in the text"
    bar = made.figure.colorbar(shades, ax=axes, label=label, pad=0.01, aspect=30)
    ticks = [2**i for i in range(20) if low <= 2**i <= high]
    bar.set_ticks(ticks, labels=[str(tick) for tick in ticks])
    bar.ax.yaxis.set_minor_locator(NullLocator())
    return made


def _scatter(
    axis: Axes, m: Measures, factor: float, shades: cm.ScalarMappable, marker: str
) -> None:
    before, after = m.before * factor, m.after * factor
    lengths = m.group.columns["num_tokens"]
    if len(before) > MOST_POINTS:
        kept = np.random.default_rng(0).choice(len(before), MOST_POINTS, replace=False)
        before, after, lengths = before[kept], after[kept], lengths[kept]
    style: dict[str, Any] = {"c": shades.to_rgba(lengths), "marker": marker}
    if m.is_random:
        style = {"c": "black", "marker": "x", "linewidths": 0.8}
    axis.scatter(before, after, s=14, alpha=0.7, **style)


def _name(axis: Axes, m: Measures, factor: float, glyph: str, row: int) -> None:
    """Writes the source's marker and name above its outermost text."""
    outer = int(np.argmax(m.before))
    axis.annotate(
        f"{'×' if m.is_random else glyph} {m.key.source}",
        (float(m.before[outer]) * factor, float(m.after[outer]) * factor),
        xytext=(-6, 6 + 13 * row),
        textcoords="offset points",
        ha="right",
        fontsize=9,
    )


def _rows(m: Measures, factor: float) -> list[tuple]:
    c = m.group.columns
    columns = c["num_tokens"], m.before * factor, m.after * factor, c["accuracy"]
    lists = (column.tolist() for column in columns)
    return [(m.group.label, m.key.source, *row) for row in zip(*lists, strict=True)]


def _lines(axis: Axes, measures: list[Measures], unit: str, factor: float) -> None:
    """Draws the fit of slope 1, y = x, and the largest rest of texts that are right."""
    written = [m for m in measures if not m.is_random] or measures
    before = np.concatenate([m.before for m in written]) * factor
    after = np.concatenate([m.after for m in written]) * factor
    accuracy = np.concatenate([m.group.columns["accuracy"] for m in written])
    # Texts of different sources are different texts.
    named = [(text, i) for i, m in enumerate(written) for text in m.group.texts.tolist()]
    _, texts = np.unique(named, axis=0, return_inverse=True)
    right = max(float(m.before.max()) for m in measures) * factor
    axis.plot([0, right], [0, right], ":", color="0.6", lw=1)
    fitted = offset(before, after, accuracy, texts)
    # Both axes get the same scale, so that the label lies along y = x.
    axis.set(xlim=(0, right * 1.03), ylim=(-0.02 * right, right * 1.03))
    axis.text(0.62 * right, 0.65 * right, "no memory", color="0.45", fontsize=9, ha="right")
    words = []
    if fitted.n:
        b = fitted.mean
        axis.plot([-b, right], [0, right + b], color=LINE, lw=1.8)
        words.append((f"after = before − {_offset(fitted)} {unit}", LINE))
    if len(measures) > 1:
        each = [(m.key.source, m.offset.times(factor)) for m in measures]
        words += [(f"    {name}: {_offset(b)}", LINE) for name, b in each if b.n]
    lossless = after[accuracy >= THRESHOLD]
    if len(lossless):
        left = float(lossless.max())
        axis.axhline(left, ls=(0, (1, 2)), color=LEFT, lw=1.2)
        words.append((f"accuracy of 0.99 or more: at most {left:.4g}", LEFT))
    for i, (line, colour) in enumerate(words):
        y = 0.98 - 0.055 * i
        axis.text(
            0.03, y, line, color=colour, transform=axis.transAxes, va="top", fontsize=9
        )


def _offset(b: Estimate) -> str:
    """The offset without its sign, and its interval."""
    if b.low is None or b.high is None:
        return f"{-b.mean:.4g}"
    return f"{-b.mean:.4g} [{-b.high:.4g}, {-b.low:.4g}]"
