"""Several processes that run one program: how they join, exchange data and end together.

All processes run the same host code on the same inputs. What they may see differently, such
as the files on a disk, goes through `gather`. If one process is lost, the others end too,
because a program over the devices of all cannot continue; the job has to be started again.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from memcomp.errors import InputError

EX_TEMPFAIL = 75  # from sysexits.h; the same command, started again, resumes the run
HEARTBEAT_SECONDS = 60  # a process without a heartbeat for this long counts as lost
LOST = (
    "another process of this run is gone or was never there, so this one ends too; start "
    "all of them again with the same command, which resumes from what is saved"
)


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the other processes of the job, if there are any; call it before using JAX.

    `jax.distributed` finds the processes on TPU slices, GKE, SLURM's srun and Open MPI.
    Elsewhere, all three arguments are needed. If a process is lost later, this one ends
    with the status `EX_TEMPFAIL`: at once if the system closes its connections, otherwise
    after `HEARTBEAT_SECONDS`. At the start, all wait at most five minutes for the last.

    Args:
      coordinator: host:port of process 0.
      num_processes: number of processes of the job.
      process_id: number of this process, from 0.

    Raises:
      InputError: only some arguments are given, or other processes do not join in time.
    """
    given = (coordinator, num_processes, process_id)
    if None in given and given != (None, None, None):
        raise InputError(
            f"coordinator, num_processes and process_id are {given}; give all three, or "
            "none where the cluster knows them"
        )
    if coordinator is None and _alone():
        return
    try:
        with _aborts.watched():
            jax.distributed.initialize(*given, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except (ValueError, RuntimeError) as error:
        if coordinator is None and "should be defined" in str(error):
            return  # no cluster
        raise InputError(
            f"the processes of the job did not come together ({error}); see that all are "
            "started and reach the first one"
        ) from error
    jax.config.update("jax_cpu_collectives_implementation", "gloo")


def _alone() -> bool:
    """Whether this is a single process that JAX would take for one of several."""
    # JAX would give a single SLURM task only the first of its GPUs.
    one_task = os.environ.get("SLURM_NTASKS") == "1"
    # JAX would look up the job of every pod, even of one in no indexed job.
    pod = "KUBERNETES_SERVICE_HOST" in os.environ
    member = {"JOB_COMPLETION_INDEX", "TPU_WORKER_HOSTNAMES"} & os.environ.keys()
    return one_task or (pod and not member)


class _Aborts:
    """Handler of SIGABRT that tells a lost process of the job from a crash of this one.

    JAX's coordination service calls abort() in one of its threads when it learns of a lost
    process. Its threads are those that start within `watched`.
    """

    def __init__(self):
        self._signal = ctypes.CDLL(None).signal
        self._signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
        self._signal.restype = ctypes.c_void_p
        # Python would run a handler of its own too late, after abort() has returned.
        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._handle)
        self._replaced: int | None = None
        self._others: set[int] = set()
        self._joined: set[int] | None = None  # None while the job is being joined

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Context in which the job is joined; if that fails, the old handler returns."""
        self._others, self._joined = _threads(), None
        handler = ctypes.cast(self._handler, ctypes.c_void_p)
        self._replaced = self._signal(signal.SIGABRT, handler)
        try:
            yield
        except BaseException:
            self._signal(signal.SIGABRT, self._replaced)
            raise
        self._joined = _threads()

    def _handle(self, number: int) -> None:
        joined = _threads() if self._joined is None else self._joined
        if threading.get_native_id() in joined - self._others:
            os.write(2, f"{LOST}\n".encode())
            os._exit(EX_TEMPFAIL)
        # A crash ends as without this handler: the old one is restored, and the signal sent
        # again.
        self._signal(number, self._replaced)
        os.kill(os.getpid(), number)


def _threads() -> set[int]:
    """Ids of all threads of this process; empty if the system does not list them."""
    folder = "/proc/self/task"
    return set(map(int, os.listdir(folder))) if os.path.isdir(folder) else set()


_aborts = _Aborts()


def is_lost(error: BaseException) -> bool:
    """Whether a collective has failed because another process is gone.

    Gloo's "enforce fail" is a bug instead, such as different shapes in two processes.
    """
    said = str(error)
    of_gloo = "Gloo" in said and "enforce fail" not in said
    return jax.distributed.is_initialized() and of_gloo


def is_first() -> bool:
    """Whether this is the process that writes the files of all."""
    return jax.process_index() == 0


def say(line: str) -> None:
    """A line on standard error that tears no progress bar, once for all processes."""
    if is_first():
        tqdm.write(line, file=sys.stderr)


def gather(data: bytes) -> list[bytes]:
    """Returns the data of every process to all processes; all wait for the last one.

    Every process must call it, in the same order.
    """
    if jax.process_count() == 1:
        return [data]
    sizes = multihost_utils.process_allgather(np.array(len(data), np.int32))
    # The size is a power of two, so that few programs are compiled.
    room = 1 << int(sizes.max()).bit_length()
    padded = np.zeros(room, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]


def from_first(data: bytes) -> bytes:
    """Returns the data of the first process to all processes."""
    return gather(data if is_first() else b"")[0]


def barrier() -> None:
    """Waits until every process has called it."""
    gather(b"")


def anywhere(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    return any(gather(b"1" if flag else b""))
