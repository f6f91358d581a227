"""experiments/report.py as a user runs it."""

import hashlib
import json

import pytest
from scripts import run_script
from synthetic_runs import make_sweep


def fingerprints(folder):
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return make_sweep(tmp_path_factory.mktemp("report_script") / "sweep", num_texts=2)


@pytest.mark.slow
def test_folders_become_a_report_twice_the_same_and_are_left_alone(sweep):
    before, folder = fingerprints(sweep), sweep.parent
    halves = ("sweep/cells", "sweep/geometry", "sweep/compress")
    for workdir in ("one", "two"):
        status, out, err = run_script(
            "report.py", *halves, f"--workdir={workdir}", folder=folder
        )
        assert status == 0, err
        assert f"open {workdir}/report.html" in out
    assert fingerprints(sweep) == before
    one, two = (fingerprints(folder / name) for name in ("one", "two"))
    assert list(one.values()) == list(two.values()) and len(one) > 20


def test_without_a_folder_the_runs_of_this_one_are_read(sweep, tmp_path):
    (tmp_path / "runs").symlink_to(sweep / "geometry")
    status, out, err = run_script(
        "report.py", "--workdir=out", "--config.max_texts=3", folder=tmp_path
    )
    assert status == 0, err
    assert "0 tables, 5 figures" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "nothing is no folder"),
        (["empty"], "there is no run"),
        (["--config.max_text=3"], "no such field"),
        (["broken"], "results.jsonl, line 1"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, arguments, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text(json.dumps({"config": {}}))
    (tmp_path / "broken" / "results.jsonl").write_text("{\n")
    status, _, err = run_script("report.py", *arguments, folder=tmp_path)
    assert status == 2 and said in err and err.count("\n") == 1


def test_other_scripts_still_take_no_arguments(tmp_path):
    status, _, err = run_script("cram.py", "a_folder", folder=tmp_path)
    assert status == 2 and "'a_folder' is no flag" in err
