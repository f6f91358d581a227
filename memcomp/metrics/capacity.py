"""How much a vector holds: all metrics of the published tables, and ours.

Functions take columns with one number per record, which is a text at a length. A sum over
the tokens of a text is a mean times `num_tokens`, in both protocols, as
`memcomp.runs.records.record` writes it. A text may have records at many lengths and from
many seeds, so intervals and standard errors are over texts, not over records.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from memcomp.lm.score import BITS_PER_NAT

THRESHOLD = 0.99
LEVEL = 0.95  # confidence level of all intervals
RESAMPLES = 1000
SEED = 0  # of the bootstrap, so that a report is the same each time
MOST_GROUPS = 2000  # the bootstrap resamples at most so many groups of texts
FORMATS = {"float32": 4, "bfloat16": 2, "int8": 1}  # bytes per number of the vector

Columns = Mapping[str, np.ndarray]
Numbers = Num[np.ndarray, " n"] | Bool[np.ndarray, " n"]
Texts = Int[np.ndarray, " n"]


class Estimate(NamedTuple):
    """A mean over records, with its uncertainty.

    Attributes:
      n: number of records.
      mean: mean of the records; NaN if there are none.
      std: sample standard deviation over records; None for fewer than two.
      standard_error: standard error of the mean, clustered by text; None for fewer than two
        texts.
      low, high: percentile bootstrap over texts, 95%; None for fewer than two texts.
    """

    n: int
    mean: float
    std: float | None
    standard_error: float | None
    low: float | None
    high: float | None

    @property
    def interval(self) -> tuple[float, float]:
        """`low` and `high`; the mean in place of either that is None."""
        low, high = (self.mean if x is None else x for x in (self.low, self.high))
        return low, high

    def times(self, factor: float) -> "Estimate":
        """The estimate in another unit."""

        def by(x: float | None, factor: float) -> float | None:
            return None if x is None else x * factor

        std, error = by(self.std, abs(factor)), by(self.standard_error, abs(factor))
        low, high = by(self.low, factor), by(self.high, factor)
        if factor < 0:
            low, high = high, low
        return Estimate(self.n, self.mean * factor, std, error, low, high)


class Capacity(NamedTuple):
    """The longest length that passes a threshold.

    Attributes:
      tokens: that length; 0 if no length passes.
      n: number of records at that length, or at the shortest length if none passes.
      low, high: percentile bootstrap over texts, 95%.
      at_end: whether no longer length was tried, so that the capacity may be larger.
      failed_below: shorter lengths that do not pass, which the published figure ignores.
    """

    tokens: int
    n: int
    low: int
    high: int
    at_end: bool
    failed_below: tuple[int, ...]


# --- n, mean, standard error, interval


def estimate(values: Numbers, texts: Texts) -> Estimate:
    """Mean of records, with an interval over the texts that they belong to.

    Args:
      values: value of each record; those that are not finite are left out.
      texts: id of the text of each record.
    """
    values = np.asarray(values, np.float64)
    keep = np.isfinite(values)
    values, texts = values[keep], np.asarray(texts)[keep]
    n = len(values)
    if not n:
        return Estimate(0, math.nan, None, None, None, None)
    mean = float(values.mean())
    std = float(values.std(ddof=1)) if n > 1 else None
    sums = _text_sums(np.stack([values, np.ones(n)], axis=1), texts)
    num_texts = len(sums)
    if num_texts < 2:
        return Estimate(n, mean, std, None, None, None)
    # With one record per text, this equals std / sqrt(n).
    residuals = sums[:, 0] - mean * sums[:, 1]
    error = math.sqrt(num_texts / (num_texts - 1) * float(np.sum(residuals**2))) / n
    low, high = _interval(sums, lambda s: s[:, 0] / s[:, 1])
    return Estimate(n, mean, std, error, float(low), float(high))


def estimate_of(records: Iterable[Mapping[str, Any]], field: str) -> Estimate:
    """`estimate` of a field over the records that have it."""
    pairs = [(r.get(field, math.nan), r["text_id"]) for r in records]
    values, texts = (np.array(column) for column in zip(*pairs, strict=True))
    return estimate(values, texts)


def by_length(lengths: Numbers, values: Numbers, texts: Texts) -> dict[int, Estimate]:
    """Estimate at each length over all its texts, whether they failed or not."""
    found = {}
    for length in np.unique(lengths):
        here = np.asarray(lengths) == length
        found[int(length)] = estimate(np.asarray(values)[here], np.asarray(texts)[here])
    return found


def _text_sums(values: Float[np.ndarray, "n s"], texts: Texts) -> Float[np.ndarray, "g s"]:
    """Sums of values over the records of each text."""
    names, group = np.unique(texts, return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, group, values)
    return sums


def _interval(
    sums: Float[np.ndarray, "g s"],
    statistic: Callable[[Float[np.ndarray, "r s"]], Num[np.ndarray, " r"]],
) -> np.ndarray:
    """Bootstrap interval of a statistic of sums over texts, by percentiles.

    With more than MOST_GROUPS texts, groups of texts are resampled. The width of the
    interval is then accurate to about 1 / sqrt(2 MOST_GROUPS), 2%.
    """
    if len(sums) > MOST_GROUPS:
        dealt = np.random.default_rng(SEED).permutation(len(sums)) % MOST_GROUPS
        sums = _text_sums(sums, dealt)
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample may lack a length
        values = statistic(_weights(len(sums)) @ sums)
    tail = 50 * (1 - LEVEL)
    return np.nanpercentile(values, [tail, 100 - tail], method="linear")


@functools.lru_cache(maxsize=64)
def _weights(num_texts: int) -> Float[np.ndarray, "r g"]:
    """Number of times that each text is drawn in each resample, equal for all metrics."""
    rng = np.random.default_rng(SEED)
    drawn = rng.integers(0, num_texts, (RESAMPLES, num_texts))
    rows = np.arange(RESAMPLES)[:, None] * num_texts
    counts = np.bincount((drawn + rows).ravel(), minlength=RESAMPLES * num_texts)
    return counts.reshape(RESAMPLES, num_texts).astype(np.float64)


# --- capacity in tokens


def decoding_capacity(
    lengths: Numbers,
    scores: Numbers,
    texts: Texts,
    *,
    threshold: float = THRESHOLD,
) -> Capacity:
    """The largest length whose mean score is at least `threshold`.

    The score of protocol `reference` is teacher-forced accuracy. Protocol `strict` has two
    scores: this one, and whether greedy decoding of the stored vector is exact.

    Source: Kuratov et al. 2025, arXiv:2502.13063, equation 2, as their code has it: "at
      least", and shorter lengths that fail are ignored (here they are listed).
    """
    tried, column = np.unique(lengths, return_inverse=True)
    table = np.zeros((len(column), 2, len(tried)))
    rows = np.arange(len(column))
    table[rows, 0, column] = scores
    table[rows, 1, column] = 1
    sums = _text_sums(table.reshape(len(column), -1), texts)

    def largest(s):
        total, count = s.reshape(-1, 2, len(tried)).transpose(1, 0, 2)
        # The tolerance is relative, because sums of many scores are rounded.
        passes = total >= threshold * count * (1 - 1e-12)
        return np.where(passes & (count > 0), tried, 0).max(axis=1)

    tokens = int(largest(sums.sum(axis=0, keepdims=True))[0])
    counts = np.bincount(column)
    means = np.bincount(column, weights=np.asarray(scores, np.float64)) / counts
    failed = means < threshold * (1 - 1e-12)
    low, high = _interval(sums, largest)
    return Capacity(
        tokens=tokens,
        n=int(counts[np.searchsorted(tried, tokens)] if tokens else counts[0]),
        low=int(low),
        high=int(high),
        at_end=tokens == int(tried[-1]),
        failed_below=tuple(int(t) for t in tried[failed & (tried < tokens)]),
    )


def theoretical_capacity(num_parameters: int, vocab_size: int) -> float:
    """Largest number of tokens that the numbers of a memory encode, with 16 bits each.

    Source: Kuratov et al. 2025, arXiv:2502.13063, equation 1.
    """
    return num_parameters * 16 / math.log2(vocab_size)


# --- gains


def failed(accuracy: Numbers) -> Bool[np.ndarray, " n"]:
    """Mask of the records that published gains are averaged over: accuracy at most 0.99.

    A text with all tokens right is no longer optimised, so its remaining cross-entropy is
    arbitrary.
    """
    return np.asarray(accuracy) <= THRESHOLD


def pooled_gain(gains: Numbers, accuracy: Numbers, texts: Texts) -> Estimate:
    """Token or information gain as published: a mean over failed texts of all lengths.

    `by_length` of the same gains also includes texts that have not failed.

    Source: Kuratov et al. 2025, arXiv:2502.13063, equations 3 and 4; `std` is what
      their tables have after the plus-minus sign.
    """
    keep = failed(accuracy)
    return estimate(np.asarray(gains)[keep], np.asarray(texts)[keep])


def cross_entropy(c: Columns) -> tuple[Numbers, Numbers]:
    """Cross-entropy of each text in nats, summed over tokens: without and with memory."""
    return c["baseline_loss_nats"] * c["num_tokens"], c["loss_nats"] * c["num_tokens"]


def offset(before: Numbers, after: Numbers, accuracy: Numbers, texts: Texts) -> Estimate:
    """Offset b of the line `after = before + b`, fitted to the failed texts.

    With slope 1, the least-squares b is the mean of after - before. Texts with an accuracy
    of exactly 0.99 are left out, as in the published fit.
    """
    keep = np.asarray(accuracy) < THRESHOLD
    difference = np.asarray(after)[keep] - np.asarray(before)[keep]
    return estimate(difference, np.asarray(texts)[keep])


# --- against the size of the vector


def utilisation(token_gain: Estimate, capacity: float) -> Estimate:
    """Token gain as a share of the theoretical capacity (section 4.5 of the paper)."""
    return token_gain.times(1 / capacity)


def bits_per_dimension(gain_nats: Estimate, num_parameters: int) -> Estimate:
    """Bits that each number of the memory carries; divide by 16 for the share used."""
    return gain_nats.times(BITS_PER_NAT / num_parameters)


def byte_ratios(
    num_bytes: Numbers, texts: Texts, num_parameters: int
) -> dict[str, Estimate]:
    """UTF-8 bytes of the text divided by bytes of its memory, for each number format.

    This compares sizes only; whether a text survives the rounding is another question.

    Source: Kuratov et al. 2025, arXiv:2502.13063, appendix F (bfloat16).
    """
    size = estimate(num_bytes, texts)
    return {
        name: size.times(1 / (width * num_parameters)) for name, width in FORMATS.items()
    }
