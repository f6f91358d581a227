"""What a folder may hold, and what is refused: one row an attack."""

import json
import os
import pathlib
import shutil
import struct
import sys
import types

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from memcomp.convert.files import Checkpoint
from memcomp.errors import InputError
from memcomp.lm.load import BUILTIN, load_lm

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture()
def folder(tmp_path):
    return pathlib.Path(shutil.copytree(GOLDEN / "llama", tmp_path / "llama"))


@pytest.fixture()
def shards(tmp_path):
    source = GOLDEN / "llama_bfloat16_shards"
    return pathlib.Path(shutil.copytree(source, tmp_path / "shards"))


def refusal(folder):
    with pytest.raises(InputError) as error:
        load_lm(str(folder))
    message = str(error.value)
    assert message and "\n" not in message
    return message


def entry(first, last, shape=(4,), dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


TWICE = '{"a": %s, "a": %s}' % ((json.dumps(entry(0, 32, [8])),) * 2)
DEEP = '{"a": ' + "[" * 10**5
HEADERS = {
    "overlapping": {"a": entry(0, 16), "b": entry(8, 24)},
    "a hole": {"a": entry(0, 12, [3]), "b": entry(16, 32)},
    "out of range": {"a": entry(0, 16), "b": entry(16, 64, [12])},
    "backwards": {"a": entry(16, 0), "b": entry(16, 32)},
    "negative": {"a": entry(0, 16, [-4]), "b": entry(16, 32)},
    "more numbers than bytes": {"a": entry(0, 16, [5]), "b": entry(16, 32)},
    "product beyond 2**64": {"a": entry(0, 16, [2**62, 4]), "b": entry(16, 32)},
    "a float": {"a": entry(0, 32, [8.0])},
    "a dtype that is none": {"a": entry(0, 32, [8], "F33")},
    "twice": TWICE,
    "deep": DEEP,
    "not JSON": "{",
    "a list": "[1]",
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_lies_is_refused(case, folder):
    header = HEADERS[case]
    text = header if isinstance(header, str) else json.dumps(header)
    blob = struct.pack("<Q", len(text)) + text.encode() + bytes(32)
    (folder / WEIGHTS).write_bytes(blob)
    assert f"{folder / WEIGHTS} is not a whole safetensors file" in refusal(folder)


@pytest.mark.parametrize("length", [0, 2**32, 2**60, 2**63, 2**64 - 1])
def test_a_length_of_the_header_that_lies_is_refused(length, folder):
    blob = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", length) + blob[8:])
    assert "is not a whole safetensors file" in refusal(folder)


def test_a_name_that_would_break_the_line_is_refused(folder):
    tensors = safetensors.numpy.load_file(folder / WEIGHTS)
    safetensors.numpy.save_file(
        {**tensors, "a\nb": np.zeros(1, np.float32)}, folder / WEIGHTS
    )
    assert r"'a\nb'" in refusal(folder)


def test_an_index_that_lies_about_a_shard_is_refused(shards):
    index = json.loads((shards / INDEX).read_text())
    held = index["weight_map"]["model.norm.weight"]
    other = next(s for s in index["weight_map"].values() if s != held)
    index["weight_map"]["model.norm.weight"] = other
    (shards / INDEX).write_text(json.dumps(index))
    message = refusal(shards)
    assert "'model.norm.weight'" in message and other in message


def test_the_index_says_which_of_two_shards_is_read(shards):
    want = load_lm(str(shards)).fingerprint
    index = json.loads((shards / INDEX).read_text())["weight_map"]
    held = index["model.norm.weight"]
    other = shards / next(s for s in index.values() if s != held)
    tensors = safetensors.numpy.load_file(other)
    tensors["model.norm.weight"] = np.full(24, 7, ml_dtypes.bfloat16)
    safetensors.numpy.save_file(tensors, other)
    assert load_lm(str(shards)).fingerprint == want


@pytest.mark.parametrize("name", [WEIGHTS, "model-00002-of-00003.safetensors"])
def test_a_link_out_of_the_folder_is_refused(name, folder, shards, tmp_path):
    source = folder if name == WEIGHTS else shards
    (source / name).rename(tmp_path / "elsewhere")
    (source / name).symlink_to("../elsewhere")
    message = refusal(source)
    assert f"{source / name} is a link to {tmp_path / 'elsewhere'}" in message


def test_links_inside_the_folder_and_in_the_hubs_cache_are_followed(shards, tmp_path):
    want = load_lm(str(shards)).fingerprint
    snapshot = tmp_path / "hub" / "models--a--b" / "snapshots" / "0123"
    blobs = snapshot.parent.parent / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, path in enumerate(sorted(shards.iterdir())):
        shutil.copy(path, blobs / str(i))
        (snapshot / path.name).symlink_to(f"../../blobs/{i}")
    assert load_lm(str(snapshot)).fingerprint == want
    name = "model-00002-of-00003.safetensors"
    (shards / name).rename(shards / "real")
    (shards / name).symlink_to("real")
    assert load_lm(str(shards)).fingerprint == want


def test_a_pipe_in_place_of_weights_is_not_waited_for(folder):
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)
    assert "has no weights" in refusal(folder)


@pytest.mark.parametrize(
    "entries, word",
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000"),
        ({"num_labels": 10**9}, "num_labels 1000000000"),
        ({"text_config": {"attention_types": [[["global"], 10**9]]}}, "attention_types"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"vocab_size": 10**15}, "vocab_size"),
        ({"vocab_size": 2**31}, "[31, 24], expected [2147483648, 24]"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"vocab_size": -31}, "vocab_size"),
        ({"vocab_size": 31.0}, "vocab_size"),
        ({"vocab_size": "31"}, "vocab_size"),
        ({"vocab_size": None}, "vocab_size"),
        ({"max_position_embeddings": 0}, "max_positions"),
        ({"num_attention_heads": 0}, ""),
        ({"num_attention_heads": 5}, ""),
        ({"num_key_value_heads": 4}, ""),
        ({"rms_norm_eps": float("nan")}, "norm_eps is nan"),
        ({"rms_norm_eps": -1e-5}, "norm_eps is -1e-05"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 0.0}}, "theta"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e999}}, "theta"),
    ],
)
def test_a_size_that_no_model_has_is_refused(entries, word, folder):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
    assert word in refusal(folder)


@pytest.mark.parametrize("text", [DEEP, "[]", "1", '"a"', "1" * 5000, "\0", ""])
@pytest.mark.parametrize("name", ["config.json", INDEX])
def test_a_file_that_is_no_json_object_is_refused(name, text, shards):
    (shards / name).write_text(text)
    assert f"{shards / name} is not a JSON object" in refusal(shards)


def test_another_config_file_is_refused_and_not_followed(folder):
    path, other = folder / "config.json", folder / "config.4.0.0.json"
    entries = json.loads(path.read_text())
    other.write_text(json.dumps({**entries, "rms_norm_eps": 0.5}))
    path.write_text(json.dumps({**entries, "configuration_files": [other.name]}))
    assert "configuration_files is ['config.4.0.0.json']" in refusal(folder)


def test_a_tokenizer_file_that_makes_tokenizers_panic_is_refused(folder):
    entries = json.loads((BUILTIN / "tokenizer.json").read_text())
    entries["model"]["continuing_subword_prefix"] = "(((("  # longer than a merge
    (folder / "tokenizer.json").write_text(json.dumps(entries))
    assert f"the tokenizer in {folder} cannot be used" in refusal(folder)


def test_pickled_weights_without_torch_are_refused_with_what_converts_them(
    folder, monkeypatch
):
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    message = refusal(folder)
    assert f"{folder} has weights in pytorch_model.bin alone" in message
    assert "install torch" in message and "save_pretrained" in message


def test_a_torch_that_runs_code_is_not_used(folder, monkeypatch):
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    old = types.SimpleNamespace(__version__="2.5.1+cpu")
    monkeypatch.setitem(sys.modules, "torch", old)
    assert "torch 2.5.1+cpu cannot read" in refusal(folder)


def test_safetensors_come_before_pickled_weights(folder):
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    checkpoint = Checkpoint(folder)
    assert "model.norm.weight" in checkpoint.shapes()
