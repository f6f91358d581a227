"""A sampling run: what it writes, and that a stopped one ends with the same file."""

import json

import pytest
from etils import epath
from icformer_run import make_folder

from memcomp.data.texts import read_texts
from memcomp.data.training_texts import document_texts
from memcomp.errors import InputError, Stopped
from memcomp.lm.load import load_lm
from memcomp.lm.sample import SamplingConfig
from memcomp.runs.sampling import run_sampling

CFG = SamplingConfig(seed=2, num_tokens=12)
SIZES = dict(num_texts=7, batch_size=3)


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return load_lm(str(make_folder(tmp_path_factory.mktemp("lm")) / "lm"))


def run(lm, folder, stop_at=None, **changes):
    """The bytes of the file; the run is stopped after the batch up to text `stop_at`."""
    rates = []

    def report(progress):
        rates.append(progress.tokens_per_second)
        if progress.num_done == stop_at:
            raise Stopped

    folder.mkdir(exist_ok=True)
    run_sampling(lm, CFG, epath.Path(folder), **SIZES | changes, report=report)
    assert all(rate > 0 for rate in rates)
    return (folder / "results.jsonl").read_bytes()


def records_of(folder):
    lines = (folder / "results.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def whole(lm, tmp_path_factory):
    """The folder of a run without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    run(lm, folder)
    return folder


@pytest.mark.parametrize("cut", [0, 5, 60])
def test_a_run_that_was_stopped_ends_with_the_same_file(lm, whole, tmp_path, cut):
    folder = tmp_path / "run"
    with pytest.raises(Stopped):
        run(lm, folder, stop_at=6)
    file = folder / "results.jsonl"
    lines = file.read_bytes()
    assert b"text_id" in lines and len(lines) < (whole / "results.jsonl").stat().st_size
    file.write_bytes(lines[: len(lines) - cut])  # killed while it appended
    assert run(lm, folder) == (whole / "results.jsonl").read_bytes()
    assert (folder / "summary.json").read_bytes() == (whole / "summary.json").read_bytes()


def test_a_text_depends_on_its_number_and_not_on_the_batch(lm, whole, tmp_path):
    others = run(lm, tmp_path, num_texts=5, batch_size=4)
    lines = (whole / "results.jsonl").read_bytes().splitlines()
    assert others.splitlines() == [x for x in lines if json.loads(x)["text_id"] < 5]


def test_records_say_what_the_summary_counts(lm, whole):
    records = records_of(whole)
    summary = json.loads((whole / "summary.json").read_text())
    assert [r["text_id"] for r in records] == sorted({r["text_id"] for r in records})
    assert {r["seed"] for r in records} == {2}
    assert all(r["text"].strip() and 1 <= r["num_tokens"] <= 12 for r in records)
    assert all(r["ended"] or r["num_tokens"] == 12 for r in records)
    assert summary["n"] == len(records) == 7 - summary["num_empty"]
    assert summary["total_tokens"] == sum(r["num_tokens"] for r in records)


def test_empty_texts_have_no_line_and_are_counted(lm, tmp_path, monkeypatch):
    said = iter(["a", " \n", "b", "", "c", "d", ""] + [""] * 2)
    monkeypatch.setattr("memcomp.runs.sampling.ids_to_text", lambda *args: next(said))
    run(lm, tmp_path)
    assert [record["text_id"] for record in records_of(tmp_path)] == [0, 2, 4, 5]
    assert json.loads((tmp_path / "summary.json").read_text())["num_empty"] == 3


def test_both_readers_of_texts_read_the_file(whole, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    file = whole / "results.jsonl"
    wanted = [record["text"] for record in records_of(whole)]
    assert [x for (x,) in document_texts(str(file), "text")] == list(dict.fromkeys(wanted))
    found = [text for _, text in read_texts(str(file))]
    assert found == [" ".join(text.split()) for text in wanted]


@pytest.mark.parametrize("name", ["num_texts", "batch_size"])
def test_no_texts_are_refused(lm, tmp_path, name):
    with pytest.raises(InputError, match=f"{name} is 0"):
        run(lm, tmp_path, **{name: 0})
