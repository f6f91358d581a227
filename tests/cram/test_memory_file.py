"""Memory on disk says what it is for, and is refused elsewhere."""

import dataclasses

import numpy as np
import pytest
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
