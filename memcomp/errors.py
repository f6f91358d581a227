"""The exceptions for bad input, and for a run that was told to stop."""

import contextlib
import traceback
from collections.abc import Callable, Iterator


class InputError(ValueError):
    """What a user gave cannot be used.

    The message is one sentence: what was wrong, what was wanted, what to do. Scripts
    print it and exit with status 2; any other exception is a bug and keeps its traceback.
    """


class Stopped(Exception):
    """The run was told to stop or has used its time, and has saved what it has."""


@contextlib.contextmanager
def refusing(what: str, control: Callable[[], object] | None = None) -> Iterator[None]:
    """Turns what the content of files makes of a library into an `InputError`.

    What a line of memcomp raises is a defect of ours and keeps its traceback, unless a
    control shows that the content is at fault.

    Args:
      what: the file, as the subject of the sentence "... cannot be used: REASON".
      control: does the same with content that is known to be good.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # tokenizers' panics are no `Exception`
        if not isinstance(error, InputError) and _is_ours(error) and _fails(control):
            raise
        reason = " ".join(str(error).split())
        raise InputError(f"{what} cannot be used: {reason}") from error


def _is_ours(error: BaseException) -> bool:
    """Whether an error was raised by a line of memcomp, not by a library it has called."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] == "memcomp"


def _fails(control: Callable[[], object] | None) -> bool:
    """Whether good content fails as well; where there is none, it is taken to."""
    if control is None:
        return True
    try:
        control()
    except InputError:
        return False
    except Exception:
        return True
    return False
