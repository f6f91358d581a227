import numpy as np

from memcomp.report.digest_figures import attention_map, learning_curves, stored_by_cost


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


def test_learning_curves_have_a_panel_for_each_measure_that_was_made():
    held = {
        "valid_reconstruction_nats_per_token": 2.5,
        "valid_reconstruction_accuracy": 0.4,
    }
    runs = {
        "a": [
            {"step": 1, "nats_per_token": 3.0},
            {"step": 2, "nats_per_token": 2.0} | held,
        ],
        "b": [{"step": 2, "nats_per_token": 4.0}],
    }
    drawn = learning_curves(runs)
    of = {axis.get_ylabel(): axis for axis in drawn.figure.axes}
    assert list(of) == ["nats a token", "right tokens, teacher-forced"]  # and no BLEU
    lines = {
        name: [(list(line.get_xdata()), list(line.get_ydata())) for line in axis.lines]
        for name, axis in of.items()
    }
    # Of each run, a line of the batches and the dots of the texts that are held out.
    assert lines["nats a token"] == [
        ([1, 2], [3.0, 2.0]),
        ([2], [2.5]),
        ([2], [4.0]),
        ([], []),
    ]
    assert lines["right tokens, teacher-forced"][1] == ([2], [0.4])
    assert drawn.rows[:3] == [
        ["nats_per_token", "a", 1, 3.0, None],
        ["nats_per_token", "a", 2, 2.0, 2.5],
        ["nats_per_token", "b", 2, 4.0, None],
    ]


def test_what_is_stored_is_drawn_for_each_length_and_normal_texts_alone():
    def records(vectors, gains, num_tokens=8, text_kind="normal", **more):
        same = dict(vectors=vectors, num_tokens=num_tokens, text_kind=text_kind, **more)
        return [
            {"text_id": i, "gain_nats_per_token": gain, **same}
            for i, gain in enumerate(gains)
        ]

    bare = [{"text_id": 0, "num_tokens": 8, "nats_per_token": 3.0}]
    drawn = stored_by_cost(
        records("icae", [1.0, 2.0], flops=300)
        + records("icae", [9.0, 9.0], text_kind="random", flops=300)
        + records("truncation", [0.5, 0.5])
        + records("cramming", [4.0, 2.0], flops=7000)
        + records("icae", [5.0, 7.0], num_tokens=16, flops=600)
        + bare
    )
    assert [row[:4] for row in drawn.rows] == [
        [8, "icae", 300.0, 1.5],
        [8, "truncation", None, 0.5],
        [8, "cramming", 7000.0, 3.0],
        [16, "icae", 600.0, 6.0],
    ]
    first, second = drawn.figure.axes
    assert [text.get_text() for text in first.texts] == [
        "icae (50%)",
        "truncation (17%)",
        "cramming (100%)",
    ]
    assert [text.get_text() for text in second.texts] == ["icae"]  # no ceiling
    assert drawn.png()
    assert stored_by_cost(bare) is None
