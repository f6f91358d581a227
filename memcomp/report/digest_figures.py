"""Figures of context compressors: learning curves, and attention of each digest."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from memcomp.report.style import COLOURS, Drawn, panels
from memcomp.runs.files import Record

WATCHED = "valid_reconstruction_nats_per_token"


def learning_curves(runs: Mapping[str, Sequence[Record]]) -> Drawn:
    """Draws loss over steps, in one colour per run.

    Args:
      runs: records of log.jsonl, by the name of the run.
    """
    figure, (axis,) = panels(1, width=7.5)
    rows = []
    for i, (name, records) in enumerate(runs.items()):
        colour = COLOURS[i % len(COLOURS)]
        steps = [r["step"] for r in records]
        losses = [r["nats_per_token"] for r in records]
        axis.plot(steps, losses, color=colour, lw=1, alpha=0.6)
        held = [(r["step"], r[WATCHED]) for r in records if WATCHED in r]
        x, y = zip(*held, strict=True) if held else ((), ())
        axis.plot(x, y, "o", color=colour, label=name)
        rows += [
            [name, r["step"], r["nats_per_token"], r.get(WATCHED, "")] for r in records
        ]
    axis.set(xlabel="steps", ylabel="nats a token")
    axis.legend(frameon=False)
    return Drawn(
        title="What the LM makes of the vectors, over training",
        caption="Lines: the batches of training. Dots: texts that are held out.",
        figure=figure,
        head=("run", "step", "nats_per_token", WATCHED),
        rows=rows,
    )


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
