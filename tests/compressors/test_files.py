import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from flax import linen as nn

from memcomp.compressors import files
from memcomp.compressors.compress import TrainedCompressor, compress
from memcomp.compressors.gradmem import GradMem, GradMemConfig
from memcomp.compressors.objectives import Task
from memcomp.compressors.registry import (
    FORMAT,
    load_compressor,
    make_compressor,
    save_compressor,
)
from memcomp.compressors.training import init_params
from memcomp.errors import InputError


@pytest.fixture(scope="module")
def trained(tiny_lm):
    config = GradMemConfig(num_digests=3, num_steps=1)
    task = Task(tiny_lm.module, GradMem(tiny_lm.module, config))
    params = nn.unbox(init_params(jax.random.key(0), task))
    return TrainedCompressor(task.compressor, params, "tiny", tiny_lm.fingerprint)


@pytest.fixture()
def path(trained, tmp_path):
    save_compressor(tmp_path / "a.safetensors", trained)
    return tmp_path / "a.safetensors"


def test_a_compressor_comes_back_with_the_same_bits(tiny_lm, trained, path):
    found = load_compressor(path, tiny_lm)
    assert found.compressor == trained.compressor
    assert jax.tree.structure(found.params) == jax.tree.structure(trained.params)
    jax.tree.map(np.testing.assert_array_equal, found.params, trained.params)
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]


def test_soft_prompts_come_back_with_the_same_bits(tiny_lm, trained, tmp_path):
    made = compress(tiny_lm, trained, [[1, 2, 3], [4]], max_chunk=2)
    files.save_soft_prompts(tmp_path / "p", made)
    found = files.load_soft_prompts(tmp_path / "p", tiny_lm)
    for field in dataclasses.fields(made):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(made, field.name))
    other = dataclasses.replace(tiny_lm, fingerprint="f" * 64, name="other")
    with pytest.raises(InputError, match="made with tiny .*, not with other"):
        files.load_soft_prompts(tmp_path / "p", other)
    assert len(files.load_soft_prompts(tmp_path / "p")) == 2


def test_files_that_cannot_be_used_are_refused(tiny_lm, trained, path, tmp_path):
    other = dataclasses.replace(tiny_lm, fingerprint="f" * 64, name="other")
    with pytest.raises(InputError, match="trained with tiny .*, not with other"):
        load_compressor(path, other)
    with pytest.raises(InputError, match="cannot be read"):
        load_compressor(tmp_path / "no", tiny_lm)
    with pytest.raises(InputError, match="of another kind; .*save_soft_prompts"):
        files.load_soft_prompts(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_compressor(path, tiny_lm)
    files.write(path, {}, FORMAT, {"kind": "gist", "config": {}}, trained)
    with pytest.raises(InputError, match="cannot be used: compressor 'gist'"):
        load_compressor(path, tiny_lm)
    config = dataclasses.replace(trained.compressor.config, num_digests=4)
    larger = dataclasses.replace(trained.compressor, config=config)
    save_compressor(path, dataclasses.replace(trained, compressor=larger))
    with pytest.raises(InputError, match=r"/start is \(3, 16\), wanted \(4, 16\)"):
        load_compressor(path, tiny_lm)
    safetensors.numpy.save_file({"a": np.zeros(1)}, path)
    with pytest.raises(InputError, match="of another kind"):
        load_compressor(path, tiny_lm)


GOOD = {"format": FORMAT, "lm_name": "a", "lm_fingerprint": "b"}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ([1], "of another kind"),
        (GOOD, "does not say what it holds .*kind"),
        ({**GOOD, "kind": "pooling", "config": [1]}, "does not say what it holds"),
        ({**GOOD, "lm_name": None}, "does not say which LM"),
    ],
)
def test_metadata_without_sense_is_refused(tiny_lm, tmp_path, metadata, message):
    data = {"memcomp": json.dumps(metadata)}
    safetensors.numpy.save_file({"a": np.zeros(1)}, tmp_path / "f", data)
    with pytest.raises(InputError, match=message):
        load_compressor(tmp_path / "f", tiny_lm)


def test_soft_prompts_with_a_cache_are_not_saved_without_it(tiny_lm, trained, tmp_path):
    made = compress(tiny_lm, trained, [[1, 2]])
    made = dataclasses.replace(made, cache=np.zeros((1, 1, 4), np.float32))
    with pytest.raises(InputError, match="with a cache have no file"):
        files.save_soft_prompts(tmp_path / "p", made)
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    "change", [{"counts": None}, {"counts": np.array([3])}, {"vectors": np.zeros((2, 16))}]
)
def test_soft_prompts_that_are_not_whole_are_refused(tmp_path, change):
    tensors = {"vectors": np.zeros((1, 2, 16)), "counts": np.array([2])}
    tensors |= {"special": np.zeros((2, 16))} | change
    tensors = {name: x for name, x in tensors.items() if x is not None}
    data = {"memcomp": json.dumps({**GOOD, "format": files.SOFT_PROMPTS})}
    safetensors.numpy.save_file(tensors, tmp_path / "f", data)
    with pytest.raises(InputError, match="no whole soft prompts"):
        files.load_soft_prompts(tmp_path / "f")


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_files_that_were_cast_are_read(tiny_lm, trained, path, tmp_path, dtype):
    def cast(file):
        with safetensors.safe_open(file, "np") as opened:
            found = {k: opened.get_tensor(k).astype(dtype) for k in opened.keys()}
            safetensors.numpy.save_file(found, file, opened.metadata())
        return found

    found = cast(path)
    params = load_compressor(path, tiny_lm).params
    for leaf in jax.tree.leaves(params):
        assert leaf.dtype == np.float32
    start = found["compressor/start"].astype(np.float32)
    np.testing.assert_array_equal(params["compressor"]["start"], start)
    files.save_soft_prompts(tmp_path / "p", compress(tiny_lm, trained, [[1, 2], [3]]))
    found = cast(tmp_path / "p")
    prompts = files.load_soft_prompts(tmp_path / "p", tiny_lm)
    assert prompts.counts.dtype == np.int32 and prompts.vectors.dtype == np.float32
    np.testing.assert_array_equal(prompts.vectors, found["vectors"].astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_tensors_that_are_not_finite_are_refused(tiny_lm, path, tmp_path, value):
    with safetensors.safe_open(path, "np") as opened:
        found = {k: opened.get_tensor(k) for k in opened.keys()}
        found["ae"] = np.full_like(found["ae"], value)
        safetensors.numpy.save_file(found, path, opened.metadata())
    with pytest.raises(InputError, match="tensor 'ae' has values that are not finite"):
        load_compressor(path, tiny_lm)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"num_digest": 4}, "ICFormerConfig has no field 'num_digest'; its fields are num"),
        ({"num_digests": "4"}, "num_digests of ICFormerConfig is '4'; give int"),
        ({"num_digests": 4.0}, "num_digests of ICFormerConfig is 4.0; give int"),
        ({"num_digests": None}, "num_digests of ICFormerConfig is None; give int"),
        ({"num_digests": True}, "num_digests of ICFormerConfig is True; give int"),
        ({"num_heads": [4]}, "num_heads of ICFormerConfig is .4.; give NoneType or int"),
        ({"rope_theta": "1"}, "rope_theta of ICFormerConfig is '1'; give float or int"),
    ],
)
def test_a_config_that_was_edited_by_hand_is_refused(tiny_lm, entries, said):
    with pytest.raises(InputError, match=said):
        make_compressor("icformer", tiny_lm.module, entries)
    assert make_compressor("icformer", tiny_lm.module, {"rope_theta": 100.0})
