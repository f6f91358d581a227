"""What the gradient is of, and how leading tokens are counted."""

import jax.numpy as jnp
import numpy as np
import pytest

from memcomp.cram.objective import OBJECTIVES, exact_prefix, scored_positions


@pytest.mark.parametrize(
    "margins, length, num_given, want",
    [
        ([1, 1, 1, 1], 4, 0, 4),
        ([1, 1, -1, 1], 4, 0, 2),
        ([-1, 1, 1, 1], 4, 0, 0),
        ([1, 1, 0.05, 1], 4, 0, 2),  # right, but by less than the margin
        ([1, 1, 1, 1], 3, 0, 3),  # padding is no part of the text
        ([-1, 1, 1, -1], 4, 1, 3),  # what is given is right
        ([-1, -1, 1, 1], 4, 1, 1),
        ([-1, 1, 1, 1], 2, 1, 2),
    ],
)
def test_leading_tokens_by_hand(margins, length, num_given, want):
    scored = scored_positions(jnp.int32(length), 4, num_given)
    assert int(exact_prefix(jnp.array(margins, jnp.float32), scored, 0.1)) == want


@pytest.mark.parametrize(
    "objective, prefix, want",
    [
        ("mean", 1, [0, 1, 1, 1, 0]),
        ("frontier", 1, [0, 1, 0, 0, 0]),
        ("frontier", 2, [0, 1, 1, 0, 0]),
        ("frontier", 4, [0, 1, 1, 1, 0]),
    ],
)
def test_positions_of_an_objective_by_hand(objective, prefix, want):
    scored = scored_positions(jnp.int32(4), 5, 1)
    got = OBJECTIVES[objective].positions(scored, jnp.int32(prefix))
    np.testing.assert_array_equal(got, np.array(want, bool))
