"""Style of figures: colours that the colour-blind can distinguish, labels at the lines."""

import dataclasses
import io
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from etils import epath

from memcomp.disk import make_folder, write_whole
from memcomp.metrics.capacity import Estimate
from memcomp.report.corpora import RANDOM
from memcomp.report.table_format import csv_text

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402  after the choice of backend
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import (  # noqa: E402
    FuncFormatter,
    LogLocator,
    NullLocator,
)

# Okabe and Ito 2008, without yellow, which is too pale for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
RANDOM_COLOURS = dict(zip(RANDOM, ("#000000", "#777777", "#777777"), strict=True))
GREY = "#8a8a8a"


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """A figure and the numbers in it.

    Attributes:
      title: title of the figure.
      caption: how to read it.
      figure: the figure of matplotlib.
      head: names of the columns of the CSV.
      rows: the numbers, as lines of the CSV.
    """

    title: str
    caption: str
    figure: Figure
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def png(self, about: str = "") -> bytes:
        """Returns a PNG with the title and text about the runs, and closes the figure."""
        picture = io.BytesIO()
        lines = [self.title, *textwrap.wrap(about, 110)]
        self.figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10)
        self.figure.savefig(picture, format="png", dpi=110, bbox_inches="tight")
        plt.close(self.figure)
        return picture.getvalue()

    def csv(self) -> str:
        """Returns the numbers as CSV."""
        return csv_text([self.head, *self.rows])

    def write(self, folder: epath.Path, name: str) -> epath.Path:
        """Writes PNG and CSV; returns the path of the PNG."""
        make_folder(folder)
        write_whole(folder / f"{name}.csv", self.csv())
        write_whole(folder / f"{name}.png", self.png())
        return folder / f"{name}.png"


def drawn(
    items: Iterable[Sequence[Any]],
    draw: Callable[..., Iterable[Sequence[Any]]],
    *,
    title: str,
    caption: str,
    head: Sequence[str],
    **size: Any,
) -> Drawn | None:
    """Makes a figure with one panel per item; None if there are no items.

    Args:
      items: arguments of `draw` for each panel.
      draw: draws a panel, from its axes and the arguments; returns the numbers in it.
      title, caption, head: see `Drawn`.
      size: arguments of `panels`.
    """
    items = list(items)
    if not items:
        return None
    figure, axes = panels(len(items), **size)
    rows: list[Sequence[Any]] = []
    for axis, item in zip(axes, items, strict=True):
        rows += draw(axis, *item)
    return Drawn(title, caption, figure, head, rows)


def panels(num: int, width: float = 5.4, height: float = 4.0, most: int = 3) -> Any:
    """Makes a figure with `num` axes, at most `most` side by side; returns both."""
    across = min(num, most)
    down = math.ceil(num / across)
    figure, grid = plt.subplots(
        down,
        across,
        figsize=(width * across, height * down),
        layout="constrained",
        squeeze=False,
    )
    axes = list(grid.flat)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    for axis in axes[num:]:
        axis.set_axis_off()
    return figure, axes[:num]


def source_colours(sources: Iterable[str]) -> dict[str, str]:
    """Gives each source a colour; random ones are black and grey."""
    written = sorted(set(sources) - set(RANDOM))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(written)}
    return colours | RANDOM_COLOURS


def line(
    axis: Axes, estimates: Mapping[int, Estimate], colour: str, *, bars: bool = False
) -> float:
    """Draws a line of means with intervals, as a band or bars; returns the last mean."""
    xs, means = list(estimates), [e.mean for e in estimates.values()]
    low, high = np.array([e.interval for e in estimates.values()]).T
    axis.plot(xs, means, "-o", color=colour, ms=4, lw=1.8)
    if bars:
        errors = np.maximum(np.abs(np.array([low, high]) - means), 0)
        axis.errorbar(xs, means, errors, fmt="none", color=colour, capsize=3)
    else:
        axis.fill_between(xs, low, high, color=colour, alpha=0.16, lw=0)
    return means[-1]


def bar(
    axis: Axes,
    y: float,
    value: float | int,
    interval: tuple[float | int, float | int] | None,
    colour: str,
    words: str,
    published: float | int | None,
) -> None:
    """Draws a bar to `value`, its interval and the published number, then some words."""
    axis.barh(y, value, height=0.72, color=colour, alpha=0.6)
    if interval:
        axis.plot(interval, [y, y], color="black", lw=1.4)
    if published is not None:
        axis.plot(published, y, "D", mfc="white", mec="black", ms=6)
    axis.annotate(
        words,
        (max(value, interval[1] if interval else 0, published or 0), y),
        xytext=(9, 0),
        textcoords="offset points",
        va="center",
    )


def dots(
    axis: Axes,
    y: float | int,
    values: np.ndarray,
    middle: float,
    colour: str,
    rng: np.random.Generator,
    *,
    words: str = "",
    aligned: Literal["left", "center", "right"] = "center",
    **style: Any,
) -> None:
    """Draws dots at about height `y`, with random offsets, and a black bar at `middle`.

    `words` stand above the bar: `aligned` "right" has their right end there.
    """
    axis.scatter(values, y + rng.uniform(-0.15, 0.15, len(values)), color=colour, **style)
    axis.plot([middle] * 2, [y - 0.25, y + 0.25], color="black", lw=2)
    axis.text(middle, y + 0.27, words, ha=aligned, va="bottom", fontsize=9)


def plain_ticks(axis: Axes) -> None:
    """Labels a logarithmic y axis with numbers such as 150, not 1.5 x 10^2."""
    _plain_ticks(axis.yaxis, (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))


def plain_wide_ticks(axis: Axes, subs: Sequence[float] = (1.0, 2.0, 5.0)) -> None:
    """Does the same for a logarithmic x axis, at these multiples of the powers of ten."""
    _plain_ticks(axis.xaxis, subs)


def _plain_ticks(axis: Any, subs: Sequence[float]) -> None:
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
    axis.set_minor_locator(NullLocator())


def tick_lengths(axis: Axes, lengths: Iterable[int], most: int = 9) -> None:
    """Sets ticks of a logarithmic axis at the lengths themselves, or at some of them."""
    lengths = sorted(set(lengths))
    logs = [math.log2(x) for x in lengths]
    gap = (logs[-1] - logs[0]) / most
    kept, last = [], -math.inf
    for length, log in zip(lengths, logs, strict=True):
        if log - last >= gap:
            kept.append(length)
            last = log
    axis.set_xticks(kept, [f"{x:g}" for x in kept])
    axis.xaxis.set_minor_locator(NullLocator())


def label_ends(axis: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Writes names at the right edge, near the ends of their lines, without overlap.

    Args:
      axis: axes whose limits are set.
      ends: height in data coordinates, name and colour of each line.
    """
    if not ends:
        return
    to_axes = axis.transAxes.inverted()
    heights = [
        float(to_axes.transform(axis.transData.transform((1, y)))[1]) for y, _, _ in ends
    ]
    for height, (_, name, colour) in zip(spread(heights, 0.058), ends, strict=True):
        axis.text(
            1.015,
            height,
            name,
            color=colour,
            transform=axis.transAxes,
            va="center",
            fontsize=9,
            clip_on=False,
        )


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Moves heights apart to at least `gap`, as little as possible, in the same order."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    # A block of labels that touch is centred at the mean of their heights.
    blocks: list[list[int]] = []
    for i in order:
        blocks.append([i])
        while len(blocks) > 1 and _first(blocks[-1], heights, gap) < (
            _first(blocks[-2], heights, gap) + gap * len(blocks[-2])
        ):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    placed = [0.0] * len(heights)
    for block in blocks:
        first = _first(block, heights, gap)
        for rank, i in enumerate(block):
            placed[i] = first + rank * gap
    return placed


def _first(block: Sequence[int], heights: Sequence[float], gap: float) -> float:
    middle = sum(heights[i] for i in block) / len(block)
    return middle - gap * (len(block) - 1) / 2
