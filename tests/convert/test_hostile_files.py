"""Mutated checkpoints: each is refused in one sentence, or loads as what it says.

What a file says is read here a second time, by the standard library alone.
"""

import copy
import functools
import json
import math
import pathlib
import resource

import jax
import ml_dtypes
import numpy as np
import pytest
from damaged import damaged
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import memcomp.lm.load
from memcomp.convert import engine
from memcomp.errors import InputError
from memcomp.lm.load import FAMILIES, export_lm, load_lm
from memcomp.models.llama import Llama, LlamaConfig
from memcomp.nn.rotary import Rotary

CONFIG = LlamaConfig(
    vocab_size=5,
    num_layers=1,
    d_model=4,
    d_mlp=3,
    num_heads=2,
    num_kv_heads=1,
    head_dim=2,
    max_positions=16,
    rotary=Rotary(2, 100.0),
)
WEIGHTS = "model.safetensors"
NUMPY = {"F32": "f4", "F16": "f2", "BF16": ml_dtypes.bfloat16, "F64": "f8"}
HEADROOM = 2**32  # bytes; far below what an absurd size would ask for
cases = functools.partial(
    settings,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A good checkpoint, rewritten for each case; large allocations fail meanwhile."""
    folder = tmp_path_factory.mktemp("hostile")
    rng = np.random.default_rng(0)
    boxed = memcomp.lm.load.abstract_params(Llama(CONFIG))
    params = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, np.float32),
        memcomp.lm.load.nn.unbox(boxed),
    )
    export_lm(folder, Llama(CONFIG), params)
    load_lm(str(folder))  # what imports and jax take on first use is not counted
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    old = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + HEADROOM
    with pytest.MonkeyPatch.context() as patch:
        # Tracing the module takes 50 ms, nine tenths of a load.
        cached = functools.lru_cache(memcomp.lm.load.abstract_params)
        patch.setattr(memcomp.lm.load, "abstract_params", cached)
        resource.setrlimit(resource.RLIMIT_AS, (limit, old[1]))
        yield folder
        resource.setrlimit(resource.RLIMIT_AS, old)


@pytest.fixture(scope="module")
def good(folder):
    """The bytes of the good checkpoint."""
    return {name: (folder / name).read_bytes() for name in (WEIGHTS, "config.json")}


def stored(blob):
    """The tensors of a safetensors file."""
    length = int.from_bytes(blob[:8], "little")
    header, data = json.loads(blob[8 : 8 + length]), blob[8 + length :]
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        if entry["dtype"] in NUMPY:
            array = np.frombuffer(data[first:last], NUMPY[entry["dtype"]])
            tensors[name] = array.reshape(entry["shape"])
    return tensors


def agrees(got, given):
    """Whether a value of our config is what config.json says."""
    if isinstance(got, float) and isinstance(given, int) and not isinstance(given, bool):
        return got == given
    return type(got) is type(given) and got == given


def check(folder, **changed):
    """Loads the folder with `changed` files: "refused", or "loaded" and right."""
    for name, blob in changed.items():
        (folder / FILES[name]).write_bytes(blob)
    try:
        lm = load_lm(str(folder))
    except InputError as error:
        assert str(error) and "\n" not in str(error)
        return "refused"
    family = FAMILIES["llama"]
    tensors = stored((folder / WEIGHTS).read_bytes())
    written = engine.to_hf(lm.params, family.table, engine.sizes_of(lm.config))
    for name, array in written.items():
        assert np.isfinite(array).all(), name
        np.testing.assert_array_equal(array, tensors[name].astype(np.float32), name)
    unread = {"lm_head.weight"} if lm.config.tied_embeddings else set()
    unread |= {name for name in tensors if name.endswith("inv_freq")}
    assert tensors.keys() - written.keys() <= unread
    entries = json.loads((folder / "config.json").read_text())
    skipped = {"architectures", "dtype"}  # what is not read
    if "rope_parameters" in entries:  # which comes before the older names
        skipped |= {"rope_theta", "rope_scaling"}
    for key, value in family.config_to_hf(lm.config).items():
        given = entries.get(key)
        assert key in skipped or given is None or agrees(value, given), key
    return "loaded"


FILES = {"weights": WEIGHTS, "config": "config.json"}
ABSURD = [None, True, 0, -1, 1.0, math.nan, 10**9, 2**64, "4", [], {}]
VALUES = st.one_of(
    st.sampled_from(
        [None, True, False, 0, -1, 1, 2, 3, 4, 1.0, 0.0, -0.5, 1e-5, 1e300, math.nan]
        + [math.inf, 10**9, 2**31, 2**32, 2**53, 2**62, 2**63, 2**64, 10**15, 10**30]
        + ["", "4", "F16", "BF16", "I8", "F8_E4M3", "llama", "../x", "\n", "\0", "\ud800"]
        + [[], [4], [2, 2], [0, 2**62], [-4], [1] * 70, {}, {"a": 1}, [[[1]]]]
    ),
    st.integers(-8, 300),
    st.floats(),
    st.text(max_size=6),
)


def paths(tree, here=()):
    """Where the values of a JSON tree are."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield (*here, key)
        if isinstance(value, dict | list):
            yield from paths(value, (*here, key))


@st.composite
def mutated(draw, tree, names):
    """A JSON tree with up to three values changed, dropped, exchanged or added."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        known = list(paths(tree))
        if not known:
            break
        *way, key = draw(st.sampled_from(known))
        parent = functools.reduce(lambda node, k: node[k], way, tree)
        match draw(
            st.sampled_from(["change", "change", "drop", "copy", "exchange", "add"])
        ):
            case "change":
                parent[key] = copy.deepcopy(draw(VALUES))
            case "drop":
                del parent[key]
            case "copy":
                from_way = draw(st.sampled_from(known))
                value = functools.reduce(lambda node, k: node[k], from_way, tree)
                parent[key] = copy.deepcopy(value)
            case "exchange":
                other = draw(
                    st.sampled_from(
                        list(parent) if isinstance(parent, dict) else range(len(parent))
                    )
                )
                parent[key], parent[other] = parent[other], parent[key]
            case "add" if isinstance(parent, dict):
                name = draw(st.sampled_from(names) | st.text(max_size=6))
                parent[name] = copy.deepcopy(draw(VALUES | st.just(parent[key])))
    return tree


def split(blob):
    length = int.from_bytes(blob[:8], "little")
    return json.loads(blob[8 : 8 + length]), blob[8 + length :]


NEW_TENSORS = [
    "__metadata__",
    "lm_head.weight",
    "model.layers.1.mlp.up_proj.weight",
    "model.layers.0.self_attn.q_proj.bias",
    "model.layers.0.self_attn.rotary_emb.inv_freq",
]
NEW_ENTRIES = [
    "auto_map",
    "attention_bias",
    "mlp_bias",
    "pretraining_tp",
    "rope_parameters",
    "rope_scaling",
    "num_labels",
    "id2label",
    "text_config",
    "configuration_files",
    "quantization_config",
    "layer_types",
    "torch_dtype",
    "transformers_version",
    "_attn_implementation",
]


@pytest.mark.parametrize(
    "name", [pytest.param("config", marks=pytest.mark.slow), "weights"]
)
def test_every_value_in_turn_is_absurd(name, folder, good):
    """Of config.json, and of the entries of the first two tensors."""
    if name == "config":
        tree, rest = json.loads(good["config.json"]), b""
    else:
        header, rest = split(good[WEIGHTS])
        tree = header
    for place, (*way, key) in enumerate(list(paths(tree))[:30]):
        for value in ABSURD[place % 2 :: 2]:  # half of them each, for time
            changed = copy.deepcopy(tree)
            functools.reduce(lambda node, k: node[k], way, changed)[key] = value
            text = json.dumps(changed).encode()
            blob = text if name == "config" else len(text).to_bytes(8, "little") + text
            files = {"weights": good[WEIGHTS], "config": good["config.json"]}
            check(folder, **{**files, name: blob + rest})


@cases(max_examples=350)
@given(data=st.data())
@pytest.mark.ci
def test_a_header_that_says_something_else(data, folder, good):
    header, rest = split(good[WEIGHTS])
    text = json.dumps(data.draw(mutated(header, NEW_TENSORS))).encode()
    lengths = st.sampled_from([2**60, 2**63, 2**64 - 1, 0, 1, len(text) + 1])
    length = data.draw(st.just(len(text)) | st.just(len(text)) | lengths)
    blob = length.to_bytes(8, "little") + text + rest
    event(check(folder, weights=blob, config=good["config.json"]))


@pytest.mark.ci
@cases(max_examples=400)
@given(data=st.data())
def test_a_damaged_weights_file(data, folder, good):
    blob = data.draw(damaged(good[WEIGHTS]))
    event(check(folder, weights=blob, config=good["config.json"]))


@cases(max_examples=350)
@given(data=st.data())
@pytest.mark.ci
def test_a_config_that_says_something_else(data, folder, good):
    entries = data.draw(mutated(json.loads(good["config.json"]), NEW_ENTRIES))
    blob = json.dumps(entries).encode()
    event(check(folder, weights=good[WEIGHTS], config=blob))


@pytest.mark.ci
@cases(max_examples=200)
@given(data=st.data())
def test_a_damaged_config(data, folder, good):
    blob = data.draw(damaged(good["config.json"]))
    event(check(folder, weights=good[WEIGHTS], config=blob))
