"""Metrics of capacity against cases that are counted by hand."""

import math

import numpy as np
import pytest

from memcomp.metrics import capacity
from memcomp.metrics.capacity import (
    Estimate,
    bits_per_dimension,
    by_length,
    byte_ratios,
    cross_entropy,
    decoding_capacity,
    estimate,
    failed,
    offset,
    pooled_gain,
    theoretical_capacity,
    utilisation,
)

# Three texts at three lengths, two of which fail at the longest.
LENGTHS = np.array([4, 4, 4, 8, 8, 8, 16, 16, 16])
TEXTS = np.array([0, 1, 2] * 3)
ACCURACY = np.array([1, 1, 1, 1, 1, 0.97, 1, 0.5, 0.75])
GAINS = np.array([10, 11, 12, 20, 21, 22, 40, 30, 35.0])


def a_record(**changes):
    record = {"num_tokens": 10, "loss_nats": 0.5, "baseline_loss_nats": 3.0, "text_id": 0}
    return record | changes


def test_a_mean_its_standard_error_and_its_spread():
    got = estimate(np.array([1.0, 2.0, 3.0, 6.0]), np.arange(4))
    # Deviations -2, -1, 0, 3: squares sum to 14.
    assert got.n == 4 and got.mean == 3.0
    assert got.std == pytest.approx(math.sqrt(14 / 3))
    assert got.standard_error == pytest.approx(math.sqrt(14 / 3) / 2)
    assert 1.0 <= got.low < 3.0 < got.high <= 6.0


def test_records_of_one_text_count_as_one_text():
    values, texts = np.array([1.0, 1.0, 3.0, 3.0]), np.array([0, 0, 1, 1])
    got, of_two = estimate(values, texts), estimate(np.array([1.0, 3.0]), np.arange(2))
    assert got.n == 4 and got.standard_error == pytest.approx(of_two.standard_error) == 1.0
    assert (got.low, got.high) == (of_two.low, of_two.high)


def test_the_interval_is_that_of_a_bootstrap_written_as_a_loop():
    rng = np.random.default_rng(3)
    values = rng.gamma(2.0, size=30)
    got = estimate(values, np.arange(30))
    means = [rng.choice(values, 30).mean() for _ in range(4000)]
    low, high = np.percentile(means, [2.5, 97.5])
    # Measured: 0.035 and 0.015 apart, of a width of 0.95.
    assert abs(got.low - low) < 0.15 and abs(got.high - high) < 0.15


def test_the_interval_is_the_same_each_time():
    values = np.random.default_rng(0).normal(size=20)
    first, again = (estimate(values, np.arange(20)) for _ in range(2))
    assert first == again


def test_groups_of_many_texts_have_nearly_the_same_interval(monkeypatch):
    values = np.random.default_rng(0).normal(size=3000)
    dealt = estimate(values, np.arange(3000))
    monkeypatch.setattr(capacity, "MOST_GROUPS", 10_000)
    each = estimate(values, np.arange(3000))
    assert dealt[:4] == each[:4]
    # Measured: widths 4% apart; 1000 resamples alone scatter by 3%.
    assert dealt.high - dealt.low == pytest.approx(each.high - each.low, rel=0.15)


def test_no_record_and_one_record():
    none = estimate(np.array([]), np.array([], int))
    assert none.n == 0 and math.isnan(none.mean)
    assert estimate(np.array([2.0]), np.array([7])) == (1, 2.0, None, None, None, None)
    assert estimate(np.array([2.0, math.inf]), np.array([7, 8])).n == 1


def test_another_unit_turns_the_interval_round_if_it_is_negative():
    got = Estimate(3, 2.0, 1.0, 0.5, 1.0, 4.0).times(-2.0)
    assert got == (3, -4.0, 2.0, 1.0, -8.0, -2.0)


def test_capacity_is_the_longest_length_with_a_mean_of_at_least_99_percent():
    # Means: 1 at 4, 0.99 at 8, 0.75 at 16.
    got = decoding_capacity(LENGTHS, ACCURACY, TEXTS)
    assert (got.tokens, got.n, got.at_end, got.failed_below) == (8, 3, False, ())
    # Text 2 drawn twice or more gives 4; text 0 alone (1 in 27, more than 2.5%) gives 16.
    assert (got.low, got.high) == (4, 16)
    exact = decoding_capacity(LENGTHS, ACCURACY == 1, TEXTS)
    assert exact.tokens == 4
    assert decoding_capacity(LENGTHS, ACCURACY == 1, TEXTS, threshold=0.6).tokens == 8


def test_a_mean_of_just_the_threshold_passes_whatever_the_rounding():
    for n in (3, 7, 50, 99):
        got = decoding_capacity(np.full(n, 5), np.full(n, 0.99), np.arange(n))
        assert got.tokens == 5


def test_capacity_names_shorter_lengths_that_fail_and_says_where_it_may_be_more():
    scores = np.array([1, 1, 1, 0.9, 0.9, 0.9, 1, 1, 1])
    got = decoding_capacity(LENGTHS, scores, TEXTS)
    assert (got.tokens, got.at_end, got.failed_below) == (16, True, (8,))
    nothing = decoding_capacity(LENGTHS, scores * 0.5, TEXTS)
    assert (nothing.tokens, nothing.n, nothing.at_end) == (0, 3, False)


def test_random_lengths_have_one_text_each():
    got = decoding_capacity(np.array([5, 9, 7]), np.array([1, 0.5, 0.995]), np.arange(3))
    assert got.tokens == 7
    # A length that a resample has no text of is no length that it holds.
    assert got.high == 7


def test_published_gains_are_over_texts_that_failed():
    assert failed(np.array([0.99, 0.9901, 0.5])).tolist() == [True, False, True]
    got = pooled_gain(GAINS, ACCURACY, TEXTS)
    # 22 at length 8, 30 and 35 at 16: deviations -7, 1, 6.
    assert got.n == 3 and got.mean == 29.0
    assert got.std == pytest.approx(math.sqrt((49 + 1 + 36) / 2))
    # Text 1 adds 1, text 2 adds -7 + 6: sqrt(2 (1 + 1)) / 3.
    assert got.standard_error == pytest.approx(2 / 3)


def test_gains_by_length_are_over_all_texts():
    got = by_length(LENGTHS, GAINS, TEXTS)
    assert {length: e.mean for length, e in got.items()} == {4: 11.0, 8: 21.0, 16: 35.0}
    assert all(e.n == 3 for e in got.values())


def test_cross_entropy_is_a_sum_over_the_text():
    records = [a_record(), a_record(num_tokens=4)]
    c = {name: np.array([r[name] for r in records]) for name in a_record()}
    before, after = cross_entropy(c)
    assert before.tolist() == [30.0, 12.0] and after.tolist() == [5.0, 2.0]


def test_the_offset_is_that_of_a_least_squares_line_of_slope_one():
    before = np.array([50.0, 100.0, 200.0, 400.0])
    after = np.array([1.0, 62.0, 158.0, 363.0])
    accuracy = np.array([1.0, 0.9, 0.8, 0.7])
    got = offset(before, after, accuracy, np.arange(4))
    assert got.n == 3 and got.mean == pytest.approx((-38 - 42 - 37) / 3)
    grid = np.linspace(-60, 0, 60_001)
    squares = [np.sum((after - before - b)[1:] ** 2) for b in grid]
    assert grid[np.argmin(squares)] == pytest.approx(got.mean, abs=1e-3)
    assert got.low <= got.mean <= got.high


def test_theoretical_capacity_and_utilisation_of_llama_1b_are_the_published_ones():
    bound = theoretical_capacity(2048, 128256)
    assert bound == pytest.approx(1931.1, abs=0.05)
    gain = Estimate(1, 426.2, None, None, None, None)
    assert utilisation(gain, bound).mean == pytest.approx(0.2207, abs=5e-5)
    nats = Estimate(1, 2119.9, None, None, None, None)
    bits = bits_per_dimension(nats, 2048)
    assert bits.mean == pytest.approx(1.49, abs=5e-3)
    assert bits.mean / 16 == pytest.approx(0.0933, abs=5e-5)
    assert theoretical_capacity(4 * 2048, 128256) == pytest.approx(4 * bound)
    assert bits_per_dimension(nats, 4 * 2048).mean == pytest.approx(bits.mean / 4)


def test_bytes_of_text_over_bytes_of_the_vector():
    got = byte_ratios(np.array([6841, 6841]), np.arange(2), 4096)
    assert got["bfloat16"].mean == pytest.approx(0.835, abs=5e-4)  # appendix F
    assert got["float32"].mean == pytest.approx(6841 / 16384)
    assert got["int8"].mean == pytest.approx(6841 / 4096)
    assert byte_ratios(np.array([80]), np.array([0]), 20)["int8"].mean == 4.0
