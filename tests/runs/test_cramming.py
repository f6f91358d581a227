"""Runs on disk: stopped anywhere, they end as if never stopped."""

import json
import random
import time

import cramming_run
import numpy as np
import pytest
import scripts
from etils import epath
from safetensors.numpy import save

from memcomp.cram import pool
from memcomp.cram.config import CramConfig
from memcomp.cram.decode import decode
from memcomp.cram.memory_file import load_memory
from memcomp.cram.ways.table import WAYS
from memcomp.data.texts import Text
from memcomp.errors import InputError
from memcomp.runs import cramming as runs
from memcomp.runs import ledger
from memcomp.runs.files import read_records


@pytest.fixture(scope="module")
def unstopped(tiny_lm, tmp_path_factory):
    """Folder and records of a run that nothing has stopped."""
    workdir = tmp_path_factory.mktemp("unstopped") / "run"
    return workdir, cramming_run.run(tiny_lm, workdir)


def assert_same_run(workdir, want):
    got = read_records(epath.Path(workdir) / "results.jsonl")
    assert len(got) == len(want)
    assert cramming_run.comparable(got) == cramming_run.comparable(want)
    assert not (epath.Path(workdir) / runs.FLIGHT).exists()


class Killed(BaseException):
    """Stands for a SIGKILL at one moment of a run."""


def test_records_are_of_the_stored_vectors(unstopped, tiny_lm):
    workdir, records = unstopped
    assert [r["text_id"] for r in records] == list(range(9))
    assert {r["exact_greedy"] for r in records} == {True, False}
    for r in records:
        stored = load_memory(workdir / r["memory_file"], tiny_lm)[r["memory_key"]]
        assert stored.memory.shape == (r["num_memory"], 16)
        assert stored.num_tokens == r["num_tokens"]
        tokens = decode(tiny_lm, stored.memory, r["num_tokens"])
        assert len(tokens) == r["num_tokens"]
        # Exact in both ways, or in neither: by induction, but for rounding.
        assert r["exact_greedy"] == r["exact_teacher_forced"]


def test_the_summary_has_n_mean_and_standard_error(unstopped):
    workdir, records = unstopped
    summary = json.loads((workdir / "summary.json").read_text())
    steps = [r["steps"] for r in records]
    assert summary["n"] == 9
    assert summary["steps"]["mean"] == pytest.approx(np.mean(steps))
    error = np.std(steps, ddof=1) / 3
    assert summary["steps"]["standard_error"] == pytest.approx(error)


def test_a_finished_run_is_not_run_again(unstopped, tiny_lm):
    workdir, want = unstopped
    chunks = []
    assert cramming_run.run(tiny_lm, workdir, chunks.append) == want
    assert not chunks


@pytest.mark.parametrize(
    "when, way, stride",
    [
        ("before", "vectors", 9),
        pytest.param("before", "vectors", 2, marks=pytest.mark.ci),
        pytest.param("after", "vectors", 3, marks=pytest.mark.ci),
        pytest.param("before", "one_step_shared", 3, marks=pytest.mark.ci),
    ],
)
def test_a_kill_at_any_write_loses_nothing(
    tiny_lm, tmp_path, when, way, stride, monkeypatch
):
    """The process dies just before or just after each of its writes in turn."""
    want = cramming_run.run(tiny_lm, tmp_path / "unstopped", way=way)
    writers = [
        (ledger, "append_records"),
        (ledger, "write_whole"),
        (runs, "write_whole"),
        (runs, "save_memory"),
    ]
    countdown = [0]

    def dying(writer):
        def write(*args):
            countdown[0] -= 1
            if countdown[0] == 0 and when == "before":
                raise Killed
            writer(*args)
            if countdown[0] == 0:
                raise Killed

        return write

    for module, name in writers:
        monkeypatch.setattr(module, name, dying(getattr(module, name)))
    num_kills = 0
    for moment in range(1, 100, stride):
        workdir = tmp_path / f"{when}{moment}"
        countdown[0] = moment
        try:
            cramming_run.run(tiny_lm, workdir, way=way)
            break
        except Killed:
            num_kills += 1
        cramming_run.run(tiny_lm, workdir, way=way)
        assert_same_run(workdir, want)
    assert num_kills >= 24 // stride


def test_a_kill_in_the_middle_of_a_line_loses_nothing(
    unstopped, tiny_lm, tmp_path, monkeypatch
):
    _, want = unstopped
    whole = ledger.append_records

    def torn(path, records):
        whole(path, records)
        if records and path.stat().length > 2000:
            path.write_bytes(path.read_bytes()[:-30])
            raise Killed

    monkeypatch.setattr(ledger, "append_records", torn)
    with pytest.raises(Killed):
        cramming_run.run(tiny_lm, tmp_path / "run")
    monkeypatch.undo()
    cramming_run.run(tiny_lm, tmp_path / "run")
    assert_same_run(tmp_path / "run", want)


def test_a_run_in_a_bucket_is_that_in_a_folder(unstopped, tiny_lm, bucket):
    _, want = unstopped
    run, chunks = epath.Path("gs://bucket/run"), []

    def stop(progress):
        chunks.append(progress)
        if len(chunks) == 9:
            raise Killed

    with pytest.raises(Killed):
        cramming_run.run(tiny_lm, run, stop)
    assert (run / runs.FLIGHT).exists() and 0 < chunks[-1].num_done < len(want)
    cramming_run.run(tiny_lm, run)
    assert_same_run(run, want)
    for r in want:
        assert r["memory_key"] in load_memory(run / r["memory_file"], tiny_lm)
    assert json.loads((run / "summary.json").read_text())["n"] == 9


def test_texts_of_a_group_are_decoded_at_their_own_length(tiny_lm, tmp_path):
    """Together they have more tokens than the LM has positions."""
    texts = [Text(i, "test", np.full(11, i, np.int32)) for i in range(6)]
    cfg = CramConfig(memory="one_step_shared", num_memory=6, num_tokens=None, max_steps=1)
    assert 6 * 11 > tiny_lm.config.max_positions
    records = runs.run_cramming(tiny_lm, texts, cfg, epath.Path(tmp_path))
    assert [r["num_tokens"] for r in records] == [11] * 6


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_kills_at_random_moments_change_nothing(tiny_lm, tmp_path, way):
    """SIGKILL to a process of its own, at moments spread over a whole run."""
    want = cramming_run.run(tiny_lm, tmp_path / "unstopped", way=way)

    def start(workdir):
        started = tmp_path / "started"
        started.unlink(missing_ok=True)
        arguments = (workdir, tmp_path / "cache", started, way)
        process = scripts.context.Process(
            target=cramming_run.run_in_process, args=arguments
        )
        process.start()
        while not started.exists() and process.is_alive():
            time.sleep(0.005)
        return process

    def finish(workdir):
        process = start(workdir)
        begin = time.monotonic()
        process.join()
        assert process.exitcode == 0
        assert_same_run(workdir, want)
        return time.monotonic() - begin

    finish(tmp_path / "compiles")  # and leaves its programs in the cache
    duration = finish(tmp_path / "timed")
    rng, num_runs, num_kills, num_midway = random.Random(0), 0, 0, 0
    while num_kills < 20:
        workdir = tmp_path / f"run{num_runs}"
        whole = not workdir.exists()
        process = start(workdir)
        begin = time.monotonic()
        process.join(rng.uniform(0, duration))
        if process.is_alive():
            process.kill()
            process.join()
            num_kills += 1
            num_midway += (workdir / runs.FLIGHT).exists()
        elif whole:  # the machine has become faster
            duration = min(duration, time.monotonic() - begin)
        if num_kills % 10 == 0 or process.exitcode == 0:
            finish(workdir)
            num_runs += 1
    assert num_midway >= 5


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda data: data[:40], "is damaged"),
        (lambda data: save({"ids": np.zeros(1, np.int64)}), "lacks seconds, token_steps"),
    ],
)
def test_a_flight_that_cannot_be_resumed_is_refused(tmp_path, damage, words):
    path = epath.Path(tmp_path) / runs.FLIGHT
    whole = save({name: np.zeros(1, np.int64) for name in pool.SNAPSHOT})
    path.write_bytes(whole)
    assert set(runs.read_flight(path.parent)) == pool.SNAPSHOT
    path.write_bytes(damage(whole))
    with pytest.raises(InputError, match=f"{words}.*the texts in flight begin anew"):
        runs.read_flight(path.parent)
    assert path.exists()
