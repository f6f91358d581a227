"""Measures the host memory of loading a checkpoint of the shape of Llama-3.1-8B.

  python experiments/loading.py [--layers=16] [--devices=8] [--dtype=bfloat16]
      [--folder=DIR]

It writes random weights in bfloat16 file by file: 1 GB and 0.4 GB per layer, which are
removed afterwards if no folder is named. Another process then loads them, sharded over all
devices, and prints a JSON line. CPU devices keep the model in host memory too;
"transient_bytes" is the memory that loading takes in addition. The time is that of the disk
and of SHA-256.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

import numpy as np
from absl import app, flags

LAYERS = flags.DEFINE_integer("layers", 16, "Layers; 32 are the whole model.")
DEVICES = flags.DEFINE_integer("devices", 8, "CPU devices, where there is no other.")
DTYPE = flags.DEFINE_string("dtype", "bfloat16", "What the weights are loaded as.")
FOLDER = flags.DEFINE_string("folder", None, "Where the checkpoint is, or is kept.")
LOAD = flags.DEFINE_bool("load", False, "Only load, as the second process does.")


def main(argv) -> None:
    """Writes the checkpoint if it is not there, and measures in a new process."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    if LOAD.value:
        return print(json.dumps(load(pathlib.Path(FOLDER.value or ""), DTYPE.value)))
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(os.path.expanduser(FOLDER.value or scratch))
        if not (folder / "config.json").is_file():
            write(folder, LAYERS.value)
        devices = f"--xla_force_host_platform_device_count={DEVICES.value}"
        # With a fixed threshold, glibc returns the memory of freed tensors at once.
        env = {"XLA_FLAGS": devices, "MALLOC_MMAP_THRESHOLD_": "65536"}
        command = [sys.executable, __file__, "--load", f"--folder={folder}"]
        command.append(f"--dtype={DTYPE.value}")
        subprocess.run(command, check=True, env={**os.environ, **env})


def write(folder: pathlib.Path, num_layers: int) -> None:
    """Writes a checkpoint of random weights below 2 in absolute value, a file per layer."""
    import ml_dtypes
    import safetensors.numpy

    from memcomp.convert import engine, llama
    from memcomp.models.llama import LlamaConfig
    from memcomp.nn.rotary import Rotary

    config = LlamaConfig(
        vocab_size=128_256,
        num_layers=num_layers,
        d_model=4096,
        d_mlp=14_336,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        max_positions=131_072,
        rotary=Rotary(128, 500_000.0, "llama3", 8.0, 1.0, 4.0, 8192),
    )
    family, sizes = llama.FAMILY, engine.sizes_of(config)
    rng = np.random.default_rng(0)
    index = {}
    rows = [row for row in family.table if not row.hf.endswith("bias")]
    for i in range(-1, num_layers):
        of_shard = {r.hf.format(i=i): r for r in rows if r.stacked == (i >= 0)}
        tensors = {}
        for name, row in of_shard.items():
            shape = row.hf_shape(sizes)
            bits = np.frombuffer(rng.bytes(2 * int(np.prod(shape))), np.uint16)
            # A number without the first bit of the exponent is finite and below 2.
            tensors[name] = (bits & 0xBFFF).view(ml_dtypes.bfloat16).reshape(shape)
        shard = f"model-{i + 2:05}-of-{num_layers + 1:05}.safetensors"
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.numpy.save_file(tensors, folder / shard)
        index |= dict.fromkeys(tensors, shard)
    entries = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(entries)
    (folder / "config.json").write_text(json.dumps(family.config_to_hf(config)))


def load(folder: pathlib.Path, dtype: str) -> dict[str, Any]:
    """Loads weights sharded over all devices; returns time and memory."""
    import jax

    import memcomp
    from memcomp.sharding import make_mesh

    memcomp.load_lm("builtin")  # so that imports and JAX's first use are not counted
    mesh = make_mesh(fsdp=-1)
    before, start = anonymous(), time.perf_counter()
    with Peak() as peak:
        lm = memcomp.load_lm(str(folder), dtype=dtype, mesh=mesh)
        jax.block_until_ready(lm.params)
    seconds = time.perf_counter() - start
    leaves = jax.tree.leaves(lm.params)
    return {
        "layers": lm.config.num_layers,
        "dtype": dtype,
        "devices": len(jax.devices()),
        "model_bytes": sum(leaf.nbytes for leaf in leaves),
        "largest_weight_bytes": max(leaf.nbytes for leaf in leaves),
        "largest_tensor_bytes": max(
            leaf.nbytes // (lm.config.num_layers if path[0].key == "layers" else 1)
            for path, leaf in jax.tree_util.tree_leaves_with_path(lm.params)
        ),
        "peak_bytes": peak.bytes - before,
        "transient_bytes": peak.bytes - anonymous(),
        "seconds": round(seconds, 1),
    }


def anonymous() -> int:
    """Anonymous memory of this process in bytes: without pages of files."""
    status = pathlib.Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


class Peak:
    """Context that records the largest value of `anonymous`, every millisecond."""

    def __enter__(self):
        self.bytes, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._stop.wait(0.001):
            self.bytes = max(self.bytes, anonymous())

    def __exit__(self, *error):
        self._stop.set()
        self._thread.join()


if __name__ == "__main__":
    app.run(main)
