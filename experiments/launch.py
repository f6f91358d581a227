"""Start and end of every script: flags to one config, and one sentence for bad input.

A resumable script ends with the exit status EX_TEMPFAIL (75) when it gets a SIGTERM, as on
preemption, or when another process of its job is lost. A scheduler that restarts it with
the same command loses at most the chunk that was being computed.
"""

import errno
import os
import pathlib
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import jax
from absl import flags, logging
from ml_collections import config_dict, config_flags

from memcomp import distributed
from memcomp.disk import unwritable
from memcomp.distributed import EX_TEMPFAIL
from memcomp.errors import InputError, Stopped

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
sys.path.insert(0, str(ROOT))  # configs import shared ones as `configs.cram.base`
# Without this, transformers would warn that PyTorch is missing, which is not needed.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
# Most bytes of compiled programs that are kept for later runs; the oldest go first.
CACHE_BYTES = 2 * 10**9
# A ConfigDict; ml_collections gives each of its fields a union of all types.
Config = Any
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: made, or resumed.")
# Errors of the disk, for which one sentence is printed wherever they come from.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_told = threading.Event()  # set once the process is told to stop
_out_of_time = threading.Event()
_notes: list[str] = []


class OutOfTime(Stopped):
    """The run has used up its minutes; unlike after a SIGTERM, no kill is imminent."""


def launch(
    main: Callable[[Config, str | None], None],
    default_config: str,
    *,
    positional: str | None = None,
    resumable: bool = False,
    profiled: bool = False,
    keeps_programs: bool = True,
) -> None:
    """Runs `main(config, workdir)` with the flags of the command line.

    Args:
      main: the script; raises `InputError` for bad input.
      default_config: file under configs/ that is used without `--config`.
      positional: field of the config that takes the arguments that are no flags.
      resumable: whether `main` may run in several processes, calls `stop_if_told` after
        it has saved, and resumes from there the next time.
      profiled: whether `main` writes a trace if the flag `--profile` is given.
      keeps_programs: whether compiled programs are kept for later runs; False for scripts
        that measure compilation.
    """
    script = pathlib.Path(sys.argv[0]).name
    # Errors that orbax logs in its threads are also raised in this thread.
    logging.set_verbosity(logging.FATAL)
    try:
        job = _job_flags() if resumable else dict
        if profiled:
            flags.DEFINE_bool("profile", False, "Write a JAX trace of a few steps.")
        config = _config(default_config, positional)
        if keeps_programs:
            _keep_programs()
        if resumable:
            distributed.initialize(**job())
            # Replaces JAX's handler, which would only record the signal.
            signal.signal(signal.SIGTERM, lambda *_: _told.set())
        main(config, WORKDIR.value)
        say_notes()
    except InputError as error:
        _end(f"{script}: {' '.join(str(error).split())}", 2)
    except Stopped:
        _end(f"{script}: stopped and saved; the same command goes on", EX_TEMPFAIL)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            _end(f"{script}: {unwritable(error.filename or 'a file', error)}", 2)
        if not jax.distributed.is_initialized():
            raise
        if distributed.is_lost(error):
            _end(f"{script}: {distributed.LOST}", EX_TEMPFAIL)
        _end(traceback.format_exc(), 1)


def _keep_programs() -> None:
    """Lets JAX keep compiled programs in the user's cache folder, for the next run.

    JAX's own variables come first: JAX_ENABLE_COMPILATION_CACHE=false keeps nothing, and
    JAX_COMPILATION_CACHE_DIR names another folder.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        return
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.path.join(cache, "memcomp", "jax")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:  # a user without a home folder compiles each time
        return
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)
    # A run on a CPU compiles dozens of programs that take less than JAX's second each.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def is_profiled() -> bool:
    """Whether `--profile` is given; False if `main` is called without parsed flags."""
    return flags.FLAGS.is_parsed() and flags.FLAGS.profile


def stop_after(minutes: float | None) -> None:
    """Makes `stop_if_told` raise `OutOfTime` after so many minutes; None for never.

    Raises:
      InputError: the time is not above 0.
    """
    if minutes is None:
        return
    if minutes <= 0:
        raise InputError(f"minutes is {minutes}; give more than 0, or nothing")
    timer = threading.Timer(60 * minutes, _out_of_time.set)
    timer.daemon = True  # so that a run that ends earlier does not wait for it
    timer.start()


def _job_flags() -> Callable[[], dict[str, Any]]:
    """Defines flags for clusters that JAX does not know; returns a reader of the values."""
    held = (
        flags.DEFINE_string("coordinator", None, "host:port of the job's process 0."),
        flags.DEFINE_integer("num_processes", None, "Of the job."),
        flags.DEFINE_integer("process_id", None, "Of this process, from 0."),
    )
    return lambda: {flag.name: flag.value for flag in held}


def _end(said: str, status: int) -> None:
    """Ends the process; immediately if there are others, which must not wait for it."""
    print(said, file=sys.stderr)
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def say(line: str) -> None:
    """Prints a line, once for all processes."""
    say_notes()
    if distributed.is_first():
        print(line)


def note(line: str) -> None:
    """Keeps a line about the input until the script has accepted all of its input.

    A script that refuses its input prints one sentence and nothing else.
    """
    _notes.append(line)


def say_notes() -> None:
    """Prints the noted lines to standard error, once for all processes."""
    if distributed.is_first():
        for line in _notes:
            print(line, file=sys.stderr)
    _notes.clear()


def is_told_to_stop() -> bool:
    """Whether any process of the job got a SIGTERM; all processes must call it."""
    return distributed.anywhere(_told.is_set())


def stop_if_told() -> None:
    """Raises `Stopped` if the job is told to stop or out of time; call it after saving."""
    if is_told_to_stop():
        raise Stopped
    if distributed.anywhere(_out_of_time.is_set()):
        raise OutOfTime


def _expanded(argument: str) -> str:
    """Expands the `~` of `--config=~/x.py`, as shells do only after a space."""
    flag, equals, path = argument.partition("=")
    whole = f"{flag}={os.path.expanduser(path)}"
    return whole if flag in ("-config", "--config") and equals else argument


def _config(default_config: str, positional: str | None) -> Config:
    """Reads the config file, with the overrides of the command line.

    Raises:
      InputError: ml_collections or absl raise an error for bad flags.
    """
    sys.argv[1:] = [_expanded(argument) for argument in sys.argv[1:]]
    try:
        # This already reads the overrides in sys.argv.
        holder = config_flags.DEFINE_config_file("config", str(CONFIGS / default_config))
        rest = flags.FLAGS(sys.argv)[1:]
        config = config_dict.ConfigDict(holder.value.to_dict())
    except (AttributeError, KeyError) as error:
        # ml_collections wraps the KeyError whose argument is the message.
        cause = error.args[0] if isinstance(error.args[0], Exception) else error
        field = cause.args[0]
        raise InputError(f"the config has no such field: {field}") from error
    except (flags.Error, TypeError, ValueError, OSError) as error:
        raise InputError(str(error)) from error
    if rest and positional:
        config[positional] = tuple(rest)
    elif rest:
        raise InputError(
            f"{rest[0]!r} is no flag; give --config, --config.x=y or --workdir"
        )
    return config
