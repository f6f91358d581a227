"""Figure of a cramming run: the optimisation of its texts."""

from collections.abc import Sequence

from matplotlib import cm, colors
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from memcomp.cram.ways.table import WAYS
from memcomp.report.style import Drawn, drawn
from memcomp.runs.files import Record

HEAD = ("text_id", "num_tokens", "exact_greedy", "step", "loss_nats", "accuracy")


def cram_curves(records: Sequence[Record]) -> Drawn:
    """Draws loss and accuracy over steps, one line per text, coloured by its length.

    A text that greedy decoding of its stored vector gives exactly is a full line that ends
    in a dot. Any other text is a dashed line that ends in a cross.

    Args:
      records: records of one run, with their curves.
    """
    lengths = [r["num_tokens"] for r in records]
    norm = colors.Normalize(min(lengths), max(max(lengths), min(lengths) + 1))
    shades = cm.ScalarMappable(norm, "viridis_r")

    def draw(axis: Axes, name: str) -> list[tuple]:
        for r in sorted(records, key=lambda r: r["num_tokens"]):
            exact, colour = r["exact_greedy"], shades.to_rgba(r["num_tokens"])
            steps, values = [s + 1 for s in r["curve"]["steps"]], r["curve"][name]
            axis.plot(steps, values, "-" if exact else "--", color=colour, lw=1.3)
            axis.plot(steps[-1:], values[-1:], "o" if exact else "X", color=colour, ms=6)
        axis.set(xscale="log", xlabel="optimiser steps")
        if name == "loss_nats":
            axis.set(yscale="log", ylabel="cross-entropy from memory (nats a token)")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        else:
            axis.set(ylabel="share of tokens right, teacher-forced", ylim=(-0.03, 1.03))
        for ticks in (axis.xaxis, axis.yaxis):
            ticks.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            ticks.set_minor_formatter(NullFormatter())
        return _rows(records) if name == "loss_nats" else []

    num_exact = sum(r["exact_greedy"] for r in records)
    num_memory, noun = records[0]["num_memory"], WAYS[records[0]["memory"]].noun
    made = drawn(
        [("loss_nats",), ("accuracy",)],
        draw,
        title=f"{num_exact} of {len(records)} texts come back exactly (●) from "
        f"{num_memory} {noun}{'s' * (num_memory > 1)}, the others (✖) do not",
        caption="",
        head=HEAD,
        height=4.6,
    )
    assert made
    axes = made.figure.axes
    made.figure.colorbar(shades, ax=axes, label="tokens in the text", pad=0.01)
    return made


def _rows(records: Sequence[Record]) -> list[tuple]:
    """Returns the points of the curves, as strings, which the CSV keeps with all digits."""
    return [
        (*(r[name] for name in HEAD[:3]), step, str(loss), str(accuracy))
        for r in records
        for step, loss, accuracy in zip(
            *(r["curve"][name] for name in ("steps", "loss_nats", "accuracy")), strict=True
        )
    ]
