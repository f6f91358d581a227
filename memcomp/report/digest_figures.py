"""Figures of context compressors: learning curves, what they store, what digests read."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from memcomp.metrics.capacity import Estimate, estimate
from memcomp.report.style import COLOURS, Drawn, drawn, label_ends, panels
from memcomp.runs.files import Record

HELD_OUT = "valid_reconstruction_"  # before the name of a measure in log.jsonl
MEASURES = {
    "nats_per_token": "nats a token",
    "accuracy": "right tokens, teacher-forced",
    "corpus_bleu": "BLEU",
}
GAIN = "gain_nats_per_token"
CEILING = "cramming"


def learning_curves(runs: Mapping[str, Sequence[Record]]) -> Drawn:
    """Draws loss, accuracy and BLEU over steps, in one colour per run.

    Args:
      runs: records of log.jsonl, by the name of the run. A measure that none of them has
        gets no panel.
    """
    names = {name for records in runs.values() for record in records for name in record}
    shown = [m for m in MEASURES if {m, HELD_OUT + m} & names]
    figure, axes = panels(len(shown), width=4.6 if len(shown) > 1 else 7.5)
    rows = []
    for measure, axis in zip(shown, axes, strict=True):
        for i, (name, records) in enumerate(runs.items()):
            colour = COLOURS[i % len(COLOURS)]
            axis.plot(*_curve(records, measure), color=colour, lw=1, alpha=0.6)
            held = _curve(records, HELD_OUT + measure)
            axis.plot(*held, "o:", color=colour, lw=0.8, ms=4, label=name)
            both = [(r["step"], r.get(measure), r.get(HELD_OUT + measure)) for r in records]
            rows += [[measure, name, *values] for values in both]
        axis.set(xlabel="steps", ylabel=MEASURES[measure])
    axes[0].legend(frameon=False)
    return Drawn(
        title="What the LM makes of the vectors, over training",
        caption="Lines: the batches of training. Dots: texts that are held out.",
        figure=figure,
        head=("measure", "run", "step", "training", "held_out"),
        rows=rows,
    )


def _curve(records: Sequence[Record], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of the records that have `name`."""
    held = [(r["step"], r[name]) for r in records if r.get(name) is not None]
    return [step for step, _ in held], [value for _, value in held]


def stored_by_cost(records: Sequence[Record]) -> Drawn | None:
    """Draws what vectors store of a text over what it costs to make them.

    Args:
      records: those of a table of reconstructions; other kinds of text are left out.

    Returns:
      A figure with one panel for each length; None if there are no vectors of such texts.
    """
    found: dict[int, dict[str, list[Record]]] = {}
    for r in records:
        if r.get("text_kind") == "normal":
            found.setdefault(r["num_tokens"], {}).setdefault(r["vectors"], []).append(r)
    return drawn(
        found.items(),
        _stored,
        title="What the vectors of a text store, by what it costs to make them",
        caption="In brackets: share of what cramming stores in as many vectors.",
        head=("tokens", "vectors", "flops", GAIN, "low", "high"),
        width=6.5,
    )


def _stored(axis: Axes, num_tokens: int, lines: Mapping[str, list[Record]]) -> list[Any]:
    """Draws a panel: a point for each cost, and a level for what costs nothing."""
    ends, rows = [], []
    gains = {name: _mean(of, GAIN) for name, of in lines.items()}
    for name, of in lines.items():
        gain, colour = gains[name], COLOURS[len(rows) % len(COLOURS)]
        low, high = gain.interval
        cost = _mean(of, "flops").mean if "flops" in of[0] else None
        if cost is None:
            axis.axhline(gain.mean, color=colour, lw=1, ls=":")
        else:
            axis.plot([cost, cost], [low, high], color=colour, lw=1.4)
            axis.plot(cost, gain.mean, "o", color=colour)
        share = f" ({gain.mean / gains[CEILING].mean:.0%})" if CEILING in gains else ""
        ends.append((gain.mean, name + share, colour))
        rows.append([num_tokens, name, cost, gain.mean, low, high])
    axis.set(xscale="log", xlabel="FLOPs a text", ylabel="gain, nats a token")
    axis.set_title(f"{num_tokens} tokens", loc="left")
    label_ends(axis, ends)
    return rows


def _mean(records: Sequence[Record], field: str) -> Estimate:
    texts = np.array([record["text_id"] for record in records])
    return estimate(np.array([float(record[field]) for record in records]), texts)


def attention_map(weights: Float[np.ndarray, "L N M S"], tokens: Sequence[str]) -> Drawn:
    """Draws the attention of each digest to each token by layer, averaged over heads.

    Args:
      weights: attention probabilities of one chunk; keys are its tokens, then the digests.
      tokens: tokens of the chunk, as text.

    Source: Wang et al. 2024, arXiv:2406.13618, figures 6 and 8.
    """
    mean = weights.mean(axis=1)
    figure, axes = panels(len(mean), width=4.6)
    rows = []
    for layer, (axis, each) in enumerate(zip(axes, mean, strict=True)):
        read = each[:, : len(tokens)]
        axis.imshow(read, aspect="auto", cmap="Blues", vmin=0, interpolation="nearest")
        axis.grid(False)
        share = read.sum(axis=1).mean()
        axis.set(xlabel="word", ylabel="digest" if layer == 0 else None)
        axis.set_title(f"layer {layer + 1}, words get {share:.0%}", loc="left")
        rows += [
            [layer + 1, digest, place, word, float(read[digest, place])]
            for digest in range(len(read))
            for place, word in enumerate(tokens)
        ]
    return Drawn(
        title="What each digest reads",
        caption="Attention to the words of one context, mean over heads.",
        figure=figure,
        head=("layer", "digest", "place", "word", "weight"),
        rows=rows,
    )
