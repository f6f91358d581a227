"""A real model, small: its greedy continuation of an empty text is published.

The folder is named by MEMCOMP_MODELS, or is shared/models beside the repository.
Source: github.com/karpathy/llama2.c, README: stories260K with temperature 0.
"""

import os
import pathlib

import jax
import jax.numpy as jnp
import pytest

import memcomp.lm.load

ROOT = pathlib.Path(__file__).parent.parent.parent
MODELS = pathlib.Path(os.environ.get("MEMCOMP_MODELS", ROOT.parent / "shared" / "models"))
TEXT = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in "
    "the park. One day, she saw a big, red ball. She wanted to play with it, but it was "
    "too high."
)
BOS = 1


@pytest.mark.skipif(
    not (MODELS / "stories260k" / "config.json").is_file(),
    reason="no stories260k; name the folder that holds it in MEMCOMP_MODELS",
)
def test_greedy_continuation_of_stories260k_is_the_published_text():
    lm = memcomp.load_lm(str(MODELS / "stories260k"))
    num_tokens = len(lm.tokenizer(TEXT, add_special_tokens=False)["input_ids"]) + 8

    def step(carry, _):
        params, token, cache = carry
        x = lm.module.apply({"params": params}, token[None, None], method="embed")
        hidden, cache = lm.module.apply({"params": params}, x, cache)
        rows = lm.module.apply({"params": params}, method="unembedding")
        token = jnp.einsum("vd,d->v", rows, hidden[0, -1]).argmax().astype(jnp.int32)
        return (params, token, cache), token

    cache = lm.module.empty_cache(1, num_tokens, jnp.float32)
    start = (lm.params, jnp.int32(BOS), cache)
    _, tokens = jax.jit(lambda carry: jax.lax.scan(step, carry, length=num_tokens))(start)
    assert lm.tokenizer.decode(tokens.tolist()).startswith(TEXT)
