"""`load_lm`: what it gives, and the one sentence that it says when it cannot."""

import json
import pathlib
import shutil

import huggingface_hub.constants
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import transformers
from selection import first_here

import memcomp
from memcomp.convert.fingerprint import fingerprint_of
from memcomp.errors import InputError
from memcomp.lm.load import FAMILIES, export_lm, load_lm
from memcomp.sharding import make_mesh

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture()
def folder(tmp_path):
    """A copy of a checkpoint, to be damaged."""
    return pathlib.Path(shutil.copytree(GOLDEN / "llama", tmp_path / "llama"))


@pytest.fixture()
def shards(tmp_path):
    source = GOLDEN / "llama_bfloat16_shards"
    return pathlib.Path(shutil.copytree(source, tmp_path / "shards"))


def refusal(lm, **options):
    """The message of the `InputError`, one line with no traceback in it."""
    with pytest.raises(InputError) as error:
        load_lm(str(lm), **options)
    message = str(error.value)
    assert message and "\n" not in message
    return message


def change_json(path, **entries):
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def change_weights(folder, **changes):
    """Rewrites the weights file; None removes a tensor."""
    tensors = safetensors.numpy.load_file(folder / WEIGHTS)
    for name, change in changes.items():
        if change is None:
            del tensors[name]
        else:
            tensors[name] = change(tensors.get(name))
    safetensors.numpy.save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    "name", ["", "no/such/folder", "./nowhere", "/nowhere", "gpt99", "a b/c"]
)
def test_a_path_that_does_not_exist_is_refused(name):
    assert repr(name) in refusal(name)


def test_a_file_in_place_of_a_folder_is_refused(folder):
    assert "config.json" in refusal(folder / "config.json")


def test_a_hub_id_that_is_not_in_the_cache_is_refused_without_network(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = refusal("nobody/no-such-model")
    assert "'nobody/no-such-model'" in message and "network" in message


@pytest.mark.parametrize(
    "name, repository, case",
    [
        ("somebody/llama", "somebody--llama", "llama"),
        ("gpt2", "openai-community--gpt2", "gpt2"),  # the owner, from the registry
    ],
)
def test_a_hub_id_in_the_cache_is_loaded_without_network(
    name, repository, case, tmp_path, monkeypatch
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / f"models--{repository}"
    shutil.copytree(GOLDEN / case, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    lm = load_lm(name)
    assert lm.revision == commit and lm.name == name
    assert lm.fingerprint == load_lm(str(GOLDEN / case)).fingerprint


def test_a_folder_without_config_is_refused(folder):
    (folder / "config.json").unlink()
    assert f"{folder} has no config.json" in refusal(folder)


@pytest.mark.parametrize("text", ["{", "[1]", "\xff\xfe", ""])
def test_a_broken_config_is_refused(folder, text):
    (folder / "config.json").write_text(text, encoding="latin-1")
    assert f"{folder}/config.json is not a JSON object" in refusal(folder)


@pytest.mark.parametrize("model_type", ["bloom", None, ["llama"]])
def test_an_unknown_architecture_lists_the_known_ones(folder, model_type):
    change_json(folder / "config.json", model_type=model_type)
    message = refusal(folder)
    assert all(known in message for known in [repr(model_type), *FAMILIES])


@pytest.mark.parametrize(
    "entries",
    [
        {"hidden_size": "wide"},
        {"hidden_size": 25},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 100.0}},
    ],
)
def test_a_config_that_transformers_refuses_is_refused_by_file(folder, entries):
    change_json(folder / "config.json", **entries)
    assert f"{folder}/config.json cannot be used" in refusal(folder)


def test_all_names_and_shapes_that_do_not_fit_are_in_one_message(folder):
    norm, head = "model.norm.weight", "lm_head.weight"
    stranger = "model.layers.2.mlp.up_proj.weight"
    zeros = np.zeros(3, np.float32)
    change_weights(folder, **{norm: None, head: lambda t: t.T, stranger: lambda t: zeros})
    message = refusal(folder)
    assert all(name in message for name in (norm, stranger, f"{head} is [24, 31]"))


def test_a_truncated_file_is_refused(folder):
    path = folder / WEIGHTS
    whole = path.read_bytes()
    for length in 0, 5, 100, len(whole) - 1:
        path.write_bytes(whole[:length])
        assert f"{path} is not a whole safetensors file" in refusal(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(folder, value):
    name = "model.layers.1.mlp.up_proj.weight"
    spoiled = np.full((20, 24), 0.5, np.float32)
    spoiled[3, 4] = value
    change_weights(folder, **{name: lambda tensor: spoiled})
    assert name in refusal(folder)


def test_a_tensor_of_integers_is_refused_by_name_and_dtype(folder):
    name = "model.norm.weight"
    change_weights(folder, **{name: lambda tensor: tensor.astype(np.int8)})
    message = refusal(folder)
    assert f"{name} is I8" in message and "BF16" in message


def test_an_index_that_names_a_missing_shard_is_refused(shards):
    (shards / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors, which is missing" in refusal(shards)


@pytest.mark.parametrize(
    "name", ["../llama/model.safetensors", "/etc/passwd", "a/b", 3, ""]
)
def test_an_index_that_points_outside_the_folder_is_refused(shards, folder, name):
    index = json.loads((shards / INDEX).read_text())["weight_map"]
    index["model.norm.weight"] = name
    change_json(shards / INDEX, weight_map=index)
    message = refusal(shards)
    assert repr(name) in message and "not in the folder" in message


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": []}']
)
def test_a_broken_index_is_refused(shards, text):
    (shards / INDEX).write_text(text)
    assert f"{shards / INDEX} is not a" in refusal(shards)  # JSON object, index of shards


def test_a_folder_without_weights_is_refused(folder):
    (folder / WEIGHTS).unlink()
    assert WEIGHTS in refusal(folder) and INDEX in refusal(folder)


def test_an_unknown_dtype_lists_the_known_ones():
    message = refusal(GOLDEN / "llama", dtype="int8")
    assert all(name in message for name in ("'int8'", "float32", "bfloat16", "float16"))


def test_remote_code_is_never_run(folder, tmp_path):
    trace = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass C: pass\n")
    remote = {"AutoConfig": "evil.C", "AutoTokenizer": ["evil.C", "evil.C"]}
    change_json(folder / "config.json", auto_map=remote)
    load_lm(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": remote}))
    assert "tokenizer" in refusal(folder)
    assert not trace.exists()


def test_a_broken_tokenizer_is_refused_by_folder(folder):
    (folder / "tokenizer.json").write_text("{")
    assert f"the tokenizer in {folder} cannot be used" in refusal(folder)


def test_fingerprint_is_that_of_the_weights_in_the_file(folder, shards):
    want = load_lm(str(shards)).fingerprint
    assert load_lm(str(shards), dtype="bfloat16").fingerprint == want
    lm = load_lm(str(shards), dtype="bfloat16")
    export_lm(folder, lm.module, lm.params)  # one file
    assert load_lm(str(folder), dtype="float16").fingerprint == want
    # The last bit of one weight.
    change_weights(folder, **{"model.norm.weight": lambda t: _flip(t)})
    assert load_lm(str(folder)).fingerprint != want


# Entries of config.json that change what a model computes, of each golden case.
COMPUTED = {
    "llama": {"rms_norm_eps": 0.01},
    "llama_linear": {"rope_parameters": {"rope_type": "linear", "factor": 3.0}},
    "llama_llama3": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 1000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 7,
        }
    },
    "gpt_neox": {"use_parallel_residual": False},
    "mamba": {"layer_norm_epsilon": 0.01},
    "olmo_clip": {"clip_qkv": 9.0},
    "olmo2": {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}},
    "opt": {"activation_function": "gelu"},
    "gpt2": {"scale_attn_weights": False},
    "gpt_neo": {"window_size": 2},
    "qwen2_window": {"sliding_window": 2},
    "qwen3": {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}},
    "mistral_window": {"sliding_window": None},
    "smollm3": {"no_rope_layers": [0, 1, 1, 1]},
    "gemma3": {"query_pre_attn_scalar": 9},
    "gemma3_softcap": {"final_logit_softcapping": 9.0},
}


@pytest.mark.parametrize("case", COMPUTED)
def test_the_fingerprint_covers_what_config_json_changes(case):
    entries = json.loads((GOLDEN / case / "config.json").read_text())

    def of(**changes):
        hf = transformers.CONFIG_MAPPING[entries["model_type"]](**(entries | changes))
        return fingerprint_of({}, FAMILIES[entries["model_type"]].config_from_hf(hf))

    assert of(use_cache=False, transformers_version="4.0.0") == of()
    assert of(**COMPUTED[case]) != of()


def test_how_a_model_is_run_is_not_in_the_fingerprint(folder):
    want = load_lm(str(folder)).fingerprint
    change_json(folder / "config.json", max_position_embeddings=77)
    assert load_lm(str(folder), remat="full", attention="blockwise").fingerprint == want


@pytest.mark.ci
def test_memory_made_under_another_config_is_refused(folder, tmp_path):
    lm = load_lm(str(folder))
    cfg = memcomp.CramConfig(num_tokens=3, num_memory=1, max_steps=1)
    memcomp.save_memory(tmp_path / "m", memcomp.cram(lm, [np.arange(3)], cfg))
    change_json(folder / "config.json", rms_norm_eps=0.01)
    with pytest.raises(InputError, match="whose weights or config.json differ"):
        memcomp.load_memory(tmp_path / "m", load_lm(str(folder)))


def _flip(tensor):
    bits = tensor.view(np.uint16).copy()
    bits[-1] ^= 1
    return bits.view(tensor.dtype)


@pytest.mark.ci
def test_fingerprints_of_other_names_dtypes_and_shapes_differ():
    prints = {load_lm(str(f.parent)).fingerprint for f in GOLDEN.glob("*/config.json")}
    assert len(prints) == len(list(GOLDEN.glob("*/config.json")))


@pytest.mark.parametrize("dtype", first_here(["bfloat16", "float32", "float16"]))
def test_weights_are_in_the_run_dtype(dtype):
    lm = load_lm(str(GOLDEN / "gpt_neox_bfloat16"), dtype=dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(lm.params)} == {jnp.dtype(dtype)}
    assert lm.logits(jnp.zeros((1, 3), int)).dtype == jnp.float32


@pytest.mark.parametrize(
    "tokens, words",
    [
        ([[31]], "token id 31; give ids from 0 to 30"),
        ([[-1]], "token id -1"),
        ([1, 2], "with 1 axes"),
        ([[1.5]], "float64"),
        ([[True]], "bool"),
        ("text", "axes"),
        ([[1], [1, 2]], "no array of token ids"),
        (np.zeros((0, 3), int), "at least one text"),
        (np.zeros((2, 0), int), "at least one text"),
    ],
)
def test_tokens_that_are_none_are_refused(tokens, words):
    with pytest.raises(InputError, match=words):
        load_lm(str(GOLDEN / "llama")).logits(tokens)


@pytest.mark.parametrize("case", first_here(["gpt2", "gpt_neo", "opt"]))
def test_more_tokens_than_learned_positions_are_refused(case):
    lm = load_lm(str(GOLDEN / case))
    most = lm.config.max_positions
    assert lm.logits(np.zeros((1, most), int)).shape[1] == most
    with pytest.raises(InputError, match=f"1 to {most} tokens"):
        lm.logits(np.zeros((1, most + 1), int))


def test_a_mesh_decides_where_weights_go():
    lm = load_lm(str(GOLDEN / "llama"), mesh=make_mesh(devices=jax.devices()[3:4]))
    assert {leaf.device for leaf in jax.tree.leaves(lm.params)} == {jax.devices()[3]}


def test_the_builtin_lm_loads_with_its_tokenizer():
    lm = load_lm("builtin")
    text = "It was a dark and stormy night; the rain fell in torrents."
    tokens = lm.tokenizer(text, return_tensors="np")["input_ids"]
    assert lm.tokenizer.decode(tokens[0], skip_special_tokens=True).strip() == text
    log_probs = jax.nn.log_softmax(lm.logits(jnp.asarray(tokens)))[0, :-1]
    nats = -jnp.take_along_axis(log_probs, tokens[0, 1:, None], axis=1).mean()
    assert nats < 0.75 * np.log(lm.config.vocab_size)  # it knows some English


def test_loading_is_the_same_every_time():
    first, second = (load_lm(str(GOLDEN / "llama")) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
    assert first.tokenizer is None and first.revision is None


@pytest.mark.ci
def test_a_shuffled_lm_has_the_same_weights_in_another_order():
    lm = load_lm(str(GOLDEN / "llama"))
    control, again, other = lm.shuffled(0), lm.shuffled(0), lm.shuffled(1)
    pairs = zip(jax.tree.leaves(lm.params), jax.tree.leaves(control.params), strict=True)
    for was, now in pairs:
        np.testing.assert_array_equal(np.sort(was, axis=None), np.sort(now, axis=None))
    tokens = np.arange(12).reshape(2, 6)
    assert np.abs(lm.logits(tokens) - control.logits(tokens)).max() > 0.1
    np.testing.assert_array_equal(control.logits(tokens), again.logits(tokens))
    assert len({lm.fingerprint, control.fingerprint, other.fingerprint}) == 3
    assert control.name == f"{lm.name}-shuffled0"
