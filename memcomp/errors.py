"""The one exception that stands for bad input."""


class InputError(ValueError):
    """What a user gave cannot be used.

    The message is one sentence: what was wrong, what was wanted, what to do. Scripts
    print it and exit with status 2; any other exception is a bug and keeps its traceback.
    """
