"""Sampled texts equal the slow obvious sampler, whatever batch they are in."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from memcomp.errors import InputError
from memcomp.lm import decode
from memcomp.lm.load import abstract_params
from memcomp.lm.sample import SamplingConfig, sample_texts
from memcomp.models.mamba import Mamba, MambaConfig

SPECIAL = [1, 2]


def with_tokenizer(lm, bos=1, eos=2, special=SPECIAL):
    tokenizer = types.SimpleNamespace(
        bos_token_id=bos, eos_token_id=eos, all_special_ids=special
    )
    return dataclasses.replace(lm, tokenizer=tokenizer)


def slow_text(lm, text_id, cfg, start=1):
    """One text, token by token, each time through the LM from the start."""
    key = jax.random.fold_in(jax.random.key(cfg.seed), text_id)
    tokens = [start]
    for i in range(cfg.num_tokens):
        padded = np.zeros((1, cfg.num_tokens + 1), np.int32)
        padded[0, : len(tokens)] = tokens
        logits = lm.logits(padded)[0, i] / np.float32(cfg.temperature)
        token = int(jax.random.categorical(jax.random.fold_in(key, i), logits))
        if token in SPECIAL:
            return tokens[1:], True
        tokens.append(token)
    return tokens[1:], False


@pytest.mark.ci
def test_texts_equal_the_slow_sampler_in_any_batch(tiny_lm):
    lm = with_tokenizer(tiny_lm)
    cfg = SamplingConfig(seed=3, num_tokens=9, temperature=4.0)
    wanted = {i: slow_text(lm, i, cfg) for i in range(8)}
    for ids in (range(8), (6, 1, 3)):
        for i, found in zip(ids, sample_texts(lm, ids, cfg), strict=True):
            assert (found.tokens.tolist(), found.ended) == wanted[i]
    # Texts of all kinds are among them, and another seed has others.
    assert {ended for _, ended in wanted.values()} == {True, False}
    other = sample_texts(lm, range(8), dataclasses.replace(cfg, seed=4))
    assert [x.tokens.tolist() for x in other] != [wanted[i][0] for i in range(8)]


def test_a_document_starts_with_eos_where_there_is_no_bos(tiny_lm):
    lm = with_tokenizer(tiny_lm, bos=None)
    cfg = SamplingConfig(num_tokens=5, temperature=4.0)
    (found,) = sample_texts(lm, [7], cfg)
    assert found.tokens.tolist() == slow_text(lm, 7, cfg, start=2)[0]
    assert found.tokens.tolist() != slow_text(lm, 7, cfg, start=1)[0]


@pytest.fixture(scope="module")
def tiny_mamba():
    module = Mamba(
        MambaConfig(
            vocab_size=23, num_layers=2, d_model=8, d_inner=16, d_state=4, d_conv=3,
            dt_rank=2,
        )
    )  # fmt: skip
    leaves, tree = jax.tree.flatten(nn.unbox(abstract_params(module)))
    rng = np.random.default_rng(0)
    params = [jnp.asarray(0.3 * rng.standard_normal(x.shape), jnp.float32) for x in leaves]
    return module, jax.tree.unflatten(tree, params)


@pytest.mark.ci
@pytest.mark.parametrize("family", ["llama", "mamba"])
def test_a_growing_cache_changes_nothing(tiny_lm, tiny_mamba, family, monkeypatch):
    monkeypatch.setattr(decode, "SMALLEST_CACHE", 12)
    module, params = (tiny_lm.module, tiny_lm.params)
    if family == "mamba":
        module, params = tiny_mamba
    D = module.config.d_model
    x = jnp.asarray(np.random.default_rng(1).standard_normal((3, 5, D)), jnp.float32)
    found = [
        decode.continue_vectors(
            params, x, jnp.array([5, 2, 3]), module=module, num_tokens=20, num_prefill=2,
            growing=growing,
        )
        for growing in (False, True)
    ]  # fmt: skip
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert np.asarray(found[0][1]).tolist() == [20] * 3
    assert len({tuple(row) for row in np.asarray(found[0][0]).tolist()}) == 3


def test_a_growing_cache_doubles_up_to_its_room():
    assert decode._doubled(1, 513) == [65, 129, 257, 513]
    assert decode._doubled(200, 513) == [257, 513]
    assert decode._doubled(1, 100) == [100]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"temperature": 0.0}, "temperature is 0, .* give more than 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0"),
        ({"num_tokens": 0}, "num_tokens is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"num_tokens": 65}, "num_tokens is 65; tiny has 64 positions"),
    ],
)
def test_settings_without_sense_are_refused(tiny_lm, changes, words):
    with pytest.raises(InputError, match=words):
        sample_texts(with_tokenizer(tiny_lm), [0], SamplingConfig(**changes))


def test_an_lm_that_cannot_begin_or_write_a_text_is_refused(tiny_lm):
    cfg = SamplingConfig(num_tokens=4)
    with pytest.raises(InputError, match="no tokenizer"):
        sample_texts(tiny_lm, [0], cfg)
    with pytest.raises(InputError, match="neither BOS nor EOS"):
        sample_texts(with_tokenizer(tiny_lm, None, None), [0], cfg)
