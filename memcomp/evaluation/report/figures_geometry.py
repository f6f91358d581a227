"""Figures 7 and 8: where the vectors of one text lie, and what lies between them."""

import numpy as np

from memcomp.evaluation.report.section import Section
from memcomp.evaluation.report.style import COLOURS, Drawn, panels

PATHS = {"line": "straight lines", "bezier": "quadratic Bézier curves"}


def figure_7(section: Section) -> Drawn | None:
    """Cosines between vectors of the same text and of different ones."""
    records = section.runs.studies["cosine"] if section.protocol == "any" else []
    if not records:
        return None
    cosines = np.array([r["cosine"] for r in records], np.float64)
    same = np.array([r["same_text"] for r in records], bool)
    edges = np.linspace(min(0.0, float(cosines.min())), 1, 61)
    figure, (axis,) = panels(1, width=7.5)
    rows = []
    kinds = (
        (same, "one text, several starts", COLOURS[0]),
        (~same, "different texts", COLOURS[1]),
    )
    for here, name, colour in kinds:
        if not here.any():
            continue
        share, _ = np.histogram(cosines[here], edges)
        share = share / here.sum()
        axis.stairs(share, edges, color=colour, fill=True, alpha=0.35)
        axis.stairs(share, edges, color=colour, lw=1.6)
        mean = float(cosines[here].mean())
        right = mean >= cosines.mean()  # outwards, where the other one is not
        axis.annotate(
            f"{name}\nmean {mean:.3f}, {here.sum():,} pairs",
            (mean, float(share.max())),
            xytext=(-18 if right else 18, 6),
            textcoords="offset points",
            ha="left" if right else "right",
            color=colour,
        )
        rows += [(name, *row) for row in zip(edges[:-1], edges[1:], share, strict=True)]
    axis.margins(y=0.25)
    axis.set(xlabel="cosine similarity of two vectors", ylabel="share of the pairs")
    head = ("pairs", "cosine from", "cosine to", "share")
    title = "Figure 7. Cosines within and between texts"
    caption = "Each pair of vectors that give back a text, by whether it is the same text."
    return Drawn(title, caption, figure, head, rows)


def figure_8(section: Section) -> Drawn | None:
    """Accuracy on the way from one vector of a text to another."""
    records = section.runs.studies["path"] if section.protocol == "any" else []
    if not records:
        return None
    kinds = [name for name in PATHS if any(r["path"] == name for r in records)]
    figure, axes = panels(len(kinds), height=4.2)
    rows = []
    for axis, kind in zip(axes, kinds, strict=True):
        here = [r for r in records if r["path"] == kind]
        thetas = sorted({r["theta"] for r in here})
        at = [np.array([r["accuracy"] for r in here if r["theta"] == t]) for t in thetas]
        mean, low, high = (np.array([f(x) for x in at]) for f in (np.mean, np.min, np.max))
        axis.fill_between(thetas, low, high, color=COLOURS[0], alpha=0.2, lw=0)
        axis.plot(thetas, mean, color=COLOURS[0], lw=2)
        middle = len(thetas) // 2
        axis.text(
            0.5,
            0.04,
            f"half-way: mean {mean[middle]:.2f}, lowest {low[middle]:.2f}, "
            f"highest {high[middle]:.2f}",
            transform=axis.transAxes,
            ha="center",
            color=COLOURS[0],
        )
        pairs = len({r["pair"] for r in here})
        axis.set(
            title=f"along {PATHS[kind]}, {pairs} pairs",
            xlabel="from one vector (0) to the other (1)",
            ylabel="share of tokens right",
            ylim=(-0.03, 1.12),
        )
        columns = zip(thetas, mean, low, high, map(len, at), strict=True)
        rows += [(kind, *row) for row in columns]
    head = ("path", "theta", "mean accuracy", "lowest", "highest", "n")
    title = "Figure 8. Accuracy between two vectors of a text"
    caption = "Line: mean over pairs; band: from the lowest to the highest pair."
    return Drawn(title, caption, figure, head, rows)
