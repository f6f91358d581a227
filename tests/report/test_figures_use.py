"""Figures of experiments/use.py: their numbers are the means of the records."""

import csv
import io
import json

import numpy as np
import pytest
from synthetic_runs import make_use

from memcomp.report.figures_use import (
    attention_by_layer,
    contexts,
    knockout_by_layer,
    use_of_memory,
)
from memcomp.report.load import read_runs
from memcomp.report.section import sections

FIGURES = (attention_by_layer, knockout_by_layer, use_of_memory, contexts)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = make_use(tmp_path_factory.mktemp("use"))
    lines = list(map(json.loads, (folder / "use.jsonl").read_text().splitlines()))
    (section,) = sections(read_runs([folder]))
    return section, lines


def numbers(drawn):
    return list(csv.DictReader(io.StringIO(drawn.csv())))


@pytest.mark.parametrize("draw", FIGURES)
def test_a_figure_is_a_picture_of_one_run(run, draw):
    drawn = draw(run[0])
    assert drawn.png().startswith(b"\x89PNG") and drawn.title and drawn.caption
    found = {(r["LM"], r["texts"], r["tokens"], r["vectors"]) for r in numbers(drawn)}
    assert found == {("builtin", "novels", "6", "1")}


def wanted(lines, field, exact, **fields):
    values = [
        np.mean(r[field])
        for r in lines
        if all(r.get(k) == v for k, v in fields.items()) and (r["exact"] or not exact)
    ]
    return pytest.approx(np.mean(values), rel=1e-5), len(values)


def test_the_numbers_are_means_over_texts(run):
    section, lines = run
    for row in numbers(attention_by_layer(section)):
        where = {"condition": row["in the place of memory"], "layer": int(row["layer"])}
        if row["head"] == "mean":
            want = wanted(lines, "mass", True, kind="attention", **where)
            assert (float(row["mean"]), int(row["n"])) == want
    rows = [r for r in numbers(knockout_by_layer(section)) if r["from layer"]]
    assert len(rows) == 6
    for row in rows:
        first, last = int(row["from layer"]), int(row["to layer"]) + 1
        want = wanted(lines, "accuracy", True, kind="knockout", first=first, last=last)
        assert (float(row["mean"]), int(row["n"])) == want
    rows = {r["given"]: r for r in numbers(use_of_memory(section))}
    want = wanted(lines, "loss_nats", True, kind="use", condition="other memory")
    row = rows["another text's memory"]
    assert (float(row["mean"]), int(row["n"])) == want
    rows = {r["given"]: r for r in numbers(contexts(section))}
    want = wanted(lines, "loss_nats", False, kind="context", condition="before")
    row = rows["4 tokens before it"]
    assert (float(row["mean"]), int(row["n"])) == want and int(row["n"]) == 6


def test_a_run_without_an_exact_text_has_contexts_only(tmp_path):
    folder = make_use(tmp_path, num_texts=1)
    (section,) = sections(read_runs([folder]))
    assert [draw(section) is not None for draw in FIGURES] == [False, False, False, True]
    contexts(section).png()
