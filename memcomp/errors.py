"""The exceptions for bad input, and for a run that was told to stop."""

import contextlib
import traceback
from collections.abc import Callable, Iterator


class InputError(ValueError):
    """Input of a user that cannot be used.

    The message is one sentence: what is wrong, what is wanted, what to do. Scripts print it
    and exit with status 2; any other exception is a bug and keeps its traceback.
    """


class Stopped(Exception):
    """The run was told to stop or has used its time, and has saved what it has."""


@contextlib.contextmanager
def refusing(what: str, control: Callable[[], object] | None = None) -> Iterator[None]:
    """Context that turns errors of libraries about the content of files into `InputError`.

    An exception that memcomp itself raises is a bug and keeps its traceback, unless a
    control shows that the content is at fault.

    Args:
      what: the file, as the subject of the sentence "... cannot be used: REASON".
      control: function that does the same with content that is known to be good.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # panics in tokenizers are no `Exception`
        if not isinstance(error, InputError) and _is_ours(error) and _fails(control):
            raise
        reason = " ".join(str(error).split())
        raise InputError(f"{what} cannot be used: {reason}") from error


def _is_ours(error: BaseException) -> bool:
    """Whether memcomp raised an error itself, and not a library that it called."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] == "memcomp"


def _fails(control: Callable[[], object] | None) -> bool:
    """Whether good content fails as well, which is assumed without a control."""
    if control is None:
        return True
    try:
        control()
    except InputError:
        return False
    except Exception:
        return True
    return False
