"""`cache`: memory is what M positions would leave in the LM's cache."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp

from memcomp.cram.ways.way import Way
from memcomp.errors import InputError
from memcomp.lm.cache import (
    as_numbers,
    empty_cache,
    from_numbers,
    has_positions,
    hidden_after,
    num_numbers,
)
from memcomp.lm.decode import greedy_text
from memcomp.lm.protocol import CausalLM, embed


@dataclasses.dataclass(frozen=True)
class CacheMemory(Way):
    """Keys and values of M positions in every layer, as attention sees them.

    A row has 2 L K H numbers: all keys, after their rotation, and then all values. Of an LM
    that keeps one state instead, such as Mamba, the state is one row. The LM reads the
    start token of a text after the cache, and then the text, so that all tokens of the text
    are predicted.

    Source: Progressive Cramming, 2026, arXiv:2607.21231 (one position, the first token of
      the text given); Cartridges, Eyuboglu et al. 2025, arXiv:2506.06266 (the start from
      real tokens).
    """

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "reference": {"max_steps": 10_000, "init": "fixed_normal", "init_scale": 0.02},
        # A cache holds hundreds of tokens after few steps on all of them.
        "default": {
            "learning_rate": 0.1,
            "unit_rate": False,
            "schedule": "constant",
            "optimizer": "adamw",
            "b1": 0.9,
            "eps": 1e-8,
            "weight_decay": 0.01,
            "init": "tokens",
            "loss": "cross_entropy",
            "grows": False,
            "ahead": 0,
            "sure_weight": 1.0,
            "easy": 0.0,
            "stuck_after": 0,
        },
    }
    noun: ClassVar[str] = "cache position"

    def width(self, module: CausalLM) -> int:
        """Numbers of a position in all layers."""
        return num_numbers(module)

    def num_positions(self, num_memory: int, num_tokens: int) -> int:
        """The start token is read, the last token is not."""
        return num_memory + num_tokens

    def check(self, module: CausalLM, num_memory: int) -> None:
        """An LM that keeps one state has room for one row."""
        if num_memory > 1 and not has_positions(module):
            raise InputError(
                f"num_memory is {num_memory}, but this LM keeps one state and no cache of "
                "positions; set num_memory to 1"
            )

    def unit(self, params, start, *, module):
        """Of each array and layer, the root mean square in the start token's cache."""
        row = self.of_tokens(params, jnp.array([start]), module=module)
        cache = from_numbers(row[None], 1, row.dtype, module=module)
        arrays = {}
        for name, leaf in cache._asdict().items():
            if name != "length":
                axes = tuple(range(1, leaf.ndim))
                wide = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
                size = jnp.sqrt(jnp.mean(jnp.square(wide), axis=axes, keepdims=True))
                arrays[name] = jnp.broadcast_to(size, leaf.shape)
        return as_numbers(cache._replace(**arrays), 1, module=module)[0, 0]

    def of_tokens(self, params, tokens, *, module):
        """What the LM's cache has after it has read the tokens."""
        x = embed(params, tokens[None], module=module)
        cache = empty_cache(module, 1, len(tokens), x.dtype)
        _, cache = hidden_after(params, cache, x, module=module)
        num_rows = len(tokens) if has_positions(module) else 1
        return as_numbers(cache, num_rows, module=module)[0]

    def inputs(self, params, memory, tokens, start, *, module):
        """[start, t_1 ... t_(T-1)], after the cache of memory."""
        read = jnp.concatenate([jnp.full(1, start, tokens.dtype), tokens[:-1]])
        x = embed(params, read[None], module=module)
        room = len(memory) + len(tokens)
        return x, from_numbers(memory[None], room, x.dtype, module=module)

    def before(self, memory, start):
        """The start token, after the cache of memory."""
        return (start,), memory

    def decode(self, params, memory, given, start, *, module, num_tokens):
        """Autoregressive after the cache, from the start token."""
        first = jnp.full((len(given), 1), start, given.dtype)
        x = embed(params, jnp.concatenate([first, given], axis=1), module=module)
        room = memory.shape[1] + 1 + num_tokens
        cache = from_numbers(memory, room, x.dtype, module=module)
        options = {"module": module, "num_tokens": num_tokens}
        return greedy_text(params, x, given, cache, **options)
