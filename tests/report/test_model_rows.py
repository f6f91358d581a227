"""Rows of a model: numbers a text, and lines counted by hand."""

import pytest

from memcomp.report import model_rows
from memcomp.report.published import PublishedHorizon


def horizon_records():
    return [
        {
            "text_id": i,
            "horizon": horizon,
            "horizon_bfloat16": horizon - i,
            "horizon_bits": 10.0 * horizon,
            "information_gain_bits": 7.0 * horizon,
            "exact_greedy": i > 0,
            "exact_greedy_bfloat16": True,
            "steps": 100,
            "token_steps": 1000 * (i + 1),
            "failed": horizon + 1 if i else None,
        }
        for i, horizon in enumerate((8, 10, 12, 14))
    ]


def test_figures_are_of_every_text_in_order():
    found = model_rows.figures_of(horizon_records(), ("horizon", "token_steps"))
    assert found == {
        "text_id": [0, 1, 2, 3],
        "horizon": [8, 10, 12, 14],
        "token_steps": [1000, 2000, 3000, 4000],
    }


@pytest.mark.parametrize(
    "published, end",
    [
        (None, "token-steps"),
        (
            PublishedHorizon("a", "low_dim", 77.7, 23.2, 314, 82),
            "(published: 77.7 tokens, 314 bits of gain)",
        ),
        (
            PublishedHorizon("a", "low_dim", 15.5, None, None, None),
            "(published: 15.5 tokens)",
        ),
    ],
)
def test_a_line_of_horizons(published, end):
    row = model_rows.figures_of(horizon_records(), model_rows.HORIZON_FIGURES)
    line = model_rows.horizon_line(row, published)
    # Sample standard deviation of 8, 10, 12, 14: sqrt(20 / 3), over sqrt(4).
    assert line.startswith("11.0 ± 1.3 tokens, 110 ± 13 bits of surprise, 77 ± 9 of gain")
    assert "lower bounds: 1 of 4 texts; 2500 ± 645 token-steps" in line
    assert line.endswith(end)


def study_records(layers=4):
    """Two exact texts and one that is not, which does not count."""
    records = []
    for text, exact in enumerate((True, True, False)):
        same = {"text_id": text, "source": "novels", "exact": exact}
        for layer in range(layers):
            mass = 0.1 * (layer + 1) + 0.02 * text
            about = {"kind": "attention", "condition": "memory", "layer": layer}
            records.append(same | about | {"mass": mass})
        ranges = {(i, i + 1) for i in range(layers)} | {(0, 0), (0, 2), (2, 4)}
        for first, last in sorted(ranges):
            about = {"kind": "knockout", "condition": "memory", "first": first}
            right = 1.0 - 0.25 * (last - first)
            records.append(same | about | {"last": last, "accuracy": right})
        for condition, bits in (("nothing", 5.0), ("memory", 4.0)):
            about = {"kind": "use", "condition": condition}
            records.append(same | about | {"loss_bits": bits + text})
    return records


def test_use_is_means_over_exact_texts():
    found = model_rows.use_figures(study_records())
    assert found["attention_mass"] == pytest.approx([0.11, 0.21, 0.31, 0.41])
    assert found["knockout_alone"] == [0.75] * 4
    assert found["knockout_accuracy"] == {"none": 1, "first half": 0.5, "last half": 0.5}
    assert found["continuation_bits"] == {"nothing": 5.5, "memory": 4.5}
    row = found | {"num_exact": 2, "num_texts": 3}
    line = model_rows.use_line(row, published=60.8)
    assert line.startswith("2 of 3 texts exact; attention on memory 26.0 % (layers: 11.0")
    assert "to 41.0; published: 60.8 %)" in line
    assert "accuracy without memory in the first half 50.0 %" in line
    assert line.endswith("bits a token of the continuation: 5.50 (nothing), 4.50 (memory)")


def test_use_of_a_run_without_exact_texts_says_so():
    none = [r | {"exact": False} for r in study_records()]
    row = model_rows.use_figures(none) | {"num_exact": 0, "num_texts": 3}
    assert model_rows.use_line(row, published=None) == "0 of 3 texts exact"
