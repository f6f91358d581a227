"""Scripts in several processes for real: killed, told to stop, and started again."""

import ctypes
import json
import os
import random
import signal
import socket
import threading
import time

import pytest
import scripts
from cramming_run import untimed
from several import Job
from tiny_lm import EIGHT_HEADS, make_tiny_lm

from memcomp.cram.memory_file import load_memory
from memcomp.distributed import EX_TEMPFAIL, LOST
from memcomp.lm.load import export_lm, load_lm
from memcomp.runs.cramming import FLIGHT

SMALL = (
    "--config.texts=uniform_tokens",
    "--config.num_texts=7",
    "--config.cram.num_tokens=(2,4,3,3,2,4,3)",
    "--config.cram.num_memory=2",
    "--config.cram.max_steps=40",
    "--config.cram.patience=40",
    "--config.cram.learning_rate=0.5",
    "--config.cram.batch_size=2",
    "--config.cram.steps_per_chunk=4",
)
SECONDS = 120  # in which a job of this size ends on a slow machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    lm = make_tiny_lm("float32", EIGHT_HEADS)
    export_lm(folder / "lm", lm.module, lm.params)
    return folder


def cram(folder, run, processes, *arguments, devices=1):
    flags = f"--config.lm={folder / 'lm'}", f"--workdir={folder / run}"
    return Job(
        folder, "cram.py", *SMALL, *flags, *arguments, processes=processes, devices=devices
    )


@pytest.fixture(scope="module")
def alone(folder):
    """Records of one process with one device."""
    statuses, said = cram(folder, "alone", 1).ended(SECONDS)
    assert statuses == [0], said
    return read(folder / "alone")


def read(run):
    lines = (run / "results.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def assert_right(folder, run, want):
    """The records are those of one process, once each; memories are what they name."""
    got, want = untimed(read(folder / run)), untimed(want)
    got, want = (sorted(found, key=lambda r: r["text_id"]) for found in (got, want))
    assert [r["text_id"] for r in got] == [r["text_id"] for r in want]
    for ours, theirs in zip(got, want, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            if isinstance(value, float):
                # Float32 on parts of other sizes: measured 1e-4 after 40 steps.
                assert ours[name] == pytest.approx(value, rel=1e-2, abs=1e-3), name
            elif isinstance(value, int | bool) or name == "text_sha256":
                assert ours[name] == value, name
    lm = load_lm(str(folder / "lm"))
    for record in got:
        stored = load_memory(folder / run / record["memory_file"], lm)
        assert record["memory_key"] in stored
    assert not (folder / run / FLIGHT).exists()
    assert not list((folder / run / "parts").glob("*"))


def wait_for(path, job):
    while not path.exists() and job.alive():
        time.sleep(0.01)


@pytest.mark.ci
def test_two_processes_one_of_which_is_killed(folder, alone):
    run = folder / "killed"
    job = cram(folder, "killed", 2)
    wait_for(run / FLIGHT, job)
    begin = time.monotonic()
    job.processes[1].kill()
    statuses, said = job.ended(SECONDS)
    assert statuses == [EX_TEMPFAIL, -signal.SIGKILL], said
    assert time.monotonic() - begin < 30  # measured 1; the heartbeat would take 60
    assert said[0].strip().splitlines()[-1].endswith("which resumes from what is saved")
    statuses, said = cram(folder, "killed", 1).ended(SECONDS)  # in another number
    assert statuses == [0], said
    assert_right(folder, "killed", alone)


@pytest.mark.slow
def test_a_job_that_is_told_to_stop_goes_on_with_other_processes(folder, alone):
    job = cram(folder, "told", 2)
    wait_for(folder / "told" / FLIGHT, job)
    os.kill(job.processes[1].pid, signal.SIGTERM)
    statuses, said = job.ended(SECONDS)
    assert statuses == [EX_TEMPFAIL, EX_TEMPFAIL], said
    assert all("the same command goes on" in words for words in said)
    assert (folder / "told" / FLIGHT).exists()
    statuses, said = cram(folder, "told", 1).ended(SECONDS)
    assert statuses == [0], said
    assert_right(folder, "told", alone)


def chunks_later(run, number, job):
    """Waits for so many chunks of what a job does."""

    def saved():
        try:
            return (run / FLIGHT).stat().st_mtime_ns
        except FileNotFoundError:
            return None

    before = saved()
    while number and job.alive():
        number, before = number - (saved() != before), saved()
        time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.parametrize(
    "processes, devices, mesh",
    [(2, 1, (-1, 1, 1)), (4, 2, (2, 2, 2)), (4, 2, (1, 8, 1))],
)
def test_five_kills_lose_nothing_and_nothing_comes_twice(
    folder, alone, processes, devices, mesh
):
    names = zip(("data", "fsdp", "tensor"), mesh, strict=True)
    flags = [f"--config.mesh.{name}={size}" for name, size in names]

    def start(run):
        return cram(folder, run, processes, *flags, devices=devices)

    def assert_ends_right(run):
        statuses, said = start(run.name).ended(5 * SECONDS)
        assert statuses == [0] * processes, said
        assert_right(folder, run.name, alone)

    name = "-".join(map(str, (processes, *mesh)))
    run, rng, seconds = folder / f"cut{name}", random.Random(0), []
    num_kills = num_midway = 0
    while num_kills < 5:
        job, victim = start(run.name), rng.randrange(processes)
        chunks_later(run, rng.randrange(1, 5), job)
        time.sleep(rng.uniform(0, 0.2))
        begin = time.monotonic()
        job.processes[victim].kill()
        statuses, said = job.ended(5 * SECONDS)
        if 0 in statuses:  # it had ended: another one
            assert_ends_right(run)
            run = run.with_name(f"{run.name}, again")
            continue
        seconds.append(time.monotonic() - begin)
        num_kills += 1
        num_midway += (run / FLIGHT).exists()
        statuses.pop(victim)
        assert statuses == [EX_TEMPFAIL] * (processes - 1), said
    assert_ends_right(run)
    print(f"{num_kills} kills, {num_midway} midway, survivors ended in {seconds}")
    assert num_midway >= 3


def horizon_job(folder, run, processes):
    flags = {"mode": "horizon", "lms": (str(folder / "lm"),), "num_memory": (2,)}
    flags |= {"sources.builtin.source": "uniform_tokens", "num_texts": 5, "lengths": (6,)}
    flags |= {"cram.max_steps": 40, "cram.batch_size": 2, "cram.steps_per_chunk": 4}
    flags |= {"growth.first": 1, "growth.factor": 1.5}
    arguments = [f"--config.{name}={value}" for name, value in flags.items()]
    where = f"--workdir={folder / run}"
    return Job(folder, "capacity.py", *arguments, where, processes=processes)


@pytest.mark.slow
def test_horizons_of_two_processes_one_of_which_is_killed(folder):
    """Three times, after more and more targets; and then ended."""

    def found(run):
        (cell,) = (folder / run / "cells").iterdir()
        assert not list((cell / "parts").glob("*"))
        lines = (cell / "horizons.jsonl").read_text().splitlines()
        return sorted(map(json.loads, lines), key=lambda r: r["text_id"])

    for run, processes in (("horizons", 1), ("horizons of two", 2)):
        statuses, said = horizon_job(folder, run, processes).ended(2 * SECONDS)
        assert statuses == [0] * processes, said
    want = found("horizons")
    assert [r["text_id"] for r in want] == list(range(5))
    assert len({r["horizon"] for r in want}) > 1
    assert found("horizons of two") == want
    for number, victim in enumerate((1, 0, 1)):
        job = horizon_job(folder, "horizons cut", 2)
        while targets(folder / "horizons cut") <= 3 * number and job.alive():
            time.sleep(0.002)
        job.processes[victim].kill()
        statuses, said = job.ended(SECONDS)
        assert statuses[victim] == -signal.SIGKILL
        assert statuses[1 - victim] == EX_TEMPFAIL, said
    statuses, said = horizon_job(folder, "horizons cut", 2).ended(2 * SECONDS)
    assert statuses == [0, 0], said
    assert found("horizons cut") == want


def targets(run):
    """How many have ended, of all texts."""
    total = 0
    for file in run.glob("cells/*/trials/*.safetensors"):
        data = file.read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        total += json.loads(header["__metadata__"]["counts"])["num_targets"]
    return total


def abort():
    ctypes.CDLL(None).abort()


CRASHES = {
    "abort": abort,
    "abort in a thread": lambda: threading.Thread(target=abort).start(),
    "SIGABRT from elsewhere": lambda: os.kill(os.getpid(), signal.SIGABRT),
}


def member(address, number, crash, folder):
    """Process `number` of a job of two, the second of which crashes."""
    os.dup2(os.open(folder / f"err{number}.txt", os.O_WRONLY | os.O_CREAT), 2)
    from memcomp import distributed

    distributed.HEARTBEAT_SECONDS = 2  # after which the first hears of it
    distributed.initialize(address, 2, number)
    if number == 1:
        CRASHES[crash]()
    time.sleep(SECONDS)
    os._exit(0)


@pytest.mark.ci
@pytest.mark.parametrize("crash", list(CRASHES))
def test_a_crash_is_no_lost_process(tmp_path, crash):
    """A scheduler that restarts what ends with 75 would restart a crash for ever."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    job = [
        scripts.context.Process(target=member, args=(address, i, crash, tmp_path))
        for i in range(2)
    ]
    for process in job:
        process.start()
    for process in job:
        process.join(SECONDS)
    assert [process.exitcode for process in job] == [EX_TEMPFAIL, -signal.SIGABRT]
    assert LOST in (tmp_path / "err0.txt").read_text()
    assert LOST not in (tmp_path / "err1.txt").read_text()
