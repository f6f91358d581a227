"""A language model for tests of what is above the models."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from memcomp.lm.load import abstract_params
from memcomp.lm.protocol import LanguageModel
from memcomp.models.llama import Llama, LlamaConfig
from memcomp.nn.rotary import Rotary
from memcomp.sharding import make_mesh, param_shardings, put_whole

TINY = LlamaConfig(
    vocab_size=23,
    num_layers=2,
    d_model=16,
    d_mlp=24,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    max_positions=64,
    rotary=Rotary(4),
)
# Whose every axis can be cut into eight.
EIGHT_HEADS = dataclasses.replace(
    TINY, num_heads=8, num_kv_heads=8, head_dim=2, rotary=Rotary(2)
)
# A config.json, for scripts that make random weights of one.
TINY_ENTRIES = {
    "model_type": "llama",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "intermediate_size": 24,
    "vocab_size": 40,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
# For counts and costs: no weight of it is ever made.
LLAMA_2_7B = LlamaConfig(
    vocab_size=32_000,
    num_layers=32,
    d_model=4096,
    d_mlp=11_008,
    num_heads=32,
    num_kv_heads=32,
    head_dim=128,
    max_positions=4096,
    rotary=Rotary(128),
)


def make_tiny_lm(dtype: str, config: LlamaConfig = TINY) -> LanguageModel:
    """Weights are large, so that errors show; the same in every dtype."""
    module = Llama(config)
    leaves, tree = jax.tree.flatten(nn.unbox(abstract_params(module)))
    rng = np.random.default_rng(0)
    params = [jnp.asarray(0.5 * rng.standard_normal(leaf.shape), dtype) for leaf in leaves]
    return LanguageModel(
        name="tiny",
        module=module,
        config=config,
        params=jax.tree.unflatten(tree, params),
        tokenizer=None,
        dtype=jnp.dtype(dtype),
        fingerprint="0123456789abcdef" * 4,
    )


def on_devices(lm: LanguageModel, *sizes: int) -> LanguageModel:
    """The LM on a mesh of data x fsdp x tensor of the first devices."""
    mesh = make_mesh(*sizes, devices=jax.devices()[: math.prod(sizes)])
    shardings = param_shardings(abstract_params(lm.module), mesh)
    params = jax.tree.map(lambda x, s: put_whole(np.asarray(x), s), lm.params, shardings)
    return dataclasses.replace(lm, params=params, mesh=mesh)
