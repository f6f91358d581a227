"""Memory on disk says what it is for, and is refused elsewhere."""

import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from memcomp.cram.api import cram
from memcomp.cram.config import CramConfig
from memcomp.cram.memory_file import load_memory, save_memory
from memcomp.errors import InputError


@pytest.fixture(scope="module")
def results(tiny_lm):
    texts = [np.array([1, 2, 3], np.int32), np.array([4, 5], np.int32)]
    cfg = CramConfig(num_tokens=None, num_memory=2, max_steps=5, protocol="reference")
    return cram(tiny_lm, texts, cfg)


def test_what_is_read_is_what_was_written(results, tiny_lm, tmp_path):
    save_memory(tmp_path / "m.safetensors", results)
    stored = load_memory(tmp_path / "m.safetensors", tiny_lm)
    assert stored.keys() == {"0", "1"}
    for result in results:
        memory = stored[str(result.text_id)]
        np.testing.assert_array_equal(memory.memory, result.memory)
        assert memory.memory.dtype == np.float32
        assert memory.num_tokens == len(result.tokens)
        assert memory.given == (result.tokens[0],)
        assert memory.protocol == "reference"
        assert memory.lm_fingerprint == tiny_lm.fingerprint


def test_a_memory_that_a_line_names_is_not_written_over(results, tiny_lm, tmp_path):
    """As when a job goes on in other processes, whose shares of a chunk are others."""
    path = tmp_path / "m.safetensors"
    save_memory(path, results)
    moved = [dataclasses.replace(r, memory=r.memory + 1) for r in results]
    save_memory(path, moved[:1], keep={1})
    stored = load_memory(path, tiny_lm)
    np.testing.assert_array_equal(stored["0"].memory, moved[0].memory)
    np.testing.assert_array_equal(stored["1"].memory, results[1].memory)
    save_memory(path, moved, keep={0, 1})
    np.testing.assert_array_equal(load_memory(path)["0"].memory, moved[0].memory)


def test_memory_of_another_lm_is_refused(results, tiny_lm, tmp_path):
    save_memory(tmp_path / "m.safetensors", results)
    other = dataclasses.replace(tiny_lm, name="other", fingerprint="ff" * 32)
    with pytest.raises(InputError, match="made with tiny .* not with other"):
        load_memory(tmp_path / "m.safetensors", other)
    assert load_memory(tmp_path / "m.safetensors")  # without an LM it can be looked at


def test_files_that_hold_no_memory_are_refused(results, tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.raises(InputError, match="cannot be read"):
        load_memory(path)
    save_memory(path, results)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_memory(path)
    save_file({"0": np.zeros((1, 16), np.float32)}, path)
    with pytest.raises(InputError, match="holds no memories"):
        load_memory(path)


def test_a_place_that_cannot_be_written_is_named(results, tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        save_memory(tmp_path / "missing" / "m.safetensors", results)


def written(results, path, *, texts=None, change=None):
    """A memory file whose tensors and metadata are edited by hand."""
    save_memory(path, results)
    with safe_open(path, "np") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    if change:
        change(tensors)
    entries = json.loads(metadata["texts"])
    if texts:
        metadata["texts"] = texts(entries)
    if metadata["texts"] is None:
        del metadata["texts"]
    save_file(tensors, path, metadata)
    return path


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_a_file_that_was_cast_is_read(results, tiny_lm, tmp_path, dtype):
    def cast(tensors):
        for key, value in tensors.items():
            tensors[key] = value.astype(dtype)

    stored = load_memory(written(results, tmp_path / "m", change=cast), tiny_lm)
    for result in results:
        memory = stored[str(result.text_id)].memory
        assert memory.dtype == np.float32
        want = np.asarray(result.memory).astype(dtype).astype(np.float32)
        np.testing.assert_array_equal(memory, want)


def entry(**fields):
    """Metadata in which some fields of the first memory are others."""

    def edit(entries):
        new = {k: v for k, v in (entries["0"] | fields).items() if v is not Ellipsis}
        return json.dumps(entries | {"0": new})

    return edit


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (lambda entries: None, "does not say what its memories are"),
        (lambda entries: "{", "does not say what its memories are"),
        (lambda entries: "[" * 100_000, "does not say what its memories are"),
        (lambda entries: "[1]", "wanted an object by text id"),
        (lambda entries: json.dumps({"a": entries["0"]}), "wanted an object by text id"),
        (lambda entries: json.dumps({"0": entries["0"]}), "a tensor '1' and no entry"),
        (lambda entries: json.dumps(entries | {"2": {}}), "an entry '2' and no tensor"),
        (lambda entries: json.dumps(entries | {"0": None}), "has the fields None"),
        (entry(source=...), "has the fields .*; wanted"),
        (entry(more=1), "has the fields .*more"),
        (entry(num_tokens="4"), "num_tokens is '4', wanted a whole number"),
        (entry(num_tokens=4.0), "num_tokens is 4.0, wanted a whole number"),
        (entry(num_tokens=True), "num_tokens is True, wanted a whole number"),
        (entry(num_tokens=0), "num_tokens is 0, wanted a whole number"),
        (entry(given=None), "given is None, wanted token ids"),
        (entry(given=[1.5]), "given is .1.5., wanted token ids"),
        (entry(protocol="loose"), "protocol is 'loose', wanted strict or reference"),
        (entry(protocol=["strict"]), "protocol is .'strict'., wanted"),
        (entry(source=3), "source is 3, wanted text"),
        (entry(lm_name=None), "lm_name is None, wanted text"),
        (entry(lm_fingerprint=None), "lm_fingerprint is None, wanted text"),
    ],
)
def test_metadata_that_was_edited_by_hand_is_refused(results, tmp_path, texts, said):
    with pytest.raises(InputError, match=said):
        load_memory(written(results, tmp_path / "m", texts=texts))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.zeros(16, np.float32), r"float32 \[16\]; wanted floats \[M, W\]"),
        (np.zeros((1, 2, 16), np.float32), "wanted floats"),
        (np.zeros((2, 16), np.int32), "int32 .*; wanted floats"),
        (np.zeros((0, 16), np.float32), "is empty"),
        (np.full((2, 16), np.nan, np.float32), "not finite"),
        (np.full((2, 16), np.inf, np.float16), "not finite"),
        (np.zeros((2, 16), bool), "of type BOOL; wanted one of"),
        (np.zeros((2, 15), np.float32), "rows of 15 numbers, and tiny reads 16"),
    ],
)
def test_tensors_that_are_no_memory_are_refused(results, tiny_lm, tmp_path, value, said):
    path = written(results, tmp_path / "m", change=lambda t: t.update({"0": value}))
    with pytest.raises(InputError, match=said):
        load_memory(path, tiny_lm)
