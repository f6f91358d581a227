"""Rows of benchmark.py: speed of a step and of its gradient, ours and PyTorch's."""

import functools
import importlib
import importlib.metadata
import os
import pathlib
import platform
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from launch import Config

import memcomp
from memcomp.cram.loop import lower_cram_chunk
from memcomp.cram.state import init_states
from memcomp.lm.load import DTYPES
from memcomp.lm.protocol import LanguageModel
from memcomp.runs.files import Record

from . import input_gradient
from .random_models import random_folder, random_module
from .step_memory import measure
from .step_parts import ENDLESS, long_text
from .timing import (
    Side,
    compiled,
    entry,
    has_pytorch,
    held,
    matmul_side,
    over,
    rates,
    spread,
    timed,
)


def about() -> dict[str, Any]:
    """Returns versions, machine and command, for the record."""
    names = ("memcomp", "jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers")
    found = {d.name for d in importlib.metadata.distributions()}
    return {
        "versions": {n: importlib.metadata.version(n) for n in names if n in found},
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "command": " ".join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def speed(name: str, config: Config, scratch: pathlib.Path) -> Iterator[Record]:
    """Measures token-steps per second of ours and PyTorch, and our share of a matmul."""
    section = config[name]
    folder = section.get("lm") or random_folder(section, scratch / name)
    lm = memcomp.load_lm(str(folder), dtype=section.dtype)
    rng = np.random.default_rng(config.seed)
    shape = (section.num_texts, section.num_tokens)
    tokens = rng.integers(lm.config.vocab_size, size=shape, dtype=np.int32)
    ours, more = our_side(lm, tokens, section.steps)
    sides = {"ours": ours, "matmul": matmul_side(section.matmul, lm.dtype)}
    if config.pytorch and has_pytorch():
        path = str(memcomp.lm.load.BUILTIN) if lm.name == "builtin" else lm.name
        theirs, more["pytorch_attention"] = pytorch_sides(path, section, tokens)
        sides |= theirs
    rates(sides, 1)
    found = rates(sides, config.rounds)
    work = token_flops(lm, section.num_tokens)
    common = {
        "unit": "token-steps per second",
        "rates": {side: spread(values) for side, values in found.items()},
        "matmul_flops_per_token_step": work,
        **more,
    }
    for side, label in (("one", "one text at a time"), ("batched", "batched")):
        if side in found:
            ratio = over(found["ours"], found[side])
            yield entry(f"{name}: ours / PyTorch, {label}", ratio, **common)
    share = over([work * rate for rate in found["ours"]], found["matmul"])
    yield entry(f"{name}: share of the matmul rate", share, **common)


def our_side(
    lm: LanguageModel, tokens: np.ndarray, steps: int
) -> tuple[Side, dict[str, Any]]:
    """Our loop over all texts at once, with compile time and memory of its program."""
    num_texts, num_tokens = tokens.shape
    cfg = memcomp.CramConfig(
        num_tokens=num_tokens,
        recipe=ENDLESS,
        batch_size=num_texts,
        steps_per_chunk=steps,
    )
    ids = np.arange(num_texts, dtype=np.int32)
    lengths = np.full(num_texts, num_tokens, np.int32)
    states = init_states(ids, lm.params, module=lm.module, cfg=cfg)
    program, cost = compiled(
        lower_cram_chunk(states, tokens, lengths, lm.params, module=lm.module, cfg=cfg)
    )

    def run() -> Any:
        nonlocal states
        states, _ = program(states, tokens, lengths, lm.params, cfg.numbers())
        return states

    return timed(run, tokens.size * steps), cost


def pytorch_sides(
    folder: str, section: Config, tokens: np.ndarray
) -> tuple[dict[str, Side], str]:
    """PyTorch's loop over one text and over all at once, and the attention that it uses."""
    loops = importlib.import_module("benchmarks.torch_cramming")
    model, attention = loops.fastest(folder, section.dtype, tokens, section.one_steps)

    def run(texts: np.ndarray, steps: int) -> float:
        return texts.size * steps / loops.run_steps(model, texts, steps)

    one = functools.partial(run, tokens[:1], section.one_steps)
    return {"one": one, "batched": functools.partial(run, tokens, section.steps)}, attention


def token_flops(lm: LanguageModel, num_tokens: int) -> float:
    """FLOPs of the matrix products of one step, per token, with one memory vector per text.

    Forward: 2 for each entry of each kernel, 2 V D for the logits, and in each layer
    4 T N H for the two products of attention, over all T keys. Backward to the activations:
    the same again for kernels and unembedding, whose own gradients are not needed, and
    twice that for attention, in which both factors are activations.
    """
    cfg = lm.config
    leaves = jax.tree_util.tree_leaves_with_path(lm.params)
    kernels = sum(
        leaf.size for path, leaf in leaves if "kernel" in jax.tree_util.keystr(path)
    )
    attention = cfg.num_layers * num_tokens * cfg.num_heads * cfg.head_dim
    return 4 * (kernels + cfg.vocab_size * cfg.d_model) + 12 * attention


def cross_entropy(name: str, config: Config, scratch: pathlib.Path) -> Iterator[Record]:
    """Compares the memory of one gradient with the loss in chunks and in one piece."""
    section = config[name]
    module = random_module(section, remat="full")
    sizes = section.num_texts, section.num_tokens, section.vocab_chunk
    found = list(measure(module, DTYPES[section.dtype], *sizes))
    for part in ("step", "alone"):
        for other in found[1:]:
            ratio = other[part]["temp_bytes"] / found[0][part]["temp_bytes"]
            what = f"cross_entropy: bytes {other['loss']} / in chunks, {part}"
            both = {"in chunks": found[0][part], other["loss"]: other[part]}
            yield entry(what, spread([ratio]), bytes=both)


def long_texts(name: str, config: Config, scratch: pathlib.Path) -> Iterator[Record]:
    """Compares the memory of a step on one long text, by attention and remat."""
    yield from long_text(random_module(config[name]), config[name], name)


def gradient(name: str, config: Config, scratch: pathlib.Path) -> Iterator[Record]:
    """Measures gradients of a text's loss to its input vectors, ours and PyTorch's."""
    section = config[name]
    folder = random_folder(section, scratch / name)
    lm = memcomp.load_lm(str(folder), dtype=section.dtype)
    rng = np.random.default_rng(config.seed)
    T, V, D = section.num_tokens, lm.config.vocab_size, lm.config.d_model
    inputs = (
        rng.standard_normal((T, D)).astype(np.float32),
        rng.integers(V, size=T, dtype=np.int32),
    )
    programs = input_gradient.our_programs(lm, *inputs)
    ours = input_gradient.our_sides(programs, section.steps)
    sides = {f"ours, {part}": side for part, side in ours.items()}
    if config.pytorch and has_pytorch():
        model = importlib.import_module("benchmarks.torch_cramming").load(
            str(folder), section.dtype, "eager"
        )
        theirs = input_gradient.pytorch_sides(model, *inputs)
        sides |= {f"PyTorch, {part}": side for part, side in theirs.items()}
    found = rates(sides, section.rounds)
    seconds = {side: spread([1 / r for r in values]) for side, values in found.items()}
    for part, (program, _) in programs.items():
        what, figure = f"{name}: seconds, ours, {part}", seconds[f"ours, {part}"]
        if f"PyTorch, {part}" in found:
            what = f"{name}: ours / PyTorch, {part}"
            figure = over(found[f"ours, {part}"], found[f"PyTorch, {part}"])
        yield entry(what, figure, seconds=seconds, **held(program))
