"""Metrics of a group of records for tables and figures, each computed once."""

import functools
from typing import Any

import numpy as np

from memcomp.metrics.capacity import (
    BITS_PER_NAT,
    Capacity,
    Estimate,
    bits_per_dimension,
    by_length,
    byte_ratios,
    cross_entropy,
    decoding_capacity,
    offset,
    pooled_gain,
    theoretical_capacity,
    utilisation,
)
from memcomp.report.corpora import is_random
from memcomp.report.load import Group, Key
from memcomp.report.published import lm_name

MOST_LENGTHS = 24  # more lengths than these, as of random texts, are binned
UNITS = {"reference": ("nats", 1.0), "strict": ("bits", BITS_PER_NAT)}


def context(key: Key, hardware: str) -> dict[str, Any]:
    """Cells of a table that say under which conditions its numbers were measured."""
    return {
        "protocol": key.protocol,
        "LM": lm_name(key.lm),
        "revision": key.revision,
        "dtype": key.dtype,
        "recipe": key.recipe,
        "hardware": hardware,
        "source": key.source,
        "vectors": key.num_memory,
    }


class Measures:
    """All metrics of one group; gains and cross-entropies are in nats per text."""

    def __init__(self, group: Group):
        self.group = group
        self.before, self.after = cross_entropy(group.columns)

    @property
    def key(self) -> Key:
        """Key of the group: protocol, LM, source and so on."""
        return self.group.key

    @property
    def is_random(self) -> bool:
        """Whether the texts are drawn at random."""
        return is_random(self.key.source)

    def context(self) -> dict[str, Any]:
        """Cells about the runs, for a line of a table."""
        return context(self.key, self.group.hardware)

    def _capacity(self, scores: str) -> Capacity:
        c = self.group.columns
        return decoding_capacity(c["num_tokens"], c[scores], self.group.texts)

    @functools.cached_property
    def capacity_accuracy(self) -> Capacity:
        """Longest length with a mean teacher-forced accuracy of 0.99."""
        return self._capacity("accuracy")

    @functools.cached_property
    def capacity_exact(self) -> Capacity:
        """Longest length at which 99% of the texts are decoded exactly."""
        return self._capacity("exact_greedy")

    @property
    def capacity(self) -> Capacity:
        """The capacity that the protocol defines."""
        strict = self.key.protocol == "strict"
        return self.capacity_exact if strict else self.capacity_accuracy

    def _pooled(self, gains: str) -> Estimate:
        c = self.group.columns
        return pooled_gain(c[gains], c["accuracy"], self.group.texts)

    @functools.cached_property
    def token_gain(self) -> Estimate:
        """Token gain as published: over failed texts of all lengths."""
        return self._pooled("token_gain")

    @functools.cached_property
    def information_gain(self) -> Estimate:
        """Information gain in nats as published: over failed texts of all lengths."""
        return self._pooled("information_gain_nats")

    @functools.cached_property
    def offset(self) -> Estimate:
        """Offset b of after = before + b, in nats."""
        return offset(
            self.before,
            self.after,
            self.group.columns["accuracy"],
            self.group.texts,
        )

    @property
    def num_parameters(self) -> int:
        """Numbers of a memory, the same for all texts of a group."""
        return int(self.group.columns["num_parameters"][0])

    @functools.cached_property
    def bound(self) -> float:
        """Theoretical capacity in tokens (equation 1)."""
        return theoretical_capacity(self.num_parameters, self.group.about["vocab_size"])

    @property
    def utilisation(self) -> Estimate:
        """Token gain, as published, divided by the bound."""
        return utilisation(self.token_gain, self.bound)

    @property
    def bits_per_dimension(self) -> Estimate:
        """Information gain in bits, as published, per number of the memory."""
        return bits_per_dimension(self.information_gain, self.num_parameters)

    @functools.cached_property
    def byte_ratios(self) -> dict[str, Estimate]:
        """Bytes of text at the capacity divided by bytes of memory; empty if unknown."""
        c = self.group.columns
        here = c["num_tokens"] == self.capacity.tokens
        if not np.isfinite(c["num_bytes"][here]).any():
            return {}
        sizes, texts = c["num_bytes"][here], self.group.texts[here]
        return byte_ratios(sizes, texts, self.num_parameters)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Length of each record; if there are many lengths, the mean of its bin."""
        lengths = self.group.columns["num_tokens"]
        if len(np.unique(lengths)) <= MOST_LENGTHS:
            return lengths.astype(np.int64)
        edges = np.unique(np.quantile(lengths, np.linspace(0, 1, MOST_LENGTHS + 1)))
        bins = np.clip(np.searchsorted(edges, lengths, side="right"), 1, len(edges) - 1)
        sums = np.bincount(bins, weights=lengths)
        means = sums / np.maximum(np.bincount(bins), 1)
        return np.round(means[bins]).astype(np.int64)

    def _by_length(self, values: np.ndarray) -> dict[int, Estimate]:
        return by_length(self.lengths, values, self.group.texts)

    @functools.cached_property
    def by_length(self) -> dict[str, dict[int, Estimate]]:
        """Metric -> length -> estimate over all texts of that length."""
        c = self.group.columns
        names = ("accuracy", "exact_greedy", "exact_greedy_bfloat16", "baseline_accuracy")
        values = {name: c[name] for name in names}
        values |= {"loss": c["loss_nats"], "baseline_loss": c["baseline_loss_nats"]}
        values |= {"before": self.before, "after": self.after}
        values |= {"token_gain": c["token_gain"]}
        values |= {"information_gain": c["information_gain_nats"]}
        return {name: self._by_length(column) for name, column in values.items()}

    def longest(self, metric: str) -> Estimate:
        """Estimate at the longest length, where a gain has levelled off if it ever does."""
        found = self.by_length[metric]
        return found[max(found)]
