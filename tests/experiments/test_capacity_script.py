"""experiments/capacity.py: cells, growth of a sweep, kills, and bad input."""

import json
import random
import time

import pytest
import scripts
from scripts import run_script

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
    keep = [{k: v for k, v in r.items() if k != "seconds"} for r in records]
    return sorted(keep, key=lambda r: r["text_id"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a finished sweep over two lengths."""
    folder = tmp_path_factory.mktemp("capacity")
    status, out, err = sweep(folder)
    assert status == 0, err
    assert "of 4 exact" in out
    return folder


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


@pytest.mark.parametrize("seeds", [(0,), pytest.param((0, 1), marks=pytest.mark.slow)])
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


def test_other_settings_in_the_same_workdir_are_refused(folder):
    before = cell(folder)
    status, _, err = sweep(folder, "--config.cram.max_steps=41")
    assert status == 2 and "recipe.max_steps: 40 there, 41 here" in err
    assert cell(folder) == before


def test_horizons_of_the_same_texts(folder):
    arguments = ("--config.mode=horizon", "--config.cram.max_steps=60")
    status, out, err = sweep(folder, *arguments)
    assert status == 0, err
    records = cell(folder, "horizons-builtin-builtin-k1-s0", "horizons.jsonl")
    assert len(records) == 2 and all(0 <= r["horizon"] <= 3 for r in records)
    assert f"n = {len(records)}" in out


@pytest.mark.parametrize(
    "argument, words",
    [
        ("--config.mode=grow", ["'grow'", "grid"]),
        ("--config.lms=('nowhere',)", ["'nowhere'"]),
        ("--config.lengths=(600,)", ["600"]),
        ("--config.growth.factor=0.5", ["0.5", "1 or more"]),
    ],
)
def test_bad_input_is_refused_and_nothing_written(argument, words, tmp_path):
    status, _, err = sweep(tmp_path, argument)
    assert status == 2 and len(err.strip().splitlines()) == 1, err
    assert all(word in err for word in words)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_thirty_kills_of_a_sweep_change_nothing(folder, tmp_path):
    """SIGKILL at random moments, again and again until the sweep has ended."""
    rng, num_kills, num_runs = random.Random(0), 0, 0
    want, duration = None, None
    while num_kills < 30:
        here = tmp_path / f"sweep{num_runs}"
        here.mkdir(exist_ok=True)
        arguments = ("capacity.py", SMALL, here, None)
        process = scripts.context.Process(target=scripts.main, args=arguments)
        begin = time.monotonic()
        process.start()
        process.join(duration and rng.uniform(0.2, 1.1) * duration)
        if process.is_alive():
            process.kill()
            process.join()
            num_kills += 1
            continue
        assert process.exitcode == 0
        got = without_time(cell(here))
        if want is None:  # the first is never killed
            want, duration = got, time.monotonic() - begin
        assert got == want
        num_runs += 1
    assert num_runs > 3
