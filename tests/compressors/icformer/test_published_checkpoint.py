"""The authors' files against the equations in PyTorch.

pytest -m parity
"""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from tiny_lm import TINY, make_tiny_lm

from memcomp.compressors.icformer.checkpoint_file import (
    FIXED,
    config_from_published,
    load_published,
)
from memcomp.compressors.icformer.config import ICFormerConfig
from memcomp.compressors.icformer.model import ICFormer
from memcomp.errors import InputError
from memcomp.models.llama import Llama

FAST_COMPILE = {"xla_backend_optimization_level": 0}
SHAPE = {"D": 16, "F": 20, "N": 2, "K": 1, "L": 3, "M": 5}
CONFIG = ICFormerConfig(
    num_digests=5,
    num_layers=3,
    num_heads=2,  # of another width than their number
    num_kv_heads=1,
    head_dim=8,
    d_mlp=20,
    rope_theta=10_000.0,
)
LM = Llama(TINY)
parity = pytest.mark.parity


@pytest.fixture()
def torch():
    return pytest.importorskip("torch")


def entries(**changes):
    return {
        "hidden_size": 16,
        "context_hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_query_tokens": 5,
        "rms_norm_eps": CONFIG.norm_eps,
        "rope_theta": CONFIG.rope_theta,
        **FIXED,
        **changes,
    }


@functools.cache
def weights():
    import torch_icformer

    return torch_icformer.random_weights(**SHAPE, seed=3)


def write(folder, torch, form="model.safetensors", dtype="float32"):
    """A checkpoint as the authors' code leaves it."""
    import safetensors.torch

    cast = {name: x.to(getattr(torch, dtype)) for name, x in weights().items()}
    beside = {n: cast.pop(n) for n in ("digest_embeddings", "AE", "FT")}
    if form == "model.safetensors":
        safetensors.torch.save_file(cast, folder / form)
    else:
        torch.save(cast, folder / form)
    torch.save({n: torch.nn.Parameter(x) for n, x in beside.items()}, folder / "param.pt")
    (folder / "config.json").write_text(json.dumps(entries(max_position_embeddings=2048)))


@parity
@pytest.mark.parametrize("form", ["model.safetensors", "pytorch_model.bin"])
def test_soft_prompts_of_rows_batches_and_chunks_match_the_equations(tmp_path, torch, form):
    from torch_icformer import soft_prompt

    write(tmp_path, torch, form)
    compressor, params = load_published(tmp_path, LM)
    lm = make_tiny_lm("float32")
    digest = jax.jit(compressor.digest, compiler_options=FAST_COMPILE)
    rng = np.random.default_rng(0)
    text = rng.integers(TINY.vocab_size, size=19, dtype=np.int32)
    # A text of 19 tokens in chunks of at most 8, which are 7, 7 and 5; and other rows.
    rows = [text[:7], text[7:14], text[14:], text[:1], text[:8]]
    batch = np.stack([np.pad(row, (0, 8 - len(row)), constant_values=3) for row in rows])
    lengths = np.array([len(row) for row in rows], np.int32)
    got = digest(params["compressor"], lm.params, batch, lengths)
    for row, vectors in zip(rows, got, strict=True):
        words = torch.from_numpy(np.array(lm.params["embedding"][row]))
        want = soft_prompt(weights(), words, N=2, K=1, L=3)
        # Measured 2.9e-6, where soft prompts reach 3.7.
        np.testing.assert_allclose(vectors, want, atol=1.5e-5, rtol=0)
        alone = digest(
            params["compressor"], lm.params, row[None], np.array([len(row)], np.int32)
        )
        np.testing.assert_allclose(alone[0], want, atol=1.5e-5, rtol=0)
    np.testing.assert_array_equal(params["ae"], weights()["AE"][0, 0])
    np.testing.assert_array_equal(params["ft"], weights()["FT"][0, 0])


@parity
def test_weights_in_bfloat16_are_read_as_they_are(tmp_path, torch):
    write(tmp_path, torch, dtype="bfloat16")
    compressor, params = load_published(tmp_path, LM)
    assert compressor == ICFormer(LM, CONFIG)
    digests = weights()["digest_embeddings"].to(torch.bfloat16).float()
    np.testing.assert_array_equal(params["compressor"]["digests"], digests[0])


@parity
def test_files_that_do_not_fit_are_refused(tmp_path, torch):
    write(tmp_path, torch)
    wide = Llama(dataclasses.replace(TINY, d_model=32))
    with pytest.raises(InputError, match="width 16, not of 32"):
        load_published(tmp_path, wide)
    beside = torch.load(tmp_path / "param.pt", weights_only=True)
    torch.save({**beside, "AE": beside["AE"] * np.nan}, tmp_path / "param.pt")
    with pytest.raises(InputError, match="AE has values that are not finite"):
        load_published(tmp_path, LM)
    torch.save({"AE": beside["AE"]}, tmp_path / "param.pt")
    with pytest.raises(InputError, match="no digest_embeddings"):
        load_published(tmp_path, LM)
    torch.save({**beside, "memory_embeddings": beside["AE"]}, tmp_path / "param.pt")
    with pytest.raises(InputError, match="not a weight of this model: memory_embeddings"):
        load_published(tmp_path, LM)
    (tmp_path / "param.pt").unlink()
    with pytest.raises(InputError, match=r"no param.pt"):
        load_published(tmp_path, LM)


def test_a_published_config_is_ours():
    assert config_from_published(entries(), "x") == CONFIG
    # The class of the authors has None for as many kv heads as heads.
    config = config_from_published(entries(num_key_value_heads=None), "x")
    assert config.num_kv_heads == config.num_heads == 2


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_act": "gelu"},
        {"rope_scaling": {"type": "linear"}},
        {"attention_bias": True},
        {"cross_attention_frequency": 2},
        {"context_hidden_size": 8},
        {"num_query_tokens": 0},
        {"num_query_tokens": 2.5},
        {"num_attention_heads": 0},
        {"num_attention_heads": 3},
        {"hidden_size": "16"},
        {"rope_theta": "1e4"},
        {"num_hidden_layers": None},
    ],
)
def test_a_config_of_what_we_do_not_do_is_refused(change):
    with pytest.raises(InputError):
        config_from_published(entries(**change), "x")
