import numpy as np
import pytest

from memcomp.errors import InputError
from memcomp.metrics.rounding import BITS, round_memory, stored_bits

INTEGERS = [kind for kind in BITS if kind.startswith("int")]


@pytest.fixture()
def memory():
    """Two texts of three vectors whose scales are far apart."""
    normal = np.random.default_rng(0).normal(size=(2, 3, 64))
    return (normal * 10.0 ** np.arange(6).reshape(2, 3, 1)).astype(np.float32)


def test_four_bits_by_hand():
    # The largest, 7, is level 7: the scale is 1, and ties go to even.
    memory = np.array([[-7.0, 0.5, 1.5, 3.4]], np.float32)
    assert round_memory(memory, "int4").tolist() == [[-7.0, 0.0, 2.0, 3.0]]


def test_two_bits_are_minus_largest_zero_and_largest():
    memory = np.array([[3.0, 1.4, -1.6, -0.2]], np.float32)
    assert round_memory(memory, "int2").tolist() == [[3.0, 0.0, -3.0, 0.0]]


def test_float32_changes_nothing(memory):
    np.testing.assert_array_equal(round_memory(memory, "float32"), memory)


def test_bfloat16_drops_the_lower_half_of_the_bits(memory):
    bits = round_memory(memory, "bfloat16").view(np.uint32)
    assert not np.any(bits & 0xFFFF)
    # 8 bits of significand: to the nearest, at most 2**-9 of the power of two below.
    assert np.all(np.abs(round_memory(memory, "bfloat16") - memory) <= np.abs(memory) / 256)


@pytest.mark.parametrize("kind", INTEGERS)
def test_no_number_moves_by_more_than_half_a_level_of_its_own_vector(memory, kind):
    rounded = round_memory(memory, kind)
    levels = 2 ** (BITS[kind] - 1) - 1
    half = np.abs(memory).max(axis=-1, keepdims=True) / levels / 2
    assert np.all(np.abs(rounded - memory) <= half * 1.00001)  # float32
    assert len(np.unique(rounded[1, 2])) <= 2 * levels + 1
    assert np.abs(rounded - memory).max() > 0.9 * half.max()  # and it does round


@pytest.mark.parametrize("kind", BITS)
def test_rounding_again_changes_nothing_that_shows(memory, kind):
    once = round_memory(memory, kind)
    # The scale may move by an ulp: measured 1.2e-7 of the largest.
    np.testing.assert_allclose(round_memory(once, kind), once, rtol=6e-7)


def test_vectors_of_zeros_stay(memory):
    zeros = np.zeros((2, 4), np.float32)
    for kind in BITS:
        np.testing.assert_array_equal(round_memory(zeros, kind), zeros)


def test_stored_bits_count_the_scale_of_each_vector():
    memory = np.zeros((5, 256), np.float32)
    assert stored_bits(memory, "float32") == 5 * 256 * 32
    assert stored_bits(memory, "bfloat16") == 5 * 256 * 16
    assert stored_bits(memory, "int8") == 5 * (256 * 8 + 32)
    assert stored_bits(memory, "int2") == 5 * (256 * 2 + 32)


@pytest.mark.parametrize("function", [round_memory, stored_bits])
def test_unknown_kinds_are_refused(function):
    with pytest.raises(InputError, match="'int1' is not one of float32"):
        function(np.ones((1, 4), np.float32), "int1")
