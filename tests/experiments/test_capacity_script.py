"""experiments/capacity.py: cells, growth of a sweep, kills, and bad input."""

import json
import os
import random
import signal
import time

import pytest
import safetensors.numpy
import scripts
from cramming_run import untimed
from scripts import run_script
from selection import first_here

from memcomp.distributed import EX_TEMPFAIL
from memcomp.runs.cramming import FLIGHT

SMALL = (
    "--config.num_texts=2",
    "--config.lengths=(2,3)",
    "--config.cram.max_steps=40",
    "--config.cram.steps_per_chunk=10",
    "--workdir=run",
)


def sweep(folder, *arguments):
    return run_script("capacity.py", *SMALL, *arguments, folder=folder)


def cell(folder, name="builtin-builtin-k1-s0", file="results.jsonl"):
    lines = (folder / "run" / "cells" / name / file).read_text().splitlines()
    return [json.loads(line) for line in lines]


def without_time(records):
    return sorted(untimed(records), key=lambda r: r["text_id"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a finished sweep over two lengths; it takes long, so its tests are `ci`."""
    folder = tmp_path_factory.mktemp("capacity")
    status, out, err = sweep(folder)
    assert status == 0, err
    assert "of 4 exact" in out
    return folder


@pytest.mark.ci
def test_a_cell_is_a_run_folder_with_what_a_report_needs(folder):
    records = cell(folder)
    assert sorted(r["num_tokens"] for r in records) == [2, 2, 3, 3]
    assert len({r["text_sha256"] for r in records}) == 4
    assert {r["source"] for r in records} == {"builtin"}
    for record in records:
        assert len(record["tokens_text"]) == len(record["surprise_nats"])
        assert record["num_bytes"] == len(record["text"].encode())
    config = json.loads(
        (folder / "run/cells/builtin-builtin-k1-s0/config.json").read_text()
    )
    assert config["config"]["recipe"]["max_steps"] == 40
    assert config["lm"]["d_model"] > 0 and config["lm"]["vocab_size"] > 0


@pytest.mark.parametrize(
    "seeds",
    [
        pytest.param((0,), marks=pytest.mark.ci),
        pytest.param((0, 1), marks=pytest.mark.slow),
    ],
)
def test_a_sweep_grows_and_redoes_nothing(folder, seeds):
    before = cell(folder)
    more = ("--config.lengths=(2,3,4)", f"--config.seeds={seeds}")
    status, out, err = sweep(folder, *more)
    assert status == 0, err
    after = cell(folder)
    assert after[: len(before)] == before
    assert sorted(r["num_tokens"] for r in after) == [2, 2, 3, 3, 4, 4]
    for seed in seeds:
        assert len(cell(folder, f"builtin-builtin-k1-s{seed}")) == 6


@pytest.mark.ci
def test_other_settings_in_the_same_workdir_are_refused(folder):
    before = cell(folder)
    status, _, err = sweep(folder, "--config.cram.max_steps=41")
    assert status == 2 and "recipe.max_steps: 40 there, 41 here" in err
    assert cell(folder) == before


@pytest.mark.slow
def test_horizons_of_the_same_texts(folder):
    arguments = ("--config.mode=horizon", "--config.cram.max_steps=60")
    status, out, err = sweep(folder, *arguments)
    assert status == 0, err
    records = cell(folder, "horizons-builtin-builtin-k1-s0", "horizons.jsonl")
    assert len(records) == 2 and all(0 <= r["horizon"] <= 3 for r in records)
    assert f"n = {len(records)}" in out


@pytest.mark.parametrize(
    "argument, words",
    first_here(
        [
            ("--config.mode=grow", ["'grow'", "grid"]),
            ("--config.lms=('nowhere',)", ["'nowhere'"]),
            ("--config.lengths=(600,)", ["600"]),
            ("--config.growth.factor=0.5", ["0.5", "1 or more"]),
        ]
    ),
)
def test_bad_input_is_refused_and_nothing_written(argument, words, tmp_path):
    status, _, err = sweep(tmp_path, argument)
    assert status == 2 and len(err.strip().splitlines()) == 1, err
    assert all(word in err for word in words)
    assert not (tmp_path / "run").exists()


LONG_TARGET = (
    "--config.mode=horizon",
    "--config.num_texts=1",
    "--config.lengths=(24,)",
    "--config.cram.max_steps=80",
    "--config.cram.steps_per_chunk=5",
    "--workdir=run",
)
HORIZONS = "horizons-builtin-builtin-k1-s0"


def horizon_process(folder):
    folder.mkdir(exist_ok=True)
    process = scripts.context.Process(
        target=scripts.main, args=("capacity.py", LONG_TARGET, folder, None)
    )
    process.start()
    return process


def steps_saved(folder):
    """Steps of the target in flight."""
    path = folder / "run/cells" / HORIZONS / FLIGHT
    if not path.exists():
        return 0
    return len(safetensors.numpy.load(path.read_bytes())["losses/0"])


def wait_for_steps(folder, process, more_than):
    """The first number of steps above `more_than` that is saved."""
    while process.is_alive() and steps_saved(folder) <= more_than:
        time.sleep(0.002)
    return steps_saved(folder)


@pytest.mark.slow
@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_within_a_long_target_costs_one_chunk(told, tmp_path):
    never = horizon_process(tmp_path / "never stopped")
    stopped = horizon_process(tmp_path / "stopped")
    assert wait_for_steps(tmp_path / "stopped", stopped, more_than=20) > 20
    os.kill(stopped.pid, told)
    stopped.join()
    assert stopped.exitcode == (EX_TEMPFAIL if told == signal.SIGTERM else -told)
    saved = steps_saved(tmp_path / "stopped")
    # What a chunk that was being computed would have added is all that is lost.
    resumed = horizon_process(tmp_path / "stopped")
    assert wait_for_steps(tmp_path / "stopped", resumed, more_than=saved) == saved + 5
    for process in (resumed, never):
        process.join()
        assert process.exitcode == 0
    one, other = (
        cell(tmp_path / name, HORIZONS, "horizons.jsonl")
        for name in ("stopped", "never stopped")
    )
    assert one == other and one[0]["num_targets"] == 1 and one[0]["steps"] > saved


@pytest.mark.slow
def test_thirty_kills_of_sweeps_change_nothing(tmp_path):
    """SIGKILL at random moments: three sweeps, killed ten times each, and then ended."""
    rng = random.Random(0)

    def run(here, seconds=None):
        """Whether the sweep was killed after so many seconds."""
        here.mkdir(exist_ok=True)
        arguments = (*SMALL, "--config.num_texts=6", "--config.lengths=(2,3,4)")
        process = scripts.context.Process(
            target=scripts.main, args=("capacity.py", arguments, here, None)
        )
        process.start()
        process.join(seconds)
        if not (alive := process.is_alive()):
            assert process.exitcode == 0
        process.kill()
        process.join()
        return alive

    begin = time.monotonic()
    run(tmp_path / "never killed")
    duration = time.monotonic() - begin
    want = without_time(cell(tmp_path / "never killed"))
    midway = 0  # kills that left some of the results
    for number in range(3):
        here, num_kills = tmp_path / f"sweep{number}", 0
        while num_kills < 10:
            if not run(here, rng.uniform(0.3, 1.0) * duration):
                assert without_time(cell(here)) == want
                here = here.with_name(f"{here.name}, again")
                continue
            num_kills += 1
            midway += any(here.glob("run/cells/*/results.jsonl"))
        run(here)
        assert without_time(cell(here)) == want
    assert midway >= 3
