"""experiments/geometry.py as a user runs it: its files, kills, and bad input."""

import json

import pytest
from scripts import run_script
from selection import first_here

SMALL = (
    "--config.num_texts=2",
    "--config.cram.num_tokens=(2,)",
    "--config.cram.max_steps=60",
    "--config.study.num_restarts=2",
    "--config.study.pairs_per_text=1",
    "--config.study.num_thetas=3",
    "--config.study.trajectory_texts=1",
    "--config.study.num_vocabulary=5",
    "--config.curve.steps=5",
    "--config.curve.points=1",
    "--workdir=run",
)


@pytest.mark.slow
def test_a_run_and_its_end_after_a_kill_between_two_studies(tmp_path):
    status, out, err = run_script("geometry.py", *SMALL, folder=tmp_path)
    assert status == 0, err
    for words in ("4 of 4 starts are exact", "bezier:", "in two directions"):
        assert words in out
    file = tmp_path / "run" / "geometry.jsonl"
    whole = file.read_text()
    lines = whole.splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["kind"] in ("restart", "cosine")]
    file.write_text("".join(kept))
    assert run_script("geometry.py", *SMALL, folder=tmp_path)[:2] == (0, out)
    assert file.read_text() == whole
    status, out, err = run_script("report.py", "run", "--workdir=out", folder=tmp_path)
    assert status == 0 and "0 tables, 5 figures" in out, err


@pytest.mark.parametrize(
    ("argument", "words"),
    first_here(
        [
            ("--config.study.num_restarts=1", ["num_restarts is 1", "2 or more"]),
            ("--config.curve.steps=0", ["steps is 0", "above 0"]),
            ("--config.cram.num_tokens=(600,)", ["600"]),
            ("--config.cram.num_tokens=('a',)", ["num_tokens is ('a',)", "whole number"]),
            (
                "--config.study.scales=('a',)",
                ["a factor of scales is 'a'", "finite number"],
            ),
            ("--config.texts=nowhere", ["nowhere"]),
            ("--config.cram.memory=cache", ["'cache'", "set it to vectors"]),
            ("--config.cram.memory=cash", ["'cash'", "one_step"]),
        ]
    ),
)
def test_bad_input_is_refused_and_nothing_written(tmp_path, argument, words):
    status, _, err = run_script("geometry.py", argument, folder=tmp_path)
    assert status == 2 and len(err.strip().splitlines()) == 1, err
    assert all(word in err for word in words)
    assert not (tmp_path / "runs").exists()
