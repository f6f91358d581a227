"""experiments/real_models.py as a user runs it: rows, resumed, out of time, refused."""

import json
import pathlib

import pytest
from scripts import run_script
from selection import first_here

from memcomp.distributed import EX_TEMPFAIL
from memcomp.report.load import read_runs
from memcomp.runs.horizons import RECORDS

LM = pathlib.Path(__file__).parent.parent / "golden" / "llama"
SMALL = (
    f"--config.lm={LM}",
    "--config.num_texts=2",
    "--config.most=6",
    "--config.num_tokens=2",
    "--config.after=3",
    "--config.sources.novels.source=uniform_tokens",
    "--workdir=run",
)


ROWS = ("default", "progressive", "two_vectors", "bfloat16", "use")


def run(folder, *arguments):
    return run_script("real_models.py", *SMALL, *arguments, folder=folder)


def rows(folder):
    lines = (folder / "run" / "rows.jsonl").read_text().splitlines()
    return {row["row"]: row for row in map(json.loads, lines)}


@pytest.mark.slow
def test_rows_are_of_run_folders_and_a_second_start_does_nothing_again(tmp_path):
    status, out, err = run(tmp_path, f"--config.order={ROWS}")
    assert status == 0, err
    found = rows(tmp_path)
    assert tuple(found) == ROWS
    for name, row in found.items():
        assert f"{name}: " in out and row["lm"] == "llama"
    assert found["progressive"]["recipe"] == "progressive, learning_rate 1.0"
    assert found["two_vectors"]["num_memory"] == 2
    assert found["bfloat16"]["dtype"] == "bfloat16"
    lines = (tmp_path / "run/cells/default" / RECORDS).read_text().splitlines()
    horizons = {r["text_id"]: r["horizon"] for r in map(json.loads, lines)}
    pairs = zip(found["default"]["text_id"], found["default"]["horizon"], strict=True)
    assert dict(pairs) == horizons
    # The report reads them, each by its own recipe.
    runs = read_runs([tmp_path / "run"])
    keys = {(r["key"].recipe, r["key"].num_memory) for r in runs.horizons}
    assert keys == {
        ("default", 1),
        ("progressive, learning_rate 1.0", 1),
        ("default", 2),
    }
    assert {"attention", "knockout", "use"} <= set(runs.studies)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("run/cells/*/*.jsonl")}
    again, out_again, _ = run(tmp_path, f"--config.order={ROWS}")
    assert (again, out_again) == (0, out)
    assert before == {p: p.stat().st_mtime_ns for p in before}
    # Rows that are not asked for again stay.
    status, _, err = run(tmp_path, "--config.order=('progressive',)")
    assert status == 0, err
    assert rows(tmp_path) == found


@pytest.mark.ci
def test_a_run_that_is_out_of_time_says_so_and_resumes(tmp_path):
    arguments = ("--config.order=('default',)", "--config.cram.steps_per_chunk=1")
    status, out, err = run(tmp_path, *arguments, "--config.minutes=0.0001")
    assert status == EX_TEMPFAIL, err
    said = err.strip().splitlines()[-1]
    assert said == "real_models.py: stopped and saved; the same command goes on"
    assert "default, so far:" in out and list(rows(tmp_path)) == ["default"]
    assert None in rows(tmp_path)["default"]["failed"]
    status, out, err = run(tmp_path, *arguments)
    assert status == 0 and list(rows(tmp_path)) == ["default"], err


def test_a_source_without_texts_is_passed_over_and_said(tmp_path):
    status, out, err = run(tmp_path, "--config.order=('stories','random_words')")
    assert status == 0, err
    assert "stories: no texts; set config.sources.stories" in out
    assert "random_words: no texts" in out and not (tmp_path / "run/cells").exists()


@pytest.mark.parametrize(
    "argument, words",
    first_here(
        [
            ("--config.order=('best',)", ["'best'", "default"]),
            ("--config.minutes=-1.0", ["minutes is -1.0", "more than 0"]),
            ("--config.rows.default.measure=guess", ["'guess'", "horizon"]),
            ("--config.lm=nowhere", ["'nowhere'"]),
            ("--config.rows.default.recipe=magic", ["'magic'", "default"]),
            ("--config.most=0", ["most is 0", "1 or more"]),
            ("--config.most=100000", ["100000"]),
            ("--config.mesh.tensor=64", ["tensor 64", "devices"]),
            ("--config.attention=none", ["attention", "'none'", "plain"]),
        ]
    ),
)
def test_bad_input_is_refused_and_nothing_written(argument, words, tmp_path):
    status, _, err = run(tmp_path, argument)
    assert status == 2 and len(err.strip().splitlines()) == 1, err
    assert all(word in err for word in words), err
    assert not (tmp_path / "run").exists()
