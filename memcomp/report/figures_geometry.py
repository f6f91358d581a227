"""Figures 7 and 8: where the vectors of one text lie, and what lies between them."""

import collections

import numpy as np
from matplotlib.axes import Axes

from memcomp.report.section import Section
from memcomp.report.style import COLOURS, Drawn, panels
from memcomp.runs.files import Record

PATHS = {"line": "straight lines", "bezier": "quadratic Bézier curves"}


def figure_7(section: Section) -> Drawn | None:
    """Cosines between vectors of the same text and of different ones."""
    studies = section.study("cosine")
    if not studies:
        return None
    figure, axes = panels(len(studies), width=7.5)
    rows = []
    for axis, (lm, records) in zip(axes, studies.items(), strict=True):
        cosines = np.array([r["cosine"] for r in records], np.float64)
        same = np.array([r["same_text"] for r in records], bool)
        edges = np.linspace(min(0.0, float(cosines.min())), 1, 61)
        for here, name, colour in (
            (same, "one text, several starts", COLOURS[0]),
            (~same, "different texts", COLOURS[1]),
        ):
            if here.any():
                right = bool(cosines[here].mean() >= cosines.mean())
                shares = _histogram(axis, cosines[here], edges, name, colour, right)
                columns = zip(edges[:-1], edges[1:], shares, strict=True)
                rows += [(lm, name, *row) for row in columns]
        axis.margins(y=0.25)
        axis.set(
            title=lm, xlabel="cosine similarity of two vectors", ylabel="share of the pairs"
        )
    head = ("LM", "pairs", "cosine from", "cosine to", "share")
    title = "Figure 7. Cosines within and between texts"
    caption = "Each pair of vectors that give back a text, by whether it is the same text."
    return Drawn(title, caption + left_out(section), figure, head, rows)


def _histogram(
    axis: Axes, values: np.ndarray, edges: np.ndarray, name: str, colour: str, right: bool
) -> np.ndarray:
    """Shares of the values, with their name outwards: where the other one is not."""
    counts, _ = np.histogram(values, edges)
    shares = counts / len(values)
    axis.stairs(shares, edges, color=colour, fill=True, alpha=0.35)
    axis.stairs(shares, edges, color=colour, lw=1.6)
    mean = float(values.mean())
    axis.annotate(
        f"{name}\nmean {mean:.3f}, {len(values):,} pairs",
        (mean, float(shares.max())),
        xytext=(-18 if right else 18, 6),
        textcoords="offset points",
        ha="left" if right else "right",
        color=colour,
    )
    return shares


def left_out(section: Section) -> str:
    """How many starts were left out, as a sentence; nothing where that is not known."""
    starts = [r["exact"] for of_lm in section.study("restart").values() for r in of_lm]
    if not starts:
        return ""
    return f" {starts.count(False)} of {len(starts)} starts were not exact: left out."


def figure_8(section: Section) -> Drawn | None:
    """Accuracy on the way from one vector of a text to another."""
    drawn = [
        (lm, path, here)
        for lm, records in section.study("path").items()
        for path in PATHS
        if (here := [r for r in records if r["path"] == path])
    ]
    if not drawn:
        return None
    lms = {lm for lm, _, _ in drawn}
    figure, axes = panels(len(drawn), height=4.2, most=2)
    rows = []
    for axis, (lm, path, here) in zip(axes, drawn, strict=True):
        pairs = collections.defaultdict(list)
        for r in sorted(here, key=lambda r: r["theta"]):
            pairs[r["pair"]].append((r["theta"], r["accuracy"]))
        rows += [(lm, path, *row) for row in _ways(axis, here)]
        whole = sum(all(a == 1 for _, a in points) for points in pairs.values())
        words = f"exact all the way: {whole} of {len(pairs)} pairs"
        ratios = [r["length_ratio"] for r in here if "length_ratio" in r]
        if path != "line" and ratios:
            mean, most = np.mean(ratios), max(ratios)
            words += f"\nlength / straight line: mean {mean:.2f}, most {most:.2f}"
        axis.text(0.5, 0.03, words, transform=axis.transAxes, ha="center", color=COLOURS[0])
        axis.set(
            title=f"{lm}, {PATHS[path]}" if len(lms) > 1 else f"along {PATHS[path]}",
            xlabel="from one vector (0) to the other (1)",
            ylabel="share of tokens right",
            ylim=(-0.03, 1.12),
        )
    head = ("LM", "path", "theta", "mean accuracy", "lowest", "highest", "n")
    title = "Figure 8. Accuracy between two vectors of a text"
    caption = "Line: mean over pairs; band: from the lowest to the highest pair."
    return Drawn(title, caption + left_out(section), figure, head, rows)


def _ways(axis: Axes, records: list[Record]) -> list[tuple]:
    """Mean, lowest and highest accuracy at each theta, drawn."""
    thetas = sorted({r["theta"] for r in records})
    at = [np.array([r["accuracy"] for r in records if r["theta"] == t]) for t in thetas]
    mean, low, high = (np.array([f(x) for x in at]) for f in (np.mean, np.min, np.max))
    axis.fill_between(thetas, low, high, color=COLOURS[0], alpha=0.2, lw=0)
    axis.plot(thetas, mean, color=COLOURS[0], lw=2)
    return list(zip(thetas, mean, low, high, map(len, at), strict=True))
