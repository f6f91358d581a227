"""How figures look: colours that the colour-blind tell apart, labels at the lines."""

import dataclasses
import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
from etils import epath

from memcomp.disk import make_folder, write_whole
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
      title: what it shows.
      caption: how to read it, with protocol and runs.
      figure: of matplotlib.
      head: names of the columns of the CSV.
      rows: the numbers.
    """

    title: str
    caption: str
    figure: Figure
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def png(self, about: str = "") -> bytes:
        """The picture, with its title and a line about the runs; the figure is closed."""
        picture = io.BytesIO()
        lines = [self.title, *textwrap.wrap(about, 110)]
        self.figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10)
        self.figure.savefig(picture, format="png", dpi=110, bbox_inches="tight")
        plt.close(self.figure)
        return picture.getvalue()

    def csv(self) -> str:
        """The numbers."""
        return csv_text([self.head, *self.rows])

    def write(self, path: epath.Path) -> None:
        """Writes the numbers, and the picture beside them; the folder is made.

        Args:
          path: of both files, without .csv and .png.
        """
        make_folder(path.parent)
        write_whole(path.with_name(path.name + ".csv"), self.csv())
        write_whole(path.with_name(path.name + ".png"), self.png())


def panels(num: int, width: float = 5.4, height: float = 4.0, most: int = 3) -> Any:
    """A figure and its first `num` axes, in rows of at most `most`."""
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
    """A colour a source; random ones are black and grey."""
    written = sorted(set(sources) - set(RANDOM))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(written)}
    return colours | RANDOM_COLOURS


def plain_ticks(axis: Axes) -> None:
    """Numbers as 150, not 1.5 x 10^2, on a logarithmic y axis."""
    _plain_ticks(axis.yaxis, (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))


def plain_wide_ticks(axis: Axes) -> None:
    """The same on an x axis of several decades."""
    _plain_ticks(axis.xaxis, (1.0, 2.0, 5.0))


def _plain_ticks(axis: Any, subs: Sequence[float]) -> None:
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_locator(NullLocator())


def tick_lengths(axis: Axes, lengths: Iterable[int], most: int = 9) -> None:
    """Ticks of a logarithmic axis at the lengths themselves, or some of them."""
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
    """Writes names at the right edge, at the heights of their lines, none on another.

    Args:
      axis: with its limits set.
      ends: height in data, name and colour of each line.
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
    """The heights moved apart to at least `gap`, in the same order, little moved."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    # Each block of labels that touch sits around the mean of where they want to be.
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
