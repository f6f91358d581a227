"""Timing of benchmark.py: sides take turns, and ratios are of consecutive runs."""

import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from memcomp.runs.files import Record

# Required medians on two CPU cores; a "share" is that of the machine's matmul rate.
REQUIRED = {
    "builtin: ours / PyTorch, one text at a time": 4.0,
    "builtin: ours / PyTorch, batched": 1.1,
    "pythia_160m: ours / PyTorch, one text at a time": 1.6,
    "pythia_160m: share of the matmul rate": 0.65,
    "to_exact: PyTorch with reference / ours": 10.0,
    "grid: PyTorch with reference / ours": 10.0,
    "decoding: one_step / vectors": 10.0,
    "mamba_130m: ours / PyTorch, gradient": 3.0,
}

Side = Callable[[], float]  # runs a piece of work and returns its rate; more is better


def rates(sides: dict[str, Side], rounds: int) -> dict[str, list[float]]:
    """Measures the rate of each side in each round; every round reverses the order."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(rounds):
        for name in sorted(sides, reverse=bool(i % 2)):
            found[name].append(sides[name]())
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Smallest, median and largest value."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def over(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Spread of the ratios of each round."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def timed(run: Callable[[], Any], work: float = 1.0) -> Side:
    """Returns a measurement of `work` per second of a call, until its result is ready."""

    def rate() -> float:
        begin = time.perf_counter()
        jax.block_until_ready(run())
        return work / (time.perf_counter() - begin)

    return rate


def compiled(lowered: Any) -> tuple[Any, dict[str, float]]:
    """Compiles a program; returns it, with the seconds that it took and its memory."""
    begin = time.perf_counter()
    program = lowered.compile()
    return program, {"compile_seconds": time.perf_counter() - begin, **held(program)}


def held(program: Any) -> dict[str, int]:
    """Memory that a compiled program needs, in bytes, as the compiler reports it."""
    memory = program.memory_analysis()
    return {
        "temp_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
    }


def matmul_side(shape: Sequence[int], dtype: Any, seconds: float = 0.5) -> Side:
    """Returns a measurement of the FLOP/s of one large matrix product."""
    rows, inner, columns = shape
    a, b = jnp.ones((rows, inner), dtype), jnp.ones((inner, columns), dtype)
    product = jax.jit(jnp.matmul)

    def run() -> float:
        jax.block_until_ready(product(a, b))
        done, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            jax.block_until_ready([product(a, b) for _ in range(4)])
            done += 4
        return done * 2 * rows * inner * columns / (time.perf_counter() - begin)

    return run


def entry(what: str, figure: dict[str, float], **more: Any) -> Record:
    """Makes the record of one measurement."""
    return {"what": what, "required": REQUIRED.get(what), **figure, **more}


def has_pytorch() -> bool:
    """Whether PyTorch is installed and uses the same kind of device as JAX."""
    if importlib.util.find_spec("torch") is None:
        return False
    torch = importlib.import_module("torch")
    return torch.cuda.is_available() == (jax.default_backend() == "gpu")
