import numpy as np

from memcomp.report.digest_figures import attention_map


def test_the_map_is_a_mean_over_heads_layer_by_layer():
    # Layer, head, digest, key: two words, and the digest itself.
    weights = np.array(
        [[[[1.0, 0, 0]], [[0, 1.0, 0]]], [[[0.2, 0.6, 0.2]], [[0, 0.2, 0.8]]]]
    )
    drawn = attention_map(weights, ["a", "b"])
    assert [row[:4] for row in drawn.rows] == [
        [1, 0, 0, "a"],
        [1, 0, 1, "b"],
        [2, 0, 0, "a"],
        [2, 0, 1, "b"],
    ]
    np.testing.assert_allclose([row[4] for row in drawn.rows], [0.5, 0.5, 0.1, 0.4])
