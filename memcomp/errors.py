"""The one exception that stands for bad input."""

import contextlib
from collections.abc import Iterator


class InputError(ValueError):
    """What a user gave cannot be used.

    The message is one sentence: what was wrong, what was wanted, what to do. Scripts
    print it and exit with status 2; any other exception is a bug and keeps its traceback.
    """


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turns whatever another library raises for the content of files into an `InputError`.

    Args:
      what: the file, as the subject of the sentence "... cannot be used: REASON".
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # tokenizers' panics are no `Exception`
        reason = " ".join(str(error).split())
        raise InputError(f"{what} cannot be used: {reason}") from error
