"""Run folders are found, read a line at a time, and never mixed or changed."""

import dataclasses
import json
import tracemalloc

import numpy as np
import pytest
from synthetic_runs import BUILTIN, PYTHIA, config, make_cell, record, write_run

from memcomp.cram.recipe import RECIPES
from memcomp.errors import InputError
from memcomp.report.load import find_runs, read_records, read_runs
from memcomp.report.published import (
    published,
    published_capacity,
    published_model,
    published_models,
)


def some_lines(n, protocol="strict", **changes):
    rng = np.random.default_rng(0)
    return [
        record(rng, BUILTIN, "novels", 1, protocol, i, 8, detail=False) | changes
        for i in range(n)
    ]


def test_runs_are_found_below_a_folder_each_once(tmp_path):
    make_cell(tmp_path, BUILTIN, "novels", 1, "strict", (8,), 2)
    make_cell(tmp_path, BUILTIN, "stories", 1, "strict", (8,), 2)
    (tmp_path / "config.json").write_text('{"config": {"grid": "capacity"}}')
    (tmp_path / "link").symlink_to(tmp_path / "cells")
    cell = next((tmp_path / "cells").iterdir())
    assert len(find_runs([tmp_path])) == 2
    assert len(find_runs([tmp_path, cell, tmp_path / "link"])) == 2


def test_seeds_are_pooled_and_protocols_recipes_and_vectors_are_not(tmp_path):
    kinds = [
        (1, "strict", 0, "default"),
        (1, "strict", 1, "default"),
        (1, "reference", 0, "default"),
        (1, "strict", 0, "reference"),
        (2, "strict", 0, "default"),
    ]
    for i, (num_memory, protocol, seed, recipe) in enumerate(kinds):
        about = config(BUILTIN, "novels", num_memory, protocol, seed, recipe)
        lines = some_lines(3, protocol, num_memory=num_memory)
        write_run(tmp_path / str(i), about, lines)
    groups = read_runs([tmp_path]).groups
    assert sorted(len(g.places) for g in groups) == [3, 3, 3, 6]
    assert {g.key.protocol for g in groups} == {"strict", "reference"}


def test_a_run_of_cram_says_what_it_can(tmp_path):
    cram = {"recipe": "default", "max_steps": 60, "patience": None, "ahead": 16}
    about = {
        "config": {"lm": "builtin", "texts": "some/novels/", "cram": cram},
        "lm": BUILTIN,
        "devices": ["cpu", "cpu"],
    }
    write_run(tmp_path, about, some_lines(2, source="a.txt", memory="cache"))
    (group,) = read_runs([tmp_path]).groups
    assert (group.key.source, group.key.recipe) == (
        "novels",
        "cache, default, max_steps 60, ahead 16",
    )
    assert group.about["d_model"] == 256 and group.hardware == "2 x cpu"


def test_a_text_is_the_same_text_at_all_lengths_of_a_sweep(tmp_path):
    make_cell(tmp_path, BUILTIN, "novels", 1, "strict", (8, 16, 3), 2)
    (group,) = read_runs([tmp_path]).groups
    assert group.texts.tolist() == [0, 1] * 3
    assert group.columns["text_id"].max() == 1


def test_records_that_number_a_text_anew_at_each_length_are_refused(tmp_path):
    (line,) = some_lines(1, text_id=800_001)
    del line["seed_id"]
    write_run(tmp_path, config(BUILTIN, "novels", 1, "strict"), [line])
    with pytest.raises(InputError, match="no record of memcomp .*seed_id"):
        read_runs([tmp_path])


def test_a_recipe_goes_by_the_name_of_the_nearest(tmp_path):
    recipe = dataclasses.asdict(RECIPES["default"])
    wanted = {
        "default": recipe,
        "default, max_steps 9": recipe | {"max_steps": 9},
        "reference": dataclasses.asdict(RECIPES["reference"]),
    }
    for i, fields in enumerate(wanted.values()):
        about = config(BUILTIN, "novels", 1, "strict", recipe=fields)
        write_run(tmp_path / str(i), about, some_lines(1))
    groups = read_runs([tmp_path]).groups
    assert {group.key.recipe for group in groups} == wanted.keys()


def test_tokens_without_text_have_no_bytes(tmp_path):
    lines = some_lines(2, num_bytes=None, text=None)
    write_run(tmp_path, config(BUILTIN, "uniform", 1, "strict"), lines)
    (group,) = read_runs([tmp_path]).groups
    assert np.isnan(group.columns["num_bytes"]).all()


def test_a_line_that_is_being_written_is_left_out_and_the_file_left_alone(tmp_path):
    write_run(tmp_path, config(BUILTIN, "novels", 1, "strict"), some_lines(3))
    file = tmp_path / "results.jsonl"
    torn = file.read_bytes()[:-20]
    file.write_bytes(torn)
    (group,) = read_runs([tmp_path]).groups
    assert len(group.places) == 2 and file.read_bytes() == torn
    assert [r["text_id"] for r in read_records(group.places)] == [0, 1]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2"),
        ("[1]", "line 2: wanted an object"),
        ('{"text_id": 1}', "no record of memcomp"),
        (json.dumps(some_lines(1, accuracy="high")[0]), "no record of memcomp"),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path, line, said):
    write_run(tmp_path, config(BUILTIN, "novels", 1, "strict"), some_lines(1))
    with open(tmp_path / "results.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=said):
        read_runs([tmp_path])


@pytest.mark.parametrize("text", ["{", "[]", '{"config": 1}'])
def test_a_config_that_is_none_is_named(tmp_path, text):
    write_run(tmp_path, {}, some_lines(1))
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json is not of a run"):
        read_runs([tmp_path])


def test_studies_are_read_by_kind_from_all_their_files(tmp_path):
    about = config(PYTHIA, "novels", 1, "strict")
    cosine = {"kind": "cosine", "cosine": 0.5, "same_text": True}
    write_run(tmp_path, about, [cosine], "geometry.jsonl")
    attention = {"text_id": 0, "source": "a", "num_tokens": 2, "num_memory": 1}
    attention |= {"kind": "attention", "exact": True, "heads": [0.1]}
    attention |= {"mass": 0.1, "uniform": 0.1}
    write_run(tmp_path, about, [attention] * 2, "use.jsonl")
    studies = read_runs([tmp_path]).studies
    assert {kind: len(records) for kind, records in studies.items()} == {
        "cosine": 1,
        "attention": 2,
    }
    assert studies["cosine"] == [cosine | {"lm": PYTHIA["name"], "texts": "novels"}]
    write_run(tmp_path, about, [{"layer": 3}], "use.jsonl")
    with pytest.raises(InputError, match=r"use\.jsonl, byte \d+: no record.*'kind'"):
        read_runs([tmp_path])


def test_folders_without_runs_are_named(tmp_path):
    with pytest.raises(InputError, match="no folder"):
        find_runs([tmp_path / "nothing"])
    with pytest.raises(InputError, match="there is no run"):
        find_runs([tmp_path])


def test_published_models_are_found_by_id_and_by_folder():
    for lm in ("EleutherAI/pythia-160m", "/models/pythia-160m/", "pythia-160m"):
        assert published_model(lm).name == "Pythia-160M"
    assert published_model("meta-llama/Meta-Llama-3.1-8B").name == "Llama-3.1-8B"
    assert published_model("builtin") is None
    assert len(published_models()) == 14


def test_published_numbers_agree_with_each_other():
    """Two sources of the same numbers: the tables, and accuracies of each length."""
    llama = published_capacity("Llama-3.1-8B", "pg19")
    assert (llama.max, llama.gain, llama.nats) == (1568, 1094.1, 4865.7)
    assert published_capacity("Llama-3.2-1B", "pg19", 16).nats == 20893.0
    rows = published()["lengths"]
    # 80, 96 and 160 are in Table 1 but not among the lengths that are kept.
    for model in ("OLMo-1B-0724", "Llama-3.2-1B", "Llama-3.2-3B", "Llama-3.1-8B"):
        right = [
            r["num_tokens"] for r in rows if r["model"] == model and r["accuracy"] >= 0.99
        ]
        assert max(right) == published_capacity(model, "pg19").max
    assert PYTHIA["d_model"] == published_model(PYTHIA["name"]).d_model


@pytest.mark.ci
def test_little_is_kept_of_a_line(tmp_path):
    """100,000 lines then take 50 MB, whatever the length of their texts."""
    n = 2000
    make_cell(tmp_path, BUILTIN, "novels", 1, "strict", (64,), n)
    size = sum(file.stat().st_size for file in tmp_path.rglob("*.jsonl"))
    assert size > 4000 * n
    read_runs([tmp_path])  # whatever is cached is cached
    tracemalloc.start()
    runs = read_runs([tmp_path])
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(runs.groups[0].places) == n
    # Measured: 212 and 243 bytes a record, beside the buffer of the file of 1 MiB.
    assert kept < 600 * n and peak - (1 << 20) < 800 * n
