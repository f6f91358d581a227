"""What the vectors of memory are like: norms, neighbours, scale, and how they came."""

import numpy as np
from matplotlib.axes import Axes

from memcomp.report.section import Section
from memcomp.report.style import (
    COLOURS,
    GREY,
    Drawn,
    panels,
    plain_wide_ticks,
)
from memcomp.runs.files import Record

KINDS = {
    "memory": ("memory", COLOURS[0]),
    "start": ("where memory starts", COLOURS[1]),
    "vocabulary": ("vocabulary", COLOURS[2]),
}
MEASURES = {
    "norm": "norm of the vector",
    "cosine": "cosine with the nearest vocabulary vector",
    "distance": "distance from the nearest vocabulary vector",
}


def norms(section: Section) -> Drawn | None:
    """Norms of memory and of the vocabulary, and how near the one is to the other."""
    studies = section.study("norm")
    if not studies:
        return None
    figure, axes = panels(3 * len(studies), width=4.6, height=3.4)
    rows = []
    for i, (lm, records) in enumerate(studies.items()):
        for axis, (name, words) in zip(
            axes[3 * i : 3 * i + 3], MEASURES.items(), strict=True
        ):
            of = {
                kind: np.array([r[name] for r in records if r["of"] == kind], np.float64)
                for kind in KINDS
            }
            of = {kind: values for kind, values in of.items() if len(values)}
            _rows_of_values(axis, of)
            if name != "cosine":
                axis.set_xscale("log")
                plain_wide_ticks(axis)
            axis.set(xlabel=words, title=lm if name == "norm" else "")
            rows += [
                (lm, KINDS[kind][0], name, len(x), *np.percentile(x, (5, 50, 95)))
                for kind, x in of.items()
            ]
    head = ("LM", "vectors", "measure", "n", "5%", "median", "95%")
    title = "Norms of memory, and its nearest vocabulary vectors"
    caption = (
        "A dot a vector, the bar and the number at the median. A vocabulary vector is "
        "compared with the other ones; memory with all."
    )
    return Drawn(title, caption, figure, head, rows)


def _rows_of_values(axis: Axes, of: dict[str, np.ndarray]) -> None:
    """Each kind a row of dots, named above them."""
    rng = np.random.default_rng(0)
    for y, (kind, values) in enumerate(reversed(of.items())):
        name, colour = KINDS[kind]
        spread = y + 0.3 * (rng.random(len(values)) - 0.5)
        axis.plot(values, spread, ".", color=colour, ms=4, alpha=0.35, mew=0)
        middle = float(np.median(values))
        axis.plot([middle, middle], [y - 0.25, y + 0.25], color="black", lw=1.6)
        axis.text(
            0.02,
            y + 0.36,
            f"{name}: {middle:.3g}",
            color=colour,
            transform=axis.get_yaxis_transform(),
        )
    axis.set(yticks=[], ylim=(-0.5, len(of) - 0.35))


def scales(section: Section) -> Drawn | None:
    """What multiplying a memory by a number does to accuracy."""
    studies = section.study("scale")
    if not studies:
        return None
    figure, axes = panels(len(studies), height=3.8)
    rows = []
    for axis, (lm, records) in zip(axes, studies.items(), strict=True):
        at = sorted({r["scale"] for r in records})
        by = [np.array([r["accuracy"] for r in records if r["scale"] == x]) for x in at]
        accuracy, exact, lowest = zip(
            *((x.mean(), np.mean(x == 1), x.min()) for x in by), strict=True
        )
        lines = (
            (accuracy, "-o", COLOURS[0], "— share of tokens right"),
            (exact, "--s", COLOURS[1], "- - share of memories exact"),
        )
        for k, (values, form, colour, words) in enumerate(lines):
            axis.plot(at, values, form, color=colour, lw=2, ms=4)
            y = 0.16 - 0.09 * k
            axis.text(0.98, y, words, color=colour, transform=axis.transAxes, ha="right")
        axis.axvline(1, color=GREY, lw=0.8, ls=":")
        axis.set(title=lm, xlabel="memory times", ylim=(-0.03, 1.08))
        columns = zip(at, accuracy, exact, lowest, map(len, by), strict=True)
        rows += [(lm, *row) for row in columns]
    head = ("LM", "scale", "accuracy", "exact", "lowest accuracy", "n")
    caption = "Mean over all solutions; at 1 all are exact."
    return Drawn("Memory made longer and shorter", caption, figure, head, rows)


def trajectories(section: Section) -> Drawn | None:
    """Trajectories of several starts of a few texts, along the two main components."""
    studies = section.study("trajectory")
    if not studies:
        return None
    figure, axes = panels(2 * len(studies), width=5.6, height=4.6, most=2)
    rows = []
    for i, (lm, records) in enumerate(studies.items()):
        ways, shares = axes[2 * i : 2 * i + 2]
        colours = {
            text: COLOURS[k % len(COLOURS)]
            for k, text in enumerate(sorted({r["text"] for r in records}))
        }
        for r in records:
            _way(ways, r, colours[r["text"]])
            rows += [
                (lm, r["text"], r["restart"], step, *point[:2])
                for step, point in zip(r["steps"], r["points"], strict=True)
            ]
        for text, colour in colours.items():
            _name_end(ways, text, [r for r in records if r["text"] == text], colour)
        explained = records[0]["explained"]
        first, second = (f"{100 * share:.0f}%" for share in explained[:2])
        ways.margins(0.13)
        ways.set(
            title=f"{lm}: {len(records)} trajectories",
            xlabel=f"first component, {first} of the variance",
            ylabel=f"second component, {second}",
        )
        _shares(shares, records)
    head = ("LM", "text", "start", "step", "first component", "second component")
    title = "Trajectories of memory while it is optimised"
    caption = (
        "Circle: start; dot: what is kept, empty where it is not exact. Left: main "
        "components of all points of all trajectories together. Right, thin: each by "
        "itself, and thick grey their mean."
    )
    return Drawn(title, caption, figure, head, rows)


def _way(axis: Axes, record: Record, colour: str) -> None:
    x, y = np.array(record["points"])[:, :2].T
    axis.plot(x, y, color=colour, lw=1.1, alpha=0.7)
    axis.plot(x[0], y[0], "o", mfc="none", mec=GREY, ms=5)
    axis.plot(x[-1], y[-1], "o", mfc=colour if record["exact"] else "white", mec=colour)


def _name_end(axis: Axes, text: int, records: list[Record], colour: str) -> None:
    """The text's number beside the end that is furthest from the start, outwards."""
    starts, ends = (np.array([r["points"][i][:2] for r in records]) for i in (0, -1))
    away = ends - starts
    furthest = np.linalg.norm(away, axis=1).argmax()
    right, up = away[furthest] / max(np.linalg.norm(away[furthest]), 1e-12)
    axis.annotate(
        f"text {text}",
        tuple(ends[furthest]),
        xytext=(12 * right, 12 * up),
        textcoords="offset points",
        ha="left" if right > 0.5 else "right" if right < -0.5 else "center",
        va="bottom" if up > 0.5 else "top" if up < -0.5 else "center",
        color=colour,
        weight="bold",
    )


def _shares(axis: Axes, records: list[Record]) -> None:
    """Variance in the first so many components: of all together, and of each by itself."""
    for r in records:
        alone = np.cumsum(r["explained_alone"])
        axis.plot(range(1, len(alone) + 1), alone, color=GREY, lw=0.8, alpha=0.6)
    alone = np.mean([np.cumsum(r["explained_alone"]) for r in records], axis=0)
    together = np.cumsum(records[0]["explained"])
    lines = (
        (alone, GREY, "each trajectory by itself"),
        (together, COLOURS[0], "all trajectories together"),
    )
    for shares, colour, words in lines:
        axis.plot(range(1, len(shares) + 1), shares, "-o", color=colour, lw=2, ms=4)
        axis.annotate(
            words,
            (len(shares), shares[-1]),
            xytext=(0, -26),
            textcoords="offset points",
            color=colour,
            ha="right",
            va="top",
        )
    axis.set(
        xlabel="components",
        ylabel="share of the variance in them",
        ylim=(0, 1.05),
        title="how flat they are",
    )
