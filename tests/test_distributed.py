"""When a process joins others; what they do together is in tests/experiments."""

import jax
import pytest

from memcomp import distributed
from memcomp.errors import InputError

CLUSTER = ("SLURM_NTASKS", "KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX")


@pytest.fixture()
def joined(monkeypatch):
    """The arguments with which JAX was asked to join others."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: calls.append(a))
    for name in (*CLUSTER, "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    return calls


@pytest.mark.parametrize(
    "environment, asks",
    [
        ({}, True),  # JAX looks for a cluster itself
        ({"SLURM_NTASKS": "16"}, True),
        ({"SLURM_NTASKS": "1"}, False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "TPU_WORKER_HOSTNAMES": "a,b"}, True),
    ],
)
def test_jax_is_asked_where_there_may_be_others(joined, monkeypatch, environment, asks):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    distributed.initialize()
    assert joined == ([(None, None, None)] if asks else [])


def test_what_is_given_comes_before_what_is_found(joined, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "1")
    distributed.initialize("localhost:1234", 2, 0)
    assert joined == [("localhost:1234", 2, 0)]


def test_no_cluster_is_one_process(monkeypatch):
    """What JAX says of it, in this version: the real call."""
    for name in CLUSTER:
        monkeypatch.delenv(name, raising=False)
    # So that it gets to look, although this process has used its devices.
    bridge = "jax._src.distributed.xla_bridge.backends_are_initialized"
    monkeypatch.setattr(bridge, lambda: False)
    distributed.initialize()
    assert not jax.distributed.is_initialized()


@pytest.mark.parametrize(
    "given", [("localhost:1", None, None), (None, 2, 0), ("localhost:1", 2, None)]
)
def test_half_of_a_job_is_refused(joined, given):
    with pytest.raises(InputError, match="give all three, or none"):
        distributed.initialize(*given)
    assert not joined


def test_others_that_are_not_there_are_an_error(joined, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("DEADLINE_EXCEEDED: barrier timed out")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(InputError, match="did not come together .*DEADLINE_EXCEEDED"):
        distributed.initialize("localhost:1234", 2, 0)


def test_one_process_gathers_what_it_gives():
    assert distributed.gather(b"abc") == [b"abc"]
    assert distributed.from_first(b"abc") == b"abc"
    assert distributed.anywhere(True) and not distributed.anywhere(False)


@pytest.mark.parametrize(
    "said, lost",
    [
        ("UNKNOWN: Gloo AllGather failed: [pair.cc:538] Read error: reset by peer", True),
        ("Gloo AllGather failed: [enforce fail at pair.cc:446] 32 vs 16", False),
        ("index 3 is out of bounds", False),
    ],
)
def test_only_what_gloo_says_of_a_connection_is_a_lost_process(monkeypatch, said, lost):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    assert distributed.is_lost(ValueError(said)) is lost
