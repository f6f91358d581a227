"""Several processes that run one program: found, brought together, and ended together.

All run the same host code on the same inputs; what they cannot know alike, such as what
is on a disk, goes through `gather`. If one is lost, the others end too, for a program
over the devices of all cannot go on without it: the job is started again.
"""

import ctypes
import os
import signal

import jax
import numpy as np
from jax.experimental import multihost_utils

from memcomp.errors import InputError

EX_TEMPFAIL = 75  # of sysexits.h: the same command, started again, goes on
HEARTBEAT_SECONDS = 60  # without a sign from a process, after which it counts as lost
LOST = (
    "another process of this run is gone or was never there, so this one ends too; start "
    "all of them again with the same command, which goes on from what is saved"
)


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the other processes of the job, if there are any; before JAX is used.

    TPU slices, GKE, SLURM's srun and Open MPI are found by `jax.distributed`. Elsewhere
    give all three arguments. If a process is lost later, this one ends with the status
    `EX_TEMPFAIL`: at once where the system closes its connections, after
    `HEARTBEAT_SECONDS` where it does not. At the start all wait five minutes for the last.

    Args:
      coordinator: host:port of process 0.
      num_processes: of the job.
      process_id: of this process, from 0.

    Raises:
      InputError: some of the three are missing, or the others are not there in time.
    """
    given = (coordinator, num_processes, process_id)
    if None in given and given != (None, None, None):
        raise InputError(
            f"coordinator, num_processes and process_id are {given}; give all three, or "
            "none where the cluster knows them"
        )
    if coordinator is None and _alone():
        return
    _end_in_one_sentence(True)
    try:
        jax.distributed.initialize(*given, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except (ValueError, RuntimeError) as error:
        if coordinator is None and "should be defined" in str(error):
            _end_in_one_sentence(False)
            return  # no cluster
        raise InputError(
            f"the processes of the job did not come together ({error}); see that all are "
            "started and reach the first one"
        ) from error
    jax.config.update("jax_cpu_collectives_implementation", "gloo")


def _alone() -> bool:
    """Whether this is one process where JAX would think it one of several."""
    # A single task would get the first of its GPUs only.
    one_task = os.environ.get("SLURM_NTASKS") == "1"
    # A pod that is no part of an indexed job, which JAX would ask for its job.
    pod = "KUBERNETES_SERVICE_HOST" in os.environ
    member = {"JOB_COMPLETION_INDEX", "TPU_WORKER_HOSTNAMES"} & os.environ.keys()
    return one_task or (pod and not member)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _lost(number: int) -> None:
    os.write(2, f"{LOST}\n".encode())
    os._exit(EX_TEMPFAIL)


def _end_in_one_sentence(several: bool) -> None:
    """The runtime ends a process that has lost another by abort(): not without a word.

    A handler of Python's own would come too late, after abort() has returned.
    """
    ctypes.CDLL(None).signal(signal.SIGABRT, _lost if several else None)


def is_lost(error: BaseException) -> bool:
    """Whether a collective has failed because another process is gone."""
    return jax.distributed.is_initialized() and "Gloo" in str(error)


def is_first() -> bool:
    """Whether this is the process that writes what is written once."""
    return jax.process_index() == 0


def gather(data: bytes) -> list[bytes]:
    """What each process has given, in all of them; all wait for the last.

    Every process must call it, in the same order.
    """
    if jax.process_count() == 1:
        return [data]
    sizes = multihost_utils.process_allgather(np.array(len(data), np.int32))
    # Of a few sizes, so that there are few programs.
    room = 1 << int(sizes.max()).bit_length()
    padded = np.zeros(room, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]


def from_first(data: bytes) -> bytes:
    """What the first process has given, in all of them."""
    return gather(data if is_first() else b"")[0]


def barrier() -> None:
    """Waits until every process has come here."""
    gather(b"")


def anywhere(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    return any(gather(b"1" if flag else b""))
