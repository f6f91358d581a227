"""Rows of benchmark.py: time of the parts of a step, and its memory on a long text."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from launch import Config

import memcomp
from memcomp.cost.formulas import shapes_of
from memcomp.cram.loop import cram_chunk, lower_cram_chunk
from memcomp.cram.pool import Pool
from memcomp.cram.recipe import Recipe
from memcomp.cram.state import init_states
from memcomp.cram.ways.table import memory_scores
from memcomp.data.texts import Text
from memcomp.lm.load import DTYPES, abstract_params
from memcomp.lm.protocol import CausalLM, LanguageModel, embed, hidden_states
from memcomp.lm.score import score_hidden
from memcomp.runs.files import Record

from .timing import Side, compiled, entry, rates, spread, timed

# With this recipe no text is ever finished, so that every step does the full work.
ENDLESS = Recipe(learning_rate=1e-2, max_steps=10**9, patience=10**9, margin=1e9)
LOSS_OF = {"loss": "cross_entropy", "margin": "margin"}  # score -> a recipe's loss


def breakdown(name: str, config: Config, scratch: pathlib.Path) -> Iterator[Record]:
    """Measures the seconds of each part of a step of the loop, with all texts at once.

    The forward pass, and the scores with their gradient to the hidden states, are separate
    programs. `score` says which score is differentiated, as a recipe's loss does. The other
    parts are differences: backward is the whole gradient minus these two; optimiser and
    bookkeeping are a step in its chunk minus the gradient; host is a chunk of the pool
    minus that on the device.
    """
    section = config[name]
    lm = memcomp.load_lm(section.lm, attention=section.attention)
    rng = np.random.default_rng(config.seed)
    shape = (section.num_texts, section.num_tokens)
    tokens = rng.integers(lm.config.vocab_size, size=shape, dtype=np.int32)
    cfg = memcomp.CramConfig(
        num_tokens=section.num_tokens,
        recipe=dataclasses.replace(ENDLESS, loss=LOSS_OF[section.score]),
        batch_size=section.num_texts,
        steps_per_chunk=section.steps,
        vocab_chunk=section.vocab_chunk,
    )
    sides = {**parts(lm, cfg, tokens, section.score), **loops(lm, cfg, tokens)}
    rates(sides, 2)  # compiles for initial states, and for states that a chunk returns
    seconds = {
        side: np.array([1 / rate for rate in values])
        for side, values in rates(sides, config.rounds).items()
    }
    found = {
        "forward": seconds["forward"],
        "cross-entropy": seconds["loss"],
        "backward": seconds["gradient"] - seconds["forward"] - seconds["loss"],
        "optimiser and bookkeeping": seconds["chunk"] - seconds["gradient"],
        "host": seconds["pool"] - seconds["chunk"],
        "whole": seconds["pool"],
    }
    for part, values in found.items():
        yield entry(f"{name}: seconds a step, {part}", spread(values.tolist()))


def parts(
    lm: LanguageModel, cfg: memcomp.CramConfig, tokens: np.ndarray, score: str
) -> dict[str, Side]:
    """Measurements of the parts of a step, each in a loop, in steps per second.

    `score` is "loss" or "margin", and says which score of a token is differentiated.
    The next input of a part is the last one plus a little of its result, so that the
    compiler cannot move work out of the loop.
    """
    params, little = lm.params, 1e-6
    options: dict[str, Any] = {
        "module": lm.module,
        "vocab_chunk": cfg.vocab_chunk,
        "token_chunk": cfg.token_chunk,
        "loss_gradient": score == "loss",
    }
    (B, T), D = tokens.shape, lm.config.d_model
    rng = np.random.default_rng(0)
    memory = jnp.asarray(rng.standard_normal((B, 1, D)), jnp.float32)
    hidden = jnp.asarray(rng.standard_normal((B, T, D)), lm.dtype)

    def forward(memory, tokens, params):
        read = embed(params, tokens[None, :-1], module=lm.module)[0]
        x = jnp.concatenate([memory.astype(read.dtype), read])
        final = hidden_states(params, x[None], module=lm.module)
        return memory + little * final.mean(axis=1)

    def loss(hidden, tokens, params):
        return getattr(score_hidden(params, hidden, tokens, **options), score).mean()

    def whole(memory, tokens, params):
        return getattr(memory_scores(memory, tokens, params, **options), score).mean()

    def down(function):
        return lambda x, *rest: x - little * jax.grad(function)(x, *rest)

    def side(function: Callable[..., jax.Array], start: jax.Array) -> Side:
        step = jax.vmap(function, in_axes=(0, 0, None))

        @jax.jit
        def program(start, tokens, params):
            def body(x, _):
                return step(x, tokens, params).astype(x.dtype), None

            return jax.lax.scan(body, start, length=cfg.steps_per_chunk)[0]

        return timed(lambda: program(start, tokens, params), cfg.steps_per_chunk)

    return {
        "forward": side(forward, memory),
        "loss": side(down(loss), hidden),
        "gradient": side(down(whole), memory),
    }


def loops(
    lm: LanguageModel, cfg: memcomp.CramConfig, tokens: np.ndarray
) -> dict[str, Side]:
    """Measurements of the loop on the device, and of its pool, in steps per second."""
    B, T = tokens.shape
    ids, lengths = np.arange(B, dtype=np.int32), np.full(B, T, np.int32)
    states = init_states(ids, lm.params, module=lm.module, cfg=cfg)
    pool = Pool(lm, [Text(i, "random", row) for i, row in enumerate(tokens)], cfg)

    def chunk() -> Any:
        nonlocal states
        states, metrics = cram_chunk(
            states, tokens, lengths, lm.params, module=lm.module, cfg=cfg
        )
        return states, metrics

    sides = {"chunk": chunk, "pool": pool.advance}
    return {name: timed(run, cfg.steps_per_chunk) for name, run in sides.items()}


def long_text(module: CausalLM, section: Config, name: str) -> Iterator[Record]:
    """Compares the memory of a step on one long text by attention and remat.

    The compiler reports it; nothing is run.
    """
    held = {}
    for attention, remat in section.ways:
        config = dataclasses.replace(module.config, attention=attention, remat=remat)
        held[attention, remat] = step_bytes(module.clone(config=config), section)
    first = tuple(section.ways[0])
    for way, found in held.items():
        ratio = held[first]["temp_bytes"] / found["temp_bytes"]
        what = f"{name}: bytes {', '.join(first)} / {', '.join(way)}"
        yield entry(what, spread([ratio]), bytes=found, num_tokens=section.num_tokens)


def step_bytes(module: CausalLM, section: Config) -> dict[str, float]:
    """Memory of one step of the loop in bytes; no weights are made."""
    cfg = memcomp.CramConfig(
        num_tokens=section.num_tokens,
        num_memory=section.num_memory,
        batch_size=section.num_texts,
        steps_per_chunk=1,
        vocab_chunk=section.vocab_chunk,
    )
    params = shapes_of(abstract_params(module), DTYPES[section.dtype])
    texts = jax.ShapeDtypeStruct((section.num_texts,), jnp.int32)
    shape = (section.num_texts, section.num_tokens)
    tokens = jax.ShapeDtypeStruct(shape, jnp.int32)
    states = jax.eval_shape(
        lambda ids, params: init_states(ids, params, module=module, cfg=cfg), texts, params
    )
    lowered = lower_cram_chunk(states, tokens, texts, params, module=module, cfg=cfg)
    return compiled(lowered)[1]
