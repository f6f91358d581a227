"""Different texts are never pooled, whatever their files are called."""

import json

import numpy as np
import pytest
from synthetic_runs import BUILTIN, config, make_horizons, record, write_run

from memcomp.errors import InputError
from memcomp.report.corpora import Corpus, is_random, labels
from memcomp.report.load import read_runs
from memcomp.report.write import write_report

A, B = "a" * 64, "b" * 64


def run_on(folder, texts, sha256=A, source=None, kind=None):
    """A run of cramming of two texts, as of a config with `texts`."""
    about = config(BUILTIN, source, 1, "strict")
    about["config"] |= {"texts": texts, "source": source}
    about["texts"] = {"sha256": sha256}
    rng = np.random.default_rng(0)
    made = [record(rng, BUILTIN, "novels", 1, "strict", i, 8) for i in range(2)]
    lines = [r | {"source": "valid"} for r in made]
    if kind == "compression":
        fields = {"kind": kind, "method": "zlib", "source": "valid", "ratio": 2.0}
        lines = [fields | {"text_id": i} for i in range(2)]
    return write_run(folder, about, lines)


def sources(folder):
    return sorted(group.key.source for group in read_runs([folder]).groups)


def test_folders_of_one_name_are_two_corpora(tmp_path):
    run_on(tmp_path / "1", "a/valid", A)
    run_on(tmp_path / "2", "b/valid/", B)
    assert sources(tmp_path) == ["a/valid", "b/valid"]


def test_the_same_texts_are_one_corpus_wherever_they_are(tmp_path):
    run_on(tmp_path / "1", "a/valid", A)
    run_on(tmp_path / "2", "/elsewhere/valid", A)
    assert sources(tmp_path) == ["valid"]
    (group,) = read_runs([tmp_path]).groups
    assert len(group.places) == 4


def test_a_file_that_was_replaced_is_two_corpora(tmp_path):
    run_on(tmp_path / "1", "valid", A)
    run_on(tmp_path / "2", "valid", B)
    assert sources(tmp_path) == ["valid [aaaaaa]", "valid [bbbbbb]"]


def test_cells_of_two_sweeps_with_one_name_for_their_source(tmp_path):
    for name, sha256 in (("1", A), ("2", B)):
        texts = {"source": f"/data/{name}", "passages": 16}
        run_on(tmp_path / name, texts, sha256, source="novels")
    assert sources(tmp_path) == ["novels [1]", "novels [2]"]


def test_compression_and_horizons_are_told_apart_too(tmp_path):
    for name, sha256 in (("a", A), ("b", B)):
        run_on(tmp_path / name, f"{name}/valid", sha256, kind="compression")
        make_horizons(tmp_path / f"h{name}", "novels", num_texts=2)
        path = tmp_path / f"h{name}" / "config.json"
        about = json.loads(path.read_text())
        about["config"] |= {"texts": f"{name}/valid", "source": None}
        about["texts"] = {"sha256": sha256}
        path.write_text(json.dumps(about))
    runs = read_runs([tmp_path])
    assert {r["source"] for r in runs.compression} == {"a/valid", "b/valid"}
    assert {r["key"].source for r in runs.horizons} == {"a/valid", "b/valid"}


def test_drawn_texts_are_known_by_their_label():
    corpora = [Corpus("random_words", "random_words", sha256) for sha256 in (A, B)]
    assert all(map(is_random, labels(corpora).values()))
    assert not is_random("novels [1]")


ODD_CONFIGS = {
    "an LM that is a name": {"lm": "builtin"},
    "a width that is text": {"lm": BUILTIN | {"d_model": "256"}},
    "an LM without sizes": {"lm": {"name": "x"}},
    "one device": {"devices": "cpu"},
    "a section that is none": {"config": {"cram": "default"}},
}


@pytest.mark.parametrize("odd", ODD_CONFIGS)
def test_an_odd_config_is_one_sentence(tmp_path, odd):
    folder = run_on(tmp_path, "a/valid")
    about = json.loads((folder / "config.json").read_text()) | ODD_CONFIGS[odd]
    (folder / "config.json").write_text(json.dumps(about))
    with pytest.raises(
        InputError, match="is not of a run of memcomp; its .* (wanted a|has no)"
    ):
        read_runs([tmp_path])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"protocol": None}, "protocol is None"),
        ({"source": ["a"]}, "source is"),
        ({"num_memory": 0}, "num_memory is 0"),
        ({"num_memory": "1"}, "num_memory is '1'"),
        ({"memory": "cash"}, "memory is 'cash'"),
        ({"text_id": 10**400}, "int too large"),
        ({"loss_nats": float("nan")}, "NaN is not JSON"),
    ],
)
def test_an_odd_record_is_one_sentence_with_its_place(tmp_path, change, said):
    folder = run_on(tmp_path, "a/valid")
    whole = json.loads((folder / "results.jsonl").read_text().splitlines()[0])
    with open(folder / "results.jsonl", "a") as file:
        file.write("\n" + json.dumps(whole | change) + "\n")
    with pytest.raises(InputError, match=rf"results\.jsonl, (byte|line) \d+: .*{said}"):
        read_runs([tmp_path])


GREW = {"text_id": 0, "seed_id": 0, "source": "a", "protocol": "strict", "num_memory": 1}
GREW |= {"memory": "vectors", "prefix": 2, "token_steps": 80}


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("horizons.jsonl", {"protocol": "strict", "source": "a"}, "'num_memory'"),
        ("growth.jsonl", GREW | {"prefix": "2"}, "prefix is '2'"),
        ("growth.jsonl", GREW | {"token_steps": 0}, "token_steps is 0"),  # a log axis
        ("use.jsonl", {"kind": "use", "source": "a"}, "'text_id'"),
        ("geometry.jsonl", {"kind": "cosine", "cosine": "0.5"}, "cosine is '0.5'"),
        ("results.jsonl", {"kind": "compression", "method": "zlib"}, "'source'"),
    ],
)
def test_an_incomplete_record_of_any_kind_is_one_sentence(tmp_path, name, line, said):
    write_run(tmp_path / "run", config(BUILTIN, "a", 1, "strict"), [line], name)
    with pytest.raises(InputError, match=rf"{name}, byte 0: no record .*{said}"):
        write_report([tmp_path / "run"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_without_records_is_said_and_nothing_written(tmp_path):
    write_run(tmp_path / "run", config(BUILTIN, "a", 1, "strict"), [])
    with pytest.raises(InputError, match="run has no records yet"):
        write_report([tmp_path / "run"], tmp_path / "out")
    (tmp_path / "run" / "results.jsonl").unlink()
    (tmp_path / "run" / "results.jsonl").mkdir()
    with pytest.raises(InputError, match="no run"):
        write_report([tmp_path / "run"], tmp_path / "out")


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"stage": "evaluate"}, {"kind": "normal 8", "text_id": 0, "source": "valid"}),
        ({"grid": "recipe_table"}, {"question": "horizon", "recipe": "default"}),
    ],
)
def test_runs_of_other_kinds_are_passed_over_and_said(tmp_path, more, line):
    write_run(tmp_path / "other", {"config": more}, [line])
    with pytest.raises(InputError, match="other: runs of other kinds"):
        read_runs([tmp_path])
    run_on(tmp_path / "run", "a/valid")
    runs = read_runs([tmp_path])
    assert list(runs.configs) == [str(tmp_path / "run")]
    assert runs.passed_over == [str(tmp_path / "other")]
