"""The files of a run."""

import json

import pytest
from etils import epath

from memcomp.errors import InputError
from memcomp.runs.files import (
    append_records,
    claim_workdir,
    differences,
    read_records,
    run_studies,
    summarise,
    write_whole,
)


def test_a_folder_is_claimed_and_gone_on_with(tmp_path):
    config = {"lm": "builtin", "cram": {"num_tokens": (3, 4)}}
    first = claim_workdir(tmp_path / "run", config, {"git": "abc"})
    assert json.loads((first / "config.json").read_text())["git"] == "abc"
    assert claim_workdir(tmp_path / "run", config, {"git": "other"}) == first


def test_a_folder_of_another_config_is_refused_with_what_differs(tmp_path):
    claim_workdir(tmp_path, {"seed": 0, "cram": {"num_memory": 1}, "old": 1}, {})
    with pytest.raises(InputError) as error:
        claim_workdir(tmp_path, {"seed": 0, "cram": {"num_memory": 2}}, {})
    assert "cram.num_memory: 1 there, 2 here" in str(error.value)
    assert "old: 1 there, 'nothing' here" in str(error.value)
    assert "seed" not in str(error.value)


ABOUT = {"lm": {"name": "x", "sha256": "aa"}, "texts": {"sha256": "bb"}, "git": "1"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lm", "other weights of the language model"),
        ("texts", "other texts"),
        ("tokenizer", "other tokens of the same texts"),
        ("start", "other weights of the compressor that it starts with"),
    ],
)
def test_a_run_of_other_weights_or_texts_is_refused(tmp_path, name, said):
    """The names in the config are the same: what they stand for has been replaced."""
    first = ABOUT | {name: {"sha256": "aa"}}
    claim_workdir(tmp_path, {"lm": "x"}, first)
    claim_workdir(tmp_path, {"lm": "x"}, first | {"git": "2"})
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(InputError, match=f"{said} .SHA-256 aa there, cc here.; put back"):
        claim_workdir(tmp_path, {"lm": "x"}, first | {name: {"sha256": "cc"}})
    assert (tmp_path / "config.json").read_text() == before


@pytest.mark.parametrize("there", [True, False])
def test_a_tokenizer_that_is_there_at_one_start_alone_is_refused(tmp_path, there):
    with_it = ABOUT | {"tokenizer": {"sha256": "cc"}}
    claim_workdir(tmp_path, {"lm": "x"}, with_it if there else ABOUT)
    said = "cc there, nothing here" if there else "nothing there, cc here"
    with pytest.raises(InputError, match=f"other tokens of the same texts .SHA-256 {said}"):
        claim_workdir(tmp_path, {"lm": "x"}, ABOUT if there else with_it)


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="has files but no config.json"):
        claim_workdir(tmp_path, {}, {})
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be used as a workdir"):
        claim_workdir(tmp_path / "file" / "run", {}, {})


def test_a_config_that_is_not_ours_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(InputError, match="not of a run of memcomp"):
        claim_workdir(tmp_path, {}, {})


def test_differences_are_by_leaf():
    assert differences({"a": {"b": 1}}, {"a": {"b": 1}}) == []
    assert differences({"a": 1}, {"b": 1}) == [
        "a: 1 there, 'nothing' here",
        "b: 'nothing' there, 1 here",
    ]


def test_records_survive_a_torn_last_line(tmp_path):
    path = epath.Path(tmp_path / "results.jsonl")
    assert read_records(path) == []
    append_records(path, [{"n": 1}, {"n": 2}])
    with path.open("ab") as file:
        file.write(b'{"n": 3, "te')
    assert read_records(path) == [{"n": 1}, {"n": 2}]
    append_records(path, [{"n": 3}])
    assert read_records(path) == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_a_summary_against_a_hand_count():
    records = [
        {"text_id": i, "x": x, "name": "a", "ok": x > 1} for i, x in enumerate([1, 2, 6])
    ]
    summary = summarise(records)
    assert summary["n"] == 3
    assert summary["x"]["mean"] == 3
    # Deviations -2, -1, 3: variance 14 / 2, over 3 texts.
    assert summary["x"]["standard_error"] == pytest.approx((7 / 3) ** 0.5)
    assert summary["ok"]["mean"] == pytest.approx(2 / 3)
    assert "name" not in summary and "text_id" not in summary
    assert summarise(records[:1])["x"]["standard_error"] is None


def test_what_is_not_a_number_in_every_record_has_no_mean():
    """Such as the target that failed, where some texts have none."""
    summary = summarise([{"failed": 3, "x": 1}, {"failed": None, "x": 2}])
    assert summary.keys() == {"n", "x"}


def test_a_study_that_is_in_the_file_is_not_run_again(tmp_path):
    path, runs = epath.Path(tmp_path / "studies.jsonl"), []

    def study(name, values):
        def run():
            runs.append(name)
            return [{"value": value} for value in values]

        return run

    studies = {"a": study("a", [1, 2]), "b": study("b", [3])}
    run_studies(path, {"a": studies["a"]})
    records = run_studies(path, studies)
    assert runs == ["a", "b"]
    assert records == read_records(path)
    assert [(r["kind"], r["value"]) for r in records] == [("a", 1), ("a", 2), ("b", 3)]


def test_a_study_that_fails_leaves_no_line(tmp_path):
    path = epath.Path(tmp_path / "studies.jsonl")

    def fails():
        yield {"value": 1}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_studies(path, {"a": lambda: [{"value": 0}], "b": fails})
    assert [r["kind"] for r in read_records(path)] == ["a"]


def test_records_in_a_bucket_are_added_and_a_torn_line_is_cut(bucket):
    file = epath.Path("gs://bucket/results.jsonl")
    assert read_records(file) == []
    append_records(file, [{"a": 1}])
    append_records(file, [{"a": 2}, {"a": 3}])
    assert read_records(file) == [{"a": 1}, {"a": 2}, {"a": 3}]
    write_whole(file, file.read_bytes()[:-3])
    assert read_records(file) == [{"a": 1}, {"a": 2}]
    assert set(bucket) == {"/bucket/results.jsonl"}


def test_a_folder_in_a_bucket_is_claimed_before_it_has_files(bucket):
    path = claim_workdir("gs://bucket/new/run", {"seed": 0, "mesh": {"data": 1}}, {})
    assert json.loads((path / "config.json").read_text())["config"]["seed"] == 0
    claim_workdir("gs://bucket/new/run", {"seed": 0, "mesh": {"data": 8}}, {})
    with pytest.raises(InputError, match="seed: 0 there, 1 here"):
        claim_workdir("gs://bucket/new/run", {"seed": 1, "mesh": {"data": 1}}, {})
