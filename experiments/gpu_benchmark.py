"""Cramming and IC-Former on one GPU beside PyTorch: speed, share of a matmul, memory.

  python experiments/gpu_benchmark.py [--config configs/gpu_benchmark.py]
      [--config.x.y=value] [--workdir DIR]

Ours and PyTorch's part run one after the other, in a process each. The record of each row
is in results.jsonl when it is done; the same command goes on with what is not there.
Nothing is begun where a part that has rows finds no GPU.
"""

import dataclasses
import functools
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from benchmark import about, held, our_side, token_flops
from compression_cost import random_weights
from etils import epath
from launch import Config, launch
from ml_collections import config_dict
from timing import matmul_side, spread

from memcomp.compressors import layout, training
from memcomp.compressors.chunks import Chunks
from memcomp.compressors.icformer.config import ICFormerConfig
from memcomp.compressors.icformer.model import ICFormer
from memcomp.compressors.objectives import Batch, Task
from memcomp.disk import path_of
from memcomp.errors import InputError
from memcomp.lm.load import DTYPES, FAMILIES, abstract_params
from memcomp.lm.protocol import CausalLM, LanguageModel
from memcomp.nn.attention import attend, causal_mask, scaled
from memcomp.nn.flash import kernel_of, resolve_attention
from memcomp.runs.files import RECORDS, Record, append_records, claim_workdir, read_records
from memcomp.sharding import make_mesh

PARTS = ("ours", "pytorch")
# JAX takes most of the memory at once in its own part, and none in the other.
ENVIRONMENT = {
    "ours": {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"},
    "pytorch": {"JAX_PLATFORMS": "cpu"},
}
PART = flags.DEFINE_enum("part", None, PARTS, "Measure here, as the processes do.")
CHECK = flags.DEFINE_bool("check", False, "Of a part: only see that it has a GPU.")


def main(config: Config, workdir: str | None) -> None:
    """Starts a process for each part and prints what they found; or is one of them."""
    folder = path_of(workdir or "runs/gpu_benchmark")
    if PART.value is not None:
        check_gpu(PART.value, config)
        return None if CHECK.value else measure(PART.value, config, folder / RECORDS)
    jax.config.update("jax_platforms", "cpu")  # the GPU's memory is the parts' own
    names = config.rows.split(",")
    if unknown := [name for name in names if name not in config.row]:
        raise InputError(f"no rows {', '.join(unknown)}; there are {', '.join(config.row)}")
    parts = [part for part in PARTS if rows_of(part, config)]
    for part in parts:  # before anything is written
        if status := run_part(part, folder, "--check"):
            sys.exit(status)  # it has said why
    folder = claim_workdir(folder, config.to_dict(), {})  # its devices are the parts' own
    for part in parts:
        run_part(part, folder)
    print(table(read_records(folder / RECORDS), config.ratios))


def run_part(part: str, folder: epath.Path, *more: str) -> int:
    """Exit status of this command as the process of a part."""
    extra = [f"--part={part}", f"--workdir={folder}", *more]
    command = [sys.executable, __file__, *sys.argv[1:], *extra]
    environment = os.environ | ENVIRONMENT[part]
    return subprocess.run(command, env=environment, check=False).returncode


def check_gpu(part: str, config: Config) -> None:
    """Raises `InputError` where a part has no GPU to measure."""
    if part == "ours":
        if jax.default_backend() != "gpu":
            raise InputError(
                f"JAX finds no GPU here, only a {jax.default_backend()}, and the rows are "
                "of full size; install 'memcomp[cuda]' on a machine with an NVIDIA GPU, or "
                "measure on this one with experiments/benchmark.py"
            )
    elif not (find_spec("torch") and importlib.import_module("torch").cuda.is_available()):
        ours = ",".join(rows_of("ours", config))
        raise InputError(
            "no torch here finds a GPU, which the rows of PyTorch need; install torch with "
            "CUDA" + (f", or leave them out with --config.rows={ours}" if ours else "")
        )


def rows_of(part: str, config: Config) -> list[str]:
    """The chosen rows that a part measures, in their order."""
    names = config.rows.split(",")
    return [name for name in names if part_of(config.row[name]) == part]


def part_of(row: Config) -> str:
    """The part that measures a row."""
    return "pytorch" if row.kind == "pytorch" else "ours"


def measure(part: str, config: Config, file: epath.Path) -> None:
    """The rows of a part that have no record yet, until its time is over."""
    end = time.monotonic() + config.seconds[part]
    done = {record["row"] for record in read_records(file)}
    matmul = max(MATMULS[part](config)() for _ in range(config.rounds))
    for name in rows_of(part, config):
        if name in done:
            continue
        if time.monotonic() > end:
            print(f"{name}: no time left for it", file=sys.stderr, flush=True)
            continue
        begin = time.monotonic()
        record = with_room(KINDS[config.row[name].kind], config, config.row[name])
        if "flops" in record:
            record["share"] = record["flops"] * record["rate"]["median"] / matmul
        spent = {"matmul_flops_per_second": matmul, "row_seconds": time.monotonic() - begin}
        append_records(file, [{"row": name, **record, **spent, **about()}])
        print(f"{name}: {said(record)}", file=sys.stderr, flush=True)


def with_room(kind: Callable[..., Record], config: Config, row: Config) -> Record:
    """The record of a row, with half the texts as often as memory is too small."""
    entries = row.to_dict()
    while True:
        try:
            return {**entries, **kind(config, config_dict.ConfigDict(entries))}
        except Exception as error:  # a row that fails leaves its record, and the others
            full = any(s in str(error) for s in ("RESOURCE_EXHAUSTED", "out of memory"))
            if not full or entries["num_texts"] == 1:
                return {**entries, "error": f"{type(error).__name__}: {error}"[:2000]}
        entries["num_texts"] //= 2


@functools.lru_cache(maxsize=1)
def random_params(module: CausalLM, dtype: Any) -> Any:
    """Weights of the last shape, which the next row may have too."""
    return random_weights(abstract_params(module), dtype)


def random_lm(config: Config, row: Config) -> LanguageModel:
    """A language model with random weights of the row's shape."""
    entries, dtype = config.shapes[row.shape].to_dict(), DTYPES[config.dtype]
    family = FAMILIES[entries["model_type"]]
    import transformers  # late: without torch it says so, on a line of its own

    plain = family.config_from_hf(transformers.AutoConfig.for_model(**entries))
    attention = resolve_attention(row.attention, jax.devices()[0].platform, dtype)
    lm_config = dataclasses.replace(plain, remat=row.remat, attention=attention)
    params = random_params(family.model(plain), dtype)
    module = family.model(lm_config)
    return LanguageModel(row.shape, module, lm_config, params, None, dtype, "random")


def cram(config: Config, row: Config) -> Record:
    """Token-steps per second of the cramming loop."""
    lm = random_lm(config, row)
    rng = np.random.default_rng(config.seed)
    shape = (row.num_texts, row.num_tokens)
    tokens = rng.integers(lm.config.vocab_size, size=shape, dtype=np.int32)
    side, cost = our_side(lm, tokens, row.steps)
    side()
    rate = spread([side() for _ in range(config.rounds)])
    return {"rate": rate, "flops": token_flops(lm, row.num_tokens), **cost, **peak()}


def icformer(config: Config, row: Config) -> Record:
    """Context tokens per second of IC-Former's training step: autoencoding.

    Of the operations only the LM's own products are counted, forward and back to its input
    vectors; IC-Former's are a few per cent of them.
    """
    lm, M = random_lm(config, row), config.num_digests
    task = Task(lm.module, ICFormer(lm.module, ICFormerConfig(num_digests=M)))
    cfg = training.TrainConfig(1, row.num_texts, dtype=config.dtype)
    mesh = make_mesh(devices=jax.devices()[:1])
    batch = autoencoding(config.seed, row, lm.config.vocab_size, M)
    step = training.jit_train_step(task, cfg, mesh)
    with jax.set_mesh(mesh):
        state = training.init_state(config.seed, task, cfg, mesh)
        begin = time.perf_counter()
        program = step.lower(state, lm.params, batch).compile()
        cost = {"compile_seconds": time.perf_counter() - begin, **held(program)}
        found = []
        for _ in range(config.rounds + 1):
            begin = time.perf_counter()
            for _ in range(row.steps):
                state, _ = program(state, lm.params, batch)
            jax.block_until_ready(state)
            tokens = row.num_texts * row.num_tokens * row.steps
            found.append(tokens / (time.perf_counter() - begin))
    read = M + 1 + row.num_tokens
    flops = token_flops(lm, read) * read / row.num_tokens
    return {"rate": spread(found[1:]), "flops": flops, **cost, **peak()}


def autoencoding(seed: int, row: Config, vocab_size: int, num_digests: int) -> Batch:
    """Random contexts, each a chunk, to be said again; one micro-batch."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(vocab_size, size=(row.num_texts, row.num_tokens), dtype=np.int32)
    rows = [layout.autoencoding_row(text, num_digests, None) for text in tokens]
    lengths = np.full((row.num_texts, 1), row.num_tokens, np.int32)
    batch = Batch(Chunks(tokens[:, None], lengths), layout.stack_rows(rows))
    return jax.tree.map(lambda x: jnp.asarray(x)[None], batch)


def attention(config: Config, row: Config) -> Record:
    """Error of the kernel's heads and gradients, and its seconds beside the weights'."""
    shape = config.shapes[row.shape]
    N, K = shape.num_attention_heads, shape.get("num_key_value_heads") or 0
    H, K = shape.get("head_dim") or shape.hidden_size // N, K or N
    keys = jax.random.split(jax.random.key(config.seed), 4)
    sizes = [(row.num_texts, row.num_tokens, heads, H) for heads in (N, K, K, N)]
    wide = [jax.random.normal(k, size) for k, size in zip(keys, sizes, strict=True)]
    short = [x.astype(DTYPES[config.dtype]) for x in wide]
    mask = causal_mask(jnp.arange(row.num_tokens), row.num_tokens)
    kernel = kernel_of(row.attention, [None], 0, row.num_tokens)
    assert kernel is not None

    def pulled(heads):
        def run(q, k, v, push):
            out, pull = jax.vjp(heads, q, k, v)
            return out, *pull(push)

        return jax.jit(run)

    plain = pulled(lambda q, k, v: attend(q, k, v, mask))
    fast = pulled(lambda q, k, v: kernel(scaled(q, None), k, v, None))
    want = plain(*(x.astype(jnp.float32) for x in short))
    pairs = zip(("heads", "q", "k", "v"), fast(*short), want, strict=True)
    errors = {n: float(jnp.abs(a - b).max() / jnp.abs(b).max()) for n, a, b in pairs}
    return {
        "errors": errors,
        "seconds": seconds(config, row, fast, short),
        "plain_seconds": seconds(config, row, plain, short),
    }


def seconds(config, row, program, arguments) -> dict[str, float]:
    """Seconds of one call."""
    found = []
    for _ in range(config.rounds + 1):
        begin = time.perf_counter()
        for _ in range(row.steps):
            out = program(*arguments)
        jax.block_until_ready(out)
        found.append((time.perf_counter() - begin) / row.steps)
    return spread(found[1:])


def pytorch(config: Config, row: Config) -> Record:
    """Token-steps per second of PyTorch's loop; the first steps compile and are not it."""
    loops = importlib.import_module("torch_cramming")
    entries = config.shapes[row.shape].to_dict()
    model = loops.random_model(entries, config.dtype, row.attention, row.compiled)
    rng = np.random.default_rng(config.seed)
    shape = (row.num_texts, row.num_tokens)
    tokens = rng.integers(entries["vocab_size"], size=shape)
    first = loops.run_steps(model, tokens, 2)
    work = tokens.size * row.steps
    found = [work / loops.run_steps(model, tokens, row.steps) for _ in range(config.rounds)]
    cost = {"first_steps_seconds": first, **loops.peak()}
    return {"rate": spread(found), **cost}


def peak() -> dict[str, int]:
    """Most bytes that the device has held in this process, where it says so."""
    found = jax.devices()[0].memory_stats() or {}
    return {k: found[k] for k in ("peak_bytes_in_use", "bytes_limit") if k in found}


def our_matmul(config: Config) -> Callable[[], float]:
    """The device's own rate, by JAX."""
    return matmul_side(config.matmul, DTYPES[config.dtype])


def torch_matmul(config: Config) -> Callable[[], float]:
    """The same by PyTorch."""
    rate = importlib.import_module("torch_cramming").matmul_rate
    return functools.partial(rate, config.matmul, config.dtype)


def said(record: Record) -> str:
    """A record in a few words."""
    if "error" in record:
        return record["error"].splitlines()[0][:200]
    if "errors" in record:
        worst = max(record["errors"].values())
        times = record["plain_seconds"]["median"] / record["seconds"]["median"]
        return f"largest relative error {worst:.2g}, {times:.2f} times as fast as plain"
    share = f", {record['share']:.1%} of the matmul rate" if "share" in record else ""
    return f"{record['num_texts']} texts, {record['rate']['median']:,.0f} tokens/s{share}"


def table(records: list[Record], ratios: Config) -> str:
    """A line a row, and a line for each of the config's ratios that has both its rows."""
    by_row = {record["row"]: record for record in records}
    lines = [f"{name}: {said(record)}" for name, record in by_row.items()]
    for ratio in ratios.values():
        above = by_row.get(ratio.above, {})
        if ratio.below == "matmul":
            figure = above.get("share")
        else:
            rate, other = above.get("rate"), by_row.get(ratio.below, {}).get("rate")
            figure = rate["median"] / other["median"] if rate and other else None
        found = "not measured" if figure is None else f"{figure:.3g}"
        lines.append(f"{ratio.what}: {found} (wanted {ratio.required:g})")
    return "\n".join(lines)


MATMULS = {"ours": our_matmul, "pytorch": torch_matmul}
KINDS: dict[str, Callable[[Any, Any], Record]] = {
    "attention": attention,
    "cram": cram,
    "icformer": icformer,
    "pytorch": pytorch,
}


if __name__ == "__main__":
    launch(main, "gpu_benchmark.py")
