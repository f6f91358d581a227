"""The table that is read in both directions, and what it says when weights do not fit."""

import math

import flax.traverse_util
import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from golden_cases import GOLDEN, one_a_family

import memcomp.lm.load
from memcomp.convert import engine
from memcomp.convert.engine import Row
from memcomp.convert.files import Checkpoint
from memcomp.errors import InputError

TABLE = (
    Row("wte", "embedding", "v d -> v d"),
    Row("h.{i}.qkv", "layers/qkv", "(n c h) d -> d c n h"),
    Row("h.{i}.bias", "layers/bias", "d -> d"),
)
SIZES = {"layers": 2, "v": 5, "d": 3, "n": 2, "c": 3, "h": 4}
EXPECTED = {
    "embedding": jax.ShapeDtypeStruct((5, 3), np.float32),
    "layers": {
        "qkv": jax.ShapeDtypeStruct((2, 3, 3, 2, 4), np.float32),
        "bias": jax.ShapeDtypeStruct((2, 3), np.float32),
    },
}


class Held(dict):
    """Named tensors in memory."""

    def shapes(self):
        return {name: tensor.shape for name, tensor in self.items()}

    def read(self, name):
        return self[name]


def tensors():
    rng = np.random.default_rng(0)
    shapes = {"wte": (5, 3)}
    for i in range(2):
        shapes |= {f"h.{i}.qkv": (24, 3), f"h.{i}.bias": (3,)}
    return Held({n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()})


def on_the_default_device(path, array):
    return jax.device_put(array)


def convert(held, dtype=np.float32, ignored=(), place=on_the_default_device):
    return engine.from_hf(
        held, TABLE, SIZES, EXPECTED, dtype=dtype, ignored=ignored, place=place
    )


def test_every_number_lands_where_its_letters_say():
    held = tensors()
    params = convert(held)
    n, c, h, d = 1, 2, 3, 0
    for layer in range(2):
        want = held[f"h.{layer}.qkv"][(n * 3 + c) * 4 + h, d]
        assert params["layers"]["qkv"][layer, d, c, n, h] == want
        np.testing.assert_array_equal(
            params["layers"]["bias"][layer], held[f"h.{layer}.bias"]
        )
    back = engine.to_hf(params, TABLE, SIZES)
    assert back.keys() == held.keys()
    for name in held:
        np.testing.assert_array_equal(back[name], held[name], err_msg=name)


BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
QKV, BIAS = (3, 3, 2, 4), (3,)
BY_LAYER = [("layers/qkv", (1, *QKV))] * 2 + [("layers/bias", (1, *BIAS))] * 2
WHOLE = [("layers/qkv", (2, *QKV)), ("layers/bias", (2, *BIAS))]
BYTES = 2 * 2 * math.prod(QKV)  # of both layers of the larger parameter


@pytest.mark.parametrize(
    "small, stacks",
    [(0, BY_LAYER), (BYTES - 1, [*BY_LAYER[:2], WHOLE[1]]), (BYTES, WHOLE)],
)
def test_place_sees_a_layer_at_a_time_or_a_small_stack(monkeypatch, small, stacks):
    monkeypatch.setattr(engine, "SMALL_STACK", small)
    seen = []

    def place(path, array):
        seen.append((path, array.shape, array.dtype))
        return jax.device_put(array)

    params = convert(tensors(), dtype=BFLOAT16, place=place)
    wanted = [("embedding", (5, 3)), *stacks]
    assert seen == [(path, shape, BFLOAT16) for path, shape in wanted]
    assert params["layers"]["qkv"].shape == (2, *QKV)


@pytest.mark.parametrize("small", [0, engine.SMALL_STACK])
def test_layers_are_stacked_where_place_puts_them(monkeypatch, small):
    monkeypatch.setattr(engine, "SMALL_STACK", small)
    held = tensors()
    mesh = jax.make_mesh((3,), ("all",), devices=jax.devices()[:3])
    spec = jax.sharding.PartitionSpec(None, "all")
    sharding = jax.sharding.NamedSharding(mesh, spec)
    params = convert(held, place=lambda path, array: jax.device_put(array, sharding))
    assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(params["layers"]))
    for name, tensor in engine.to_hf(params, TABLE, SIZES).items():
        np.testing.assert_array_equal(tensor, held[name], err_msg=name)


def test_all_that_does_not_fit_is_in_one_message():
    held = tensors()
    del held["h.1.bias"]
    held["stranger"] = np.zeros(2, np.float32)
    held["h.0.qkv"] = held["h.0.qkv"].T
    held["wte"] = held["wte"][:4]
    with pytest.raises(InputError) as error:
        convert(held)
    message = str(error.value)
    for part in (
        "missing from the file: h.1.bias",
        "not a weight of this model: stranger",
        "h.0.qkv is [3, 24], expected [24, 3]",
        "wte is [4, 3], expected [5, 3]",
    ):
        assert part in message
    assert "\n" not in message


def test_a_parameter_without_a_row_is_an_error():
    expected = {**EXPECTED, "extra": jax.ShapeDtypeStruct((1,), np.float32)}
    with pytest.raises(InputError, match="without a row in the table: extra"):
        engine.from_hf(
            tensors(), TABLE, SIZES, expected, dtype=np.float32, place=lambda p, a: a
        )


def test_ignored_names_are_whole_patterns_and_are_not_read():
    held = tensors()
    held["h.0.rotary"] = None
    held.shapes = lambda: {n: t.shape if t is not None else (9,) for n, t in held.items()}
    convert(held, ignored=[r"h\.\d+\.rotary"])
    with pytest.raises(InputError, match=r"not a weight of this model: h\.0\.rotary"):
        convert(held, ignored=[r"h\.\d+\.rot"])


def test_weights_too_large_for_the_dtype_are_refused_by_name():
    held = tensors()
    held["h.1.bias"][2] = 1e5
    with pytest.raises(InputError, match=r"h\.1\.bias.*float16"):
        convert(held, dtype=np.float16)


@pytest.mark.parametrize("case", one_a_family())
def test_export_gives_back_every_tensor_bit_for_bit(case, tmp_path):
    files = Checkpoint(GOLDEN / case)
    stored = {name: files.read(name) for name in files.shapes()}
    dtype = str(next(iter(stored.values())).dtype)
    lm = memcomp.load_lm(str(GOLDEN / case), dtype=dtype)
    memcomp.lm.load.export_lm(tmp_path, lm.module, lm.params, bos_token_id=3)
    written = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert written.keys() == stored.keys()
    for name, tensor in stored.items():
        assert written[name].dtype == tensor.dtype
        assert written[name].tobytes() == tensor.tobytes(), name
    again = memcomp.load_lm(str(tmp_path), dtype=dtype)
    assert again.config == lm.config and again.fingerprint == lm.fingerprint
    flat = flax.traverse_util.flatten_dict(lm.params)
    for path, weight in flax.traverse_util.flatten_dict(again.params).items():
        np.testing.assert_array_equal(weight, flat[path])


def test_a_tied_head_in_the_file_is_not_read(tmp_path):
    lm = memcomp.load_lm(str(GOLDEN / "llama_tied"))
    memcomp.lm.load.export_lm(tmp_path, lm.module, lm.params)
    path = tmp_path / "model.safetensors"
    stored = safetensors.numpy.load_file(path)
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"]
    safetensors.numpy.save_file(stored, path)
    again = memcomp.load_lm(str(tmp_path))
    assert "head" not in again.params and again.fingerprint == lm.fingerprint


def test_buffers_of_older_gpt_neox_files_are_not_read(tmp_path):
    lm = memcomp.load_lm(str(GOLDEN / "gpt_neox"))
    memcomp.lm.load.export_lm(tmp_path, lm.module, lm.params)
    path = tmp_path / "model.safetensors"
    stored = safetensors.numpy.load_file(path)
    attention = "gpt_neox.layers.0.attention."
    stored[attention + "bias"] = np.ones((1, 1, 4, 4), np.uint8)
    stored[attention + "masked_bias"] = np.float32([-1e9])
    stored[attention + "rotary_emb.inv_freq"] = np.ones(2, np.float32)
    safetensors.numpy.save_file(stored, path)
    assert memcomp.load_lm(str(tmp_path)).fingerprint == lm.fingerprint
