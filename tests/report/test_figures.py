"""Figures are drawn from what is there, with the numbers that are in them."""

import csv
import io

import pytest
from selection import one_of_each_here
from synthetic_runs import (
    BUILTIN,
    PYTHIA,
    SMOLLM2,
    SOURCES,
    config,
    make_sweep,
    record,
    write_run,
)

from memcomp.metrics.capacity import by_length
from memcomp.report.figures import FIGURES
from memcomp.report.load import read_runs
from memcomp.report.section import is_lower_bound, sections
from memcomp.report.style import source_colours, spread

GEOMETRY = {"figure_7", "figure_8", "norms", "scales", "trajectories"}
USE = {"attention_by_layer", "knockout_by_layer", "use_of_memory", "contexts"}
ANY = GEOMETRY | USE
HORIZONS = {"horizons", "horizons_by_recipe", "horizons_over_vectors"}
HORIZONS |= {"horizons_over_parameters", "horizons_over_cost"}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    top = make_sweep(tmp_path_factory.mktemp("sweep"), num_texts=4)
    return {s.protocol: s for s in sections(read_runs([top]))}


def numbers(drawn):
    return list(csv.DictReader(io.StringIO(drawn.csv())))


@pytest.mark.parametrize(
    ("protocol", "name"),
    one_of_each_here(
        [
            *(("strict", name) for name in FIGURES if name not in ANY),
            *(("reference", name) for name in FIGURES if name not in ANY | HORIZONS),
            *(("any", name) for name in sorted(ANY)),
        ],
        lambda case: case[0],
    ),
)
def test_a_figure_is_a_picture_and_its_numbers(sweep, protocol, name):
    drawn = FIGURES[name](sweep[protocol])
    assert drawn.png(sweep[protocol].about).startswith(b"\x89PNG")
    assert numbers(drawn) and drawn.title and drawn.caption


def test_a_section_without_runs_for_a_figure_has_none(sweep):
    assert {n for n in FIGURES if FIGURES[n](sweep["any"])} == ANY
    assert FIGURES["figure_7"](sweep["strict"]) is None
    assert FIGURES["horizons"](sweep["reference"]) is None


def test_horizons_by_recipe_stand_beside_the_published_ones(sweep):
    rows = numbers(FIGURES["horizons_by_recipe"](sweep["strict"]))
    assert {r["lm"] for r in rows} == {"smollm2-135m-instruct"}
    found = {(r["recipe"], r["figure"], r["panel"]): r for r in rows}
    # The published row of the base model, and ours with the same settings.
    published = found["low_dim", "published", "tokens"]
    assert (published["mean"], published["spread"]) == ("77.7", "23.2")
    assert found["low_dim", "published", "bits"]["mean"] == "314"
    assert ("default", "published", "tokens") not in found
    records = [
        r
        for r in sweep["strict"].horizons
        if (r["key"].recipe, r["key"].lm) == ("low_dim", SMOLLM2["name"])
    ]
    for figure, panel, field in (
        ("horizon", "tokens", "horizon"),
        ("surprise", "bits", "horizon_bits"),
        ("gain", "bits", "information_gain_bits"),
    ):
        row = found["low_dim", figure, panel]
        mean = sum(r[field] for r in records) / len(records)
        assert float(row["mean"]) == pytest.approx(mean, rel=1e-5)  # six digits
        assert int(row["n"]) == len(records)


def test_horizons_say_of_which_means_they_are_lower_bounds(sweep):
    section = sweep["strict"]
    groups = {}
    for r in sorted(section.horizons, key=lambda r: r["key"]):
        groups.setdefault(r["key"], []).append(r)
    bounds = [any(map(is_lower_bound, records)) for records in groups.values()]
    for axis in FIGURES["horizons"](section).figure.axes:
        said = [text.get_text().startswith("≥ ") for text in axis.texts]
        assert said == bounds
    assert len(set(bounds)) == 2


def test_horizons_over_cost_are_means_of_all_texts_at_that_cost(tmp_path):
    """By hand: a text that has ended goes on as it is, another one only as far as known."""
    line = {"source": "novels", "protocol": "strict", "num_memory": 1, "memory": "vectors"}
    points = {0: [(2, 40), (4, 100), (5, 900)], 1: [(3, 60), (6, 200), (6, 400)]}
    growth = [
        line | {"text_id": i, "seed_id": i, "prefix": prefix, "token_steps": cost}
        for i, of_text in points.items()
        for prefix, cost in of_text
    ]
    about = config(SMOLLM2, "novels", 1, "strict")
    write_run(tmp_path, about, growth, "growth.jsonl")
    means = {40: 1.0, 60: 2.5, 100: 3.5, 200: 5.0, 400: 5.0}

    def drawn():
        (section,) = sections(read_runs([tmp_path]))
        rows = numbers(FIGURES["horizons_over_cost"](section))
        assert {row["n"] for row in rows} == {"2"}
        return {float(r["token_steps"]): float(r["mean_prefix"]) for r in rows}

    assert drawn() == means
    ended = line | {"text_id": 1, "seed_id": 1, "horizon": 6, "failed": 7}
    write_run(tmp_path, about, [ended], "horizons.jsonl")
    assert drawn() == means | {900: 5.5}


def test_horizons_over_vectors_are_means_over_texts(sweep):
    rows = numbers(FIGURES["horizons_over_vectors"](sweep["strict"]))
    found = {
        (r["metric"], int(r["vectors"])): float(r["mean"])
        for r in rows
        if r["recipe"] == "default"
    }
    wanted = ("novels", "builtin", "default")
    records = [
        r
        for r in sweep["strict"].horizons
        if (r["key"].source, r["key"].lm, r["key"].recipe) == wanted
    ]
    assert {k for _, k in found} == {1, 2, 4, 8}
    for field, metric, a_vector in (
        ("horizon", "mean horizon (tokens)", False),
        ("horizon_bits", "surprise of it, bits a vector", True),
    ):
        for k in (1, 8):
            values = [r[field] for r in records if r["key"].num_memory == k]
            want = sum(values) / len(values) / (k if a_vector else 1)
            assert found[metric, k] == pytest.approx(want, rel=1e-5)


def test_bits_over_parameters_are_of_all_ways_of_one_lm(sweep):
    rows = numbers(FIGURES["horizons_over_parameters"](sweep["strict"]))
    assert {r["lm"] for r in rows} == {"builtin"}
    found = {
        (r["recipe"], int(r["parameters"])): r for r in rows if r["source"] == "novels"
    }
    assert {n for recipe, n in found if recipe == "cache, default"} == {1024, 2048}
    assert {n for recipe, n in found if recipe == "default"} == {64, 128, 256, 512}
    records = [
        r
        for r in sweep["strict"].horizons
        if (r["memory"], r["num_parameters"]) == ("cache", 2048)
    ]
    for field, column in (("horizon_bits", "bits"), ("horizon", "tokens")):
        want = sum(r[field] for r in records) / len(records)
        got = float(found["cache, default", 2048][column])
        assert got == pytest.approx(want, rel=1e-5)


def test_published_numbers_are_beside_the_same_model_in_reference_only(sweep):
    rows = numbers(FIGURES["figure_1"](sweep["reference"]))
    known = {(r["LM"], r["source"]): r["published"] for r in rows}
    assert known == {
        ("Pythia-160M", "pg19"): "80",
        ("Pythia-160M", "random_words"): "65",
        ("builtin", "novels"): "",
    }
    strict = numbers(FIGURES["figure_1"](sweep["strict"]))
    assert {r["published"] for r in strict} == {""}
    rows = numbers(FIGURES["figure_5"](sweep["reference"]))
    pg19 = next(r for r in rows if r["source"] == "pg19")
    assert float(pg19["published utilisation, %"]) == pytest.approx(9.01, abs=0.005)
    assert float(pg19["published bits a dimension"]) == pytest.approx(0.745, abs=0.0005)


def test_figure_3_has_every_text_in_the_unit_of_its_protocol(sweep):
    for protocol, unit, factor in (("strict", "bits", 1.442695), ("reference", "nats", 1)):
        rows = numbers(FIGURES["figure_3_6"](sweep[protocol]))
        measures = sweep[protocol].fewest_vectors()
        assert len(rows) == sum(len(m.before) for m in measures)
        total = sum(float(r[f"before, {unit}"]) for r in rows)
        wanted = factor * sum(m.before.sum() for m in measures)
        assert total == pytest.approx(wanted, rel=1e-5)


def test_figure_4_has_every_number_of_vectors(sweep):
    rows = numbers(FIGURES["figure_4"](sweep["strict"]))
    assert {(r["source"], r["vectors"]) for r in rows} == {
        ("novels", k) for k in ("1", "2", "4", "8")
    }


def test_accuracy_over_length_is_that_of_the_metrics(sweep):
    rows = numbers(FIGURES["accuracy_over_length"](sweep["strict"]))
    (m,) = (m for m in sweep["strict"].fewest_vectors() if m.key.source == "stories")
    c = m.group.columns
    wanted = by_length(c["num_tokens"], c["accuracy"], m.group.texts)
    got = {int(r["tokens"]): r for r in rows if r["source"] == "stories"}
    assert got.keys() == wanted.keys()
    for length, row in got.items():
        assert float(row["mean"]) == pytest.approx(wanted[length].mean, rel=1e-5)


def test_random_texts_of_any_length_are_binned(sweep):
    (m,) = (m for m in sweep["reference"].measures if m.is_random)
    assert len(set(m.group.columns["num_tokens"])) == 158
    assert len(m.by_length["accuracy"]) <= 24
    assert sum(e.n for e in m.by_length["accuracy"].values()) == 158


def test_one_text_that_fails_at_one_length_can_be_drawn(tmp_path):
    import numpy as np

    line = record(np.random.default_rng(0), BUILTIN, "novels", 1, "strict", 0, 200)
    write_run(tmp_path, config(BUILTIN, "novels", 1, "strict"), [line])
    (section,) = sections(read_runs([tmp_path]))
    drawn = {name: draw(section) for name, draw in FIGURES.items()}
    assert all(d.png() for d in drawn.values() if d)
    assert drawn["figure_1"] and not drawn["figure_4"]


def test_figures_of_studies_have_the_numbers_of_their_records(sweep):
    figures = {name: FIGURES[name](sweep["any"]) for name in GEOMETRY}
    for name in ("figure_7", "figure_8"):
        assert "2 of 40 starts were not exact" in figures[name].caption
    scales = {r["scale"]: r for r in numbers(figures["scales"])}
    # Accuracies of 1, 0.95, ..., 0.55; one of ten is exact.
    assert [scales["0.5"][k] for k in ("accuracy", "exact", "n")] == ["0.775", "0.1", "10"]
    assert float(scales["1"]["exact"]) == 1
    norms = {(r["vectors"], r["measure"]): r for r in numbers(figures["norms"])}
    assert len(norms) == 3 * 3 and norms["memory", "distance"]["median"] == "60"
    assert len(numbers(figures["trajectories"])) == 3 * 4 * 6


def test_lms_are_never_drawn_together(tmp_path):
    for i, lm in enumerate((BUILTIN, PYTHIA)):
        line = {"kind": "cosine", "same_text": True, "cosine": 0.1 + i / 2}
        write_run(
            tmp_path / str(i), config(lm, "novels", 1, "strict"), [line], "geometry.jsonl"
        )
    (section,) = sections(read_runs([tmp_path]))
    rows = numbers(FIGURES["figure_7"](section))
    assert {r["LM"] for r in rows} == {"builtin", "Pythia-160M"}
    assert sum(float(r["share"]) for r in rows) == pytest.approx(2)


def test_labels_are_moved_apart_and_no_further():
    assert spread([0.1, 0.5, 0.9], 0.1) == [0.1, 0.5, 0.9]
    assert spread([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
    placed = spread([0.3, 0.9, 0.31, 0.32], 0.05)
    assert placed == pytest.approx([0.26, 0.9, 0.31, 0.36])
    assert spread([], 0.1) == []


def test_every_source_has_its_own_colour():
    colours = source_colours([*SOURCES, "uniform"])
    # A run has either "uniform" or "uniform_tokens".
    assert len(set(colours.values())) == len(colours) - 1
    assert colours["random_words"] == "#000000"
