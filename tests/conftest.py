"""Eight fake CPU devices, no network, errors that rank promotion and typos would hide."""

import gc
import importlib.metadata
import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
# Optimisation level 0: the models are tiny, and most of the time goes to compiling them.
# Real ones take twice the time with it.
if "MEMCOMP_REAL_LMS" not in os.environ:
    os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"
    release = importlib.metadata.version("jaxlib")
    # Compiling takes a third of the time without these emitters. Later releases have no
    # others, and refuse the flag.
    if release.startswith("0.10."):
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ["HF_HUB_OFFLINE"] = "1"
# Scripts would keep compiled programs in the user's cache folder.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
# JAX keeps many objects alive, which the default thresholds walk through again and again:
# measured, a tenth of the time.
gc.set_threshold(50_000, 20, 100)

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

# memcomp is imported by the fixtures, not here: shape annotations are checked only in
# what is imported after pytest has started.


def pytest_configure(config):
    """Has XLA compile a program in one part, and not in 32 for as many threads.

    For small programs that takes two thirds of the CPU time. It also moves roundings, by
    which errors against PyTorch were measured before: with it, one value of
    `smollm3_mlp_bias` has an error of 7.1e-5 where at most 7e-5 is allowed.
    """
    if "MEMCOMP_REAL_LMS" in os.environ or config.option.markexpr == "parity":
        return
    # Other releases may not know the flag, and abort.
    if importlib.metadata.version("jaxlib").startswith(("0.10.", "0.12.")):
        os.environ["XLA_FLAGS"] += " --xla_cpu_parallel_codegen_split_count=1"


@pytest.fixture(scope="session")
def tiny_lm():
    """A random LM of two layers with large weights; no tokenizer, no file."""
    from tiny_lm import make_tiny_lm

    return make_tiny_lm("float32")


@pytest.fixture()
def tiny_lm_float64():
    """The same in float64, where two right loops agree to many digits."""
    from tiny_lm import make_tiny_lm

    with jax.enable_x64(True):
        yield make_tiny_lm("float64")


@pytest.fixture()
def bucket(monkeypatch):
    """gs://bucket in memory, empty; the dictionary of what is in it."""
    from etils.epath import backend
    from object_store import Bucket

    files = Bucket()
    files.store.clear()
    monkeypatch.setattr(backend.fsspec_backend, "_get_filesystem", lambda name: files)
    return files.store
