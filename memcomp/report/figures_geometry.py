"""Figures of experiments/geometry.py: where memories lie, and how those between score."""

import collections

import numpy as np
from matplotlib.axes import Axes

from memcomp.report.section import Section
from memcomp.report.style import COLOURS, GREY, Drawn, dots, drawn, plain_wide_ticks
from memcomp.runs.files import Record

PATHS = {"line": "straight lines", "bezier": "quadratic Bézier curves"}
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


def left_out(section: Section) -> str:
    """A sentence with the number of starts that were left out; "" if it is not known."""
    starts = [r["exact"] for of_lm in section.study("restart").values() for r in of_lm]
    if not starts:
        return ""
    return f" {starts.count(False)} of {len(starts)} starts were not exact: left out."


def figure_7(section: Section) -> Drawn | None:
    """Draws cosines between vectors of the same text and of different texts."""
    return drawn(
        section.study("cosine").items(),
        _draw_cosines,
        title="Figure 7. Cosines within and between texts",
        caption="Each pair of vectors that give back a text, by whether it is the same "
        "text." + left_out(section),
        head=("LM", "pairs", "cosine from", "cosine to", "share"),
        width=7.5,
    )


def _draw_cosines(axis: Axes, lm: str, records: list[Record]) -> list[tuple]:
    cosines = np.array([r["cosine"] for r in records], np.float64)
    same = np.array([r["same_text"] for r in records], bool)
    edges = np.linspace(min(0.0, float(cosines.min())), 1, 61)
    rows = []
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
    axis.set(title=lm, xlabel="cosine similarity of two vectors")
    axis.set_ylabel("share of the pairs")
    return rows


def _histogram(
    axis: Axes, values: np.ndarray, edges: np.ndarray, name: str, colour: str, right: bool
) -> np.ndarray:
    """Draws a histogram, with its name on the side away from the other histogram."""
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


def figure_8(section: Section) -> Drawn | None:
    """Draws accuracy along paths from one vector of a text to another."""
    studies = section.study("path")
    return drawn(
        [
            (lm, path, here, len(studies) > 1)
            for lm, records in studies.items()
            for path in PATHS
            if (here := [r for r in records if r["path"] == path])
        ],
        _draw_paths,
        title="Figure 8. Accuracy between two vectors of a text",
        caption="Line: mean over pairs; band: from the lowest to the highest pair."
        + left_out(section),
        head=("LM", "path", "theta", "mean accuracy", "lowest", "highest", "n"),
        height=4.2,
        most=2,
    )


def _draw_paths(
    axis: Axes, lm: str, path: str, records: list[Record], several: bool
) -> list[tuple]:
    pairs = collections.defaultdict[str, list[float]](list)
    for r in records:
        pairs[r["pair"]].append(r["accuracy"])
    whole = sum(all(a == 1 for a in accuracies) for accuracies in pairs.values())
    words = f"exact all the way: {whole} of {len(pairs)} pairs"
    ratios = [r["length_ratio"] for r in records if "length_ratio" in r]
    if path != "line" and ratios:
        mean, most = np.mean(ratios), max(ratios)
        words += f"\nlength / straight line: mean {mean:.2f}, most {most:.2f}"
    axis.text(0.5, 0.03, words, transform=axis.transAxes, ha="center", color=COLOURS[0])
    axis.set(
        title=f"{lm}, {PATHS[path]}" if several else f"along {PATHS[path]}",
        xlabel="from one vector (0) to the other (1)",
        ylabel="share of tokens right",
        ylim=(-0.03, 1.12),
    )
    thetas, at = _by(records, "theta")
    mean, low, high = (np.array([f(x) for x in at]) for f in (np.mean, np.min, np.max))
    axis.fill_between(thetas, low, high, color=COLOURS[0], alpha=0.2, lw=0)
    axis.plot(thetas, mean, color=COLOURS[0], lw=2)
    columns = zip(thetas, mean, low, high, map(len, at), strict=True)
    return [(lm, path, *row) for row in columns]


def _by(records: list[Record], name: str) -> tuple[list[float], list[np.ndarray]]:
    """Returns the sorted values of a field, and the accuracies of records with each."""
    values = sorted({r[name] for r in records})
    return values, [
        np.array([r["accuracy"] for r in records if r[name] == value]) for value in values
    ]


def norms(section: Section) -> Drawn | None:
    """Draws norms of memory and of the vocabulary, and their nearest vocabulary vectors."""
    return drawn(
        [
            (lm, records, measure)
            for lm, records in section.study("norm").items()
            for measure in MEASURES
        ],
        _draw_norms,
        title="Norms of memory, and its nearest vocabulary vectors",
        caption="A dot a vector, the bar and the number at the median. A vocabulary vector "
        "is compared with the other ones; memory with all.",
        head=("LM", "vectors", "measure", "n", "5%", "median", "95%"),
        width=4.6,
        height=3.4,
    )


def _draw_norms(axis: Axes, lm: str, records: list[Record], measure: str) -> list[tuple]:
    of = {
        kind: np.array([r[measure] for r in records if r["of"] == kind], np.float64)
        for kind in KINDS
    }
    of = {kind: values for kind, values in of.items() if len(values)}
    rng = np.random.default_rng(0)
    for y, (kind, values) in enumerate(reversed(of.items())):
        name, colour = KINDS[kind]
        middle = float(np.median(values))
        dots(axis, y, values, middle, colour, rng, s=4, alpha=0.35)
        words, place = f"{name}: {middle:.3g}", axis.get_yaxis_transform()
        axis.text(0.02, y + 0.36, words, color=colour, transform=place)
    axis.set(yticks=[], ylim=(-0.5, len(of) - 0.35))
    if measure != "cosine":
        axis.set_xscale("log")
        plain_wide_ticks(axis)
    axis.set(xlabel=MEASURES[measure], title=lm if measure == "norm" else "")
    return [
        (lm, KINDS[kind][0], measure, len(x), *np.percentile(x, (5, 50, 95)))
        for kind, x in of.items()
    ]


def scales(section: Section) -> Drawn | None:
    """Draws accuracy when memories are multiplied by a number."""
    return drawn(
        section.study("scale").items(),
        _draw_scales,
        title="Memory made longer and shorter",
        caption="Mean over all solutions; at 1 all are exact.",
        head=("LM", "scale", "accuracy", "exact", "lowest accuracy", "n"),
        height=3.8,
    )


def _draw_scales(axis: Axes, lm: str, records: list[Record]) -> list[tuple]:
    at, by = _by(records, "scale")
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
    return [(lm, *row) for row in columns]


def trajectories(section: Section) -> Drawn | None:
    """Draws trajectories of several starts of a few texts, along two main components."""

    def draw(axis: Axes, part, lm: str, records: list[Record]) -> list[tuple]:
        return part(axis, lm, records)

    return drawn(
        [
            (part, lm, records)
            for lm, records in section.study("trajectory").items()
            for part in (_draw_ways, _draw_shares)
        ],
        draw,
        title="Trajectories of memory while it is optimised",
        caption="Circle: start; dot: what is kept, empty where it is not exact. Left: main "
        "components of all points of all trajectories together. Right, thin: each by "
        "itself, and thick grey their mean.",
        head=("LM", "text", "start", "step", "first component", "second component"),
        width=5.6,
        height=4.6,
        most=2,
    )


def _draw_ways(axis: Axes, lm: str, records: list[Record]) -> list[tuple]:
    by_text = collections.defaultdict[int, list[Record]](list)
    for r in records:
        by_text[r["text_id"]].append(r)
    for i, (text, of_text) in enumerate(sorted(by_text.items())):
        colour = COLOURS[i % len(COLOURS)]
        for r in of_text:
            x, y = np.array(r["points"])[:, :2].T
            axis.plot(x, y, color=colour, lw=1.1, alpha=0.7)
            axis.plot(x[0], y[0], "o", mfc="none", mec=GREY, ms=5)
            kept = colour if r["exact"] else "white"
            axis.plot(x[-1], y[-1], "o", mfc=kept, mec=colour)
        _name_end(axis, text, of_text, colour)
    first, second = (f"{100 * share:.0f}%" for share in records[0]["explained"][:2])
    axis.margins(0.13)
    axis.set(
        title=f"{lm}: {len(records)} trajectories",
        xlabel=f"first component, {first} of the variance",
        ylabel=f"second component, {second}",
    )
    return [
        (lm, r["text_id"], r["restart"], step, *point[:2])
        for r in records
        for step, point in zip(r["steps"], r["points"], strict=True)
    ]


def _name_end(axis: Axes, text: int, records: list[Record], colour: str) -> None:
    """Writes the text's number beyond the end that is furthest from its start."""
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


def _draw_shares(axis: Axes, lm: str, records: list[Record]) -> list[tuple]:
    """Draws the cumulative variance in the first components, for all and for each."""
    alone = np.cumsum([r["explained_alone"] for r in records], axis=1)
    for of_one in alone:
        axis.plot(range(1, len(of_one) + 1), of_one, color=GREY, lw=0.8, alpha=0.6)
    lines = (
        (alone.mean(axis=0), GREY, "each trajectory by itself"),
        (np.cumsum(records[0]["explained"]), COLOURS[0], "all trajectories together"),
    )
    for i, (shares, colour, words) in enumerate(lines):
        axis.plot(range(1, len(shares) + 1), shares, "-o", color=colour, lw=2, ms=4)
        axis.annotate(
            words,
            (len(shares), shares[-1]),
            xytext=(0, -26 - 16 * i),  # both lines end at 1
            textcoords="offset points",
            color=colour,
            ha="right",
            va="top",
        )
    axis.set(xlabel="components", ylabel="share of the variance in them", ylim=(0, 1.05))
    axis.set_title("how flat they are")
    return []
