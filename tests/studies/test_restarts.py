"""Runs of geometry: what is written, and what a kill between two studies costs."""

import numpy as np
import pytest
from cramming_run import RECIPE
from etils import epath

from memcomp.cram.config import CramConfig
from memcomp.cram.recipe import Recipe
from memcomp.data.texts import Text
from memcomp.errors import InputError
from memcomp.runs.files import read_records
from memcomp.studies import restarts as geometry_runs
from memcomp.studies.geometry import CurveConfig
from memcomp.studies.restarts import GeometryConfig, restarts, run_geometry

TEXTS = [
    Text(i, "test", np.array(tokens, np.int32))
    for i, tokens in enumerate([[3], [7], [5, 5, 5, 9, 1, 2, 20, 14]])
]
CFG = CramConfig(
    num_tokens=None,
    num_memory=2,
    recipe=Recipe(**{**RECIPE, "max_steps": 30}),
    steps_per_chunk=10,
)
STUDY = GeometryConfig(
    num_restarts=3,
    most_between=4,
    pairs_per_text=2,
    num_thetas=3,
    scales=(0.5, 1.0),
    num_vocabulary=7,
    trajectory_texts=3,
    trajectory_every=10,
    curve=CurveConfig(steps=3, points=1),
)
KINDS = ["restart", "cosine", "path", "norm", "scale", "trajectory"]


class Killed(BaseException):
    """Stands for a SIGKILL between two studies."""


@pytest.fixture(scope="module")
def run(tiny_lm, tmp_path_factory):
    """Records of a run that is killed before its last study, and goes on; its folder."""
    folder = epath.Path(tmp_path_factory.mktemp("geometry"))
    with pytest.MonkeyPatch.context() as patch:

        def kill(*_):
            raise Killed

        patch.setattr(geometry_runs, "trajectories", kill)
        with pytest.raises(Killed):
            run_geometry(tiny_lm, TEXTS, CFG, STUDY, folder)
    before = read_records(folder / geometry_runs.RECORDS)
    assert list(dict.fromkeys(r["kind"] for r in before)) == KINDS[:-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry_runs, "find_controls", kill)  # curves are there already
        records = run_geometry(tiny_lm, TEXTS, CFG, STUDY, folder)
    assert records[: len(before)] == before
    assert records == read_records(folder / geometry_runs.RECORDS)
    return records, folder


def of(run, kind):
    return [r for r in run[0] if r["kind"] == kind]


def test_only_exact_solutions_are_studied(run):
    starts = of(run, "restart")
    assert [(r["text_id"], r["restart"]) for r in starts] == [
        (text, start) for start in range(3) for text in range(3)
    ]
    # The third text is more than this LM's vectors hold in so few steps.
    assert [r["exact"] for r in starts] == [True, True, False] * 3
    for kind in ("norm", "scale"):
        assert {r["text_id"] for r in of(run, kind) if r.get("of") != "vocabulary"} == {
            0,
            1,
        }


def test_cosines_and_paths_are_of_the_right_pairs(run):
    for record in of(run, "cosine") + of(run, "path"):
        (a, _), (b, _) = (end.split("-") for end in record["pair"].split(":"))
        assert record.get("same_text", True) == (a == b)
    assert sum(r["same_text"] for r in of(run, "cosine")) == 2 * 3
    assert sum(not r["same_text"] for r in of(run, "cosine")) == 4
    paths = of(run, "path")
    assert len(paths) == 2 * 4 * 3
    assert all(r["accuracy"] == 1 for r in paths if r["theta"] in (0, 1))
    for path in ("line", "bezier"):
        assert len({r["pair"] for r in paths if r["path"] == path}) == 4
    assert all((r["length_ratio"] > 1 + 1e-9) == (r["path"] == "bezier") for r in paths)


def test_norms_are_of_memory_start_and_vocabulary(run):
    norms = of(run, "norm")
    count = {kind: sum(r["of"] == kind for r in norms) for kind in ("memory", "start")}
    assert count == {"memory": 6 * 2, "start": 6 * 2}  # two vectors each
    words = [r for r in norms if r["of"] == "vocabulary"]
    assert len(words) == 7
    assert all(r["token"] not in (r["cosine_token"], r["distance_token"]) for r in words)
    for r in norms:
        if r["of"] != "vocabulary":
            text = TEXTS[r["text_id"]].tokens
            assert r["cosine_token_in_text"] == (r["cosine_token"] in text)


def test_scales_and_trajectories(run):
    scales = of(run, "scale")
    assert all(r["accuracy"] == 1 for r in scales if r["scale"] == 1)
    assert len(scales) == 2 * 6
    found = of(run, "trajectory")
    assert len(found) == 3 * 3
    assert [r["exact"] for r in found] == [r["exact"] for r in of(run, "restart")]
    for r in found:
        assert np.shape(r["points"]) == (len(r["steps"]), 3)
        assert len(r["explained_alone"]) == 10 and sum(r["explained_alone"]) <= 1 + 1e-6
        assert r["explained"] == found[0]["explained"]
    spread = np.concatenate([r["points"] for r in found]).var(axis=0)
    share = found[0]["explained"]
    assert spread[1] / spread[0] == pytest.approx(share[1] / share[0], rel=1e-3)


def test_a_report_does_not_take_restarts_for_texts(run):
    _, folder = run
    assert not (folder / "results.jsonl").exists()
    assert (folder / "restarts" / "results.jsonl").exists()
    assert not (folder / "restarts" / "config.json").exists()


def test_starts_have_ids_of_their_own():
    again = restarts(TEXTS[:2], 3)
    assert [(t.text_id, t.restart) for t in again] == [
        (i, restart) for restart in range(3) for i in range(2)
    ]
    assert len({t.seed_id for t in again}) == 6
    assert [t.seed_id for t in again[:2]] == [0, 1]


def test_no_two_solutions_are_said(tiny_lm, monkeypatch, tmp_path):
    """Of any text."""
    record = {"exact_greedy": True, "exact_teacher_forced": True, "text_id": 1}
    failed = {"exact_greedy": False, "exact_teacher_forced": True, "text_id": 1}
    monkeypatch.setattr(geometry_runs, "run_cramming", lambda *_: [record, failed])
    with pytest.raises(InputError, match="1 of 9 starts .* fewer tokens"):
        run_geometry(tiny_lm, TEXTS, CFG, STUDY, epath.Path(tmp_path))
    assert not (tmp_path / "geometry.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"num_restarts": 1}, "2 or more"), ({"scales": ()}, "one factor")],
)
def test_bad_studies_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        GeometryConfig(**changes)
