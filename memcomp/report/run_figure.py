"""Figures of a run: PNG, and the numbers beside each as CSV."""

import csv
import io
from collections.abc import Sequence

import matplotlib
from etils import epath

from memcomp.disk import make_folder
from memcomp.runs.files import Record, write_whole

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402  after the choice of backend
from matplotlib import cm, colors, ticker  # noqa: E402


def cram_curves(records: Sequence[Record], folder: epath.Path) -> epath.Path:
    """Loss and accuracy over steps, a line a text, coloured by its length.

    A text that is exact in the end, decoded greedily from its stored vector, is a full
    line up to a dot; one that is not, a dashed line up to a cross.

    Args:
      records: of one run, with their curves.
      folder: gets curves.png and curves.csv.

    Returns:
      Where the picture is.
    """
    make_folder(folder)
    lengths = [r["num_tokens"] for r in records]
    norm = colors.Normalize(min(lengths), max(max(lengths), min(lengths) + 1))
    shades = cm.ScalarMappable(norm, "viridis_r")
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for record in sorted(records, key=lambda r: r["num_tokens"]):
        exact = record["exact_greedy"]
        colour = shades.to_rgba(record["num_tokens"])
        steps = [s + 1 for s in record["curve"]["steps"]]
        for axis, name in zip(axes, ("loss_nats", "accuracy"), strict=True):
            values = record["curve"][name]
            axis.plot(steps, values, "-" if exact else "--", color=colour, lw=1.3)
            axis.plot(steps[-1:], values[-1:], "o" if exact else "X", color=colour, ms=6)
    axes[0].set(yscale="log", ylabel="cross-entropy from memory (nats a token)")
    axes[1].set(ylabel="share of tokens right, teacher-forced", ylim=(-0.03, 1.03))
    for axis in axes:
        axis.set(xscale="log", xlabel="optimiser steps")
        for ticks in (axis.xaxis, axis.yaxis):
            ticks.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:g}"))
            ticks.set_minor_formatter(ticker.NullFormatter())
    axes[0].yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.colorbar(shades, ax=axes, label="tokens in the text", pad=0.01)
    num_exact = sum(r["exact_greedy"] for r in records)
    vectors = records[0]["num_memory"]
    figure.suptitle(
        f"{num_exact} of {len(records)} texts come back exactly (●) from "
        f"{vectors} vector{'s' * (vectors > 1)}, the others (✖) do not"
    )
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    plt.close(figure)
    write_whole(folder / "curves.png", picture.getvalue())
    write_whole(folder / "curves.csv", _curves_csv(records))
    return folder / "curves.png"


def _curves_csv(records: Sequence[Record]) -> str:
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(
        ["text_id", "num_tokens", "exact_greedy", "step", "loss_nats", "accuracy"]
    )
    for record in records:
        curve = record["curve"]
        head = [record["text_id"], record["num_tokens"], record["exact_greedy"]]
        columns = curve["steps"], curve["loss_nats"], curve["accuracy"]
        writer.writerows([*head, *row] for row in zip(*columns, strict=True))
    return table.getvalue()
