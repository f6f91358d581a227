"""Measurements of one language model: numbers of each text, and a line that sums up."""

import math
from collections.abc import Sequence

import numpy as np

from memcomp.metrics.capacity import estimate
from memcomp.report.published import PublishedHorizon
from memcomp.runs.files import Record
from memcomp.studies.use import means

# Fields of a record of horizons.jsonl.
HORIZON_FIGURES = (
    "horizon",
    "horizon_bfloat16",
    "horizon_bits",
    "information_gain_bits",
    "exact_greedy",
    "exact_greedy_bfloat16",
    "failed",
    "steps",
    "token_steps",
)
EXACT_FIGURES = ("exact_greedy", "exact_teacher_forced", "steps", "token_steps", "seconds")


def figures_of(records: Sequence[Record], names: Sequence[str]) -> dict[str, list]:
    """Returns lists of the records' fields by name, with the texts' ids."""
    return {name: [r[name] for r in records] for name in ("text_id", *names)}


def horizon_line(row: Record, published: PublishedHorizon | None) -> str:
    """A line with mean horizon in tokens, bits of surprise and of gain, and published."""
    said = (
        f"{_mean(row, 'horizon')} tokens, {_mean(row, 'horizon_bits', 0)} bits of "
        "surprise, "
        f"{_mean(row, 'information_gain_bits', 0)} of gain; "
        f"lower bounds: {row['failed'].count(None)} of {len(row['horizon'])} texts; "
        f"{_mean(row, 'token_steps', 0)} token-steps"
    )
    if published is None:
        return said
    bits = "" if published.bits is None else f", {published.bits:g} bits of gain"
    return f"{said} (published: {published.tokens:g} tokens{bits})"


def exact_line(row: Record) -> str:
    """A line with the number of texts that are decoded exactly, and the cost."""
    return (
        f"{sum(row['exact_greedy'])} of {len(row['exact_greedy'])} texts of "
        f"{row['num_tokens']} tokens decode greedily; {_mean(row, 'token_steps', 0)} "
        f"token-steps, {_mean(row, 'seconds')} s a text"
    )


def use_figures(records: Sequence[Record]) -> Record:
    """Averages records of use.jsonl over the texts that are decoded exactly.

    `attention_mass` is the attention on memory by layer. `knockout_alone` is the accuracy
    of tokens after the first with memory hidden in one layer, by layer; `knockout_accuracy`
    is that with memory hidden in no layer, the first half and the last half.
    `continuation_bits` are bits per token of the continuation, by condition.
    """
    mass = means("attention", records, "mass")
    knockout = means("knockout", records, "accuracy")
    layers = [key[1] for key in mass if key[0] == "memory"]
    L = len(layers)
    ranges = {"none": (0, 0), "first half": (0, L // 2), "last half": (L // 2, L)}
    return {
        "attention_mass": [mass["memory", layer].mean for layer in layers],
        "knockout_alone": [knockout["memory", i, i + 1].mean for i in layers if knockout],
        "knockout_accuracy": {
            name: knockout["memory", *ab].mean for name, ab in ranges.items() if knockout
        },
        "continuation_bits": {
            key[0]: e.mean for key, e in means("use", records, "loss_bits").items()
        },
    }


def use_line(row: Record, published: float | None) -> str:
    """A line with attention on memory, accuracy without it in half the layers, and bits.

    Args:
      row: record with the fields of `use_figures`.
      published: published percentage of attention on memory.
    """
    mass, without = row["attention_mass"], row["knockout_accuracy"]
    bits = row["continuation_bits"]
    said = [f"{row['num_exact']} of {row['num_texts']} texts exact"]
    if mass:
        said.append(
            f"attention on memory {100 * np.mean(mass):.1f} % (layers: "
            f"{100 * min(mass):.1f} to {100 * max(mass):.1f}"
            + (")" if published is None else f"; published: {published:g} %)")
        )
        said += [
            f"accuracy without memory in the {name} {100 * without[name]:.1f} %"
            for name in ("first half", "last half")
        ]
    if bits:
        said.append(
            "bits a token of the continuation: "
            + ", ".join(f"{b:.2f} ({name})" for name, b in bits.items())
        )
    return "; ".join(said)


def _mean(row: Record, name: str, digits: int = 1) -> str:
    values = np.array(row[name], np.float64)
    e = estimate(values, np.array(row["text_id"]))
    error = math.nan if e.standard_error is None else e.standard_error
    return f"{e.mean:.{digits}f} ± {error:.{digits}f}"
