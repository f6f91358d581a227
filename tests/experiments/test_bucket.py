"""Runs whose workdir is a gs:// path, on a bucket in memory."""

import importlib
import json
import pathlib
import runpy

import pytest
from etils import epath
from object_store import bucket  # noqa: F401  a fixture
from tiny_lm import EIGHT_HEADS, make_tiny_lm

from memcomp.cram.memory_file import load_memory
from memcomp.lm import export_lm, load_lm
from memcomp.results import append_records, claim_workdir, read_records, write_whole

ROOT = pathlib.Path(__file__).parents[2]
cram_script = importlib.import_module("cram")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bucket")
    lm = make_tiny_lm("float32", EIGHT_HEADS)
    export_lm(folder / "lm", lm.module, lm.params)
    return folder


def tiny(folder):
    config = runpy.run_path(str(ROOT / "configs/cram/builtin.py"))["get_config"]()
    config.lm, config.texts, config.num_texts = str(folder / "lm"), "uniform_tokens", 10
    config.mesh.update(data=2, fsdp=2, tensor=2)
    config.cram.num_tokens = (2, 4, 3, 2, 3, 3, 4, 2, 3, 4)
    config.cram.update(num_memory=2, max_steps=40, learning_rate=0.5)
    config.cram.update(batch_size=4, steps_per_chunk=5)
    return config


def test_cramming_in_a_bucket_is_that_in_a_folder(folder, bucket, monkeypatch):  # noqa: F811
    cram_script.main(tiny(folder), str(folder / "run"))
    want = read_records(epath.Path(folder / "run" / "results.jsonl"))
    run, chunks = epath.Path("gs://bucket/run"), 0

    def stop():
        nonlocal chunks
        chunks += 1
        if chunks == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(cram_script, "stop_if_told", stop)
    with pytest.raises(KeyboardInterrupt):
        cram_script.main(tiny(folder), str(run))
    assert (run / "in_flight.safetensors").exists()
    before = len(read_records(run / "results.jsonl"))
    cram_script.main(tiny(folder), str(run))
    got = read_records(run / "results.jsonl")
    assert 0 < before < len(got)
    for ours, theirs in zip(got, want, strict=True):
        assert ours | {"seconds": 0} == theirs | {"seconds": 0}
    lm = load_lm(str(folder / "lm"))
    assert all(r["memory_key"] in load_memory(run / r["memory_file"], lm) for r in got)
    assert json.loads((run / "summary.json").read_text())["n"] == 10
    local = {p.name for p in (folder / "run").rglob("*") if p.is_file()}
    ours = {name.rpartition("/")[2] for name in bucket}
    assert {n for n in ours if "events" not in n} == {n for n in local if "events" not in n}
    events = [data for name, data in bucket.items() if "events" in name]
    assert len(events) == 2 and all(b"num_done" in e.getvalue() for e in events)


def test_records_in_a_bucket_are_added_and_a_torn_line_is_cut(bucket):  # noqa: F811
    file = epath.Path("gs://bucket/results.jsonl")
    assert read_records(file) == []
    append_records(file, [{"a": 1}])
    append_records(file, [{"a": 2}, {"a": 3}])
    assert read_records(file) == [{"a": 1}, {"a": 2}, {"a": 3}]
    write_whole(file, file.read_bytes()[:-3])
    assert read_records(file) == [{"a": 1}, {"a": 2}]
    assert set(bucket) == {"/bucket/results.jsonl"}


def test_a_bucket_without_the_folder_is_claimed(bucket):  # noqa: F811
    path = claim_workdir("gs://bucket/new/run", {"seed": 0}, {})
    assert json.loads((path / "config.json").read_text())["config"] == {"seed": 0}
