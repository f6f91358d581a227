"""How every script starts: flags in, one config; one sentence for bad input."""

import pathlib
import sys
from collections.abc import Callable

from absl import app, flags, logging
from ml_collections import config_dict, config_flags

from memcomp.errors import InputError

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: made, or gone on with.")


def launch(
    main: Callable[[config_dict.ConfigDict, str | None], None], default_config: str
) -> None:
    """Runs `main(config, workdir)` with the flags of the command line.

    Args:
      main: the script; raises `InputError` for bad input.
      default_config: file under configs/ that is used without `--config`.
    """
    config = config_flags.DEFINE_config_file("config", str(CONFIGS / default_config))
    script = pathlib.Path(sys.argv[0]).name
    logging.set_verbosity(logging.WARNING)

    def run(argv: list[str]) -> None:
        if len(argv) > 1:
            raise InputError(
                f"{argv[1]!r} is no flag; give --config, --config.x=y or --workdir"
            )
        main(config.value, WORKDIR.value)

    try:
        app.run(run)
    except InputError as error:
        sys.exit(_refuse(script, error))
    # What ml_collections raises for a key or a value that the config does not take.
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        if not _from_flags(error):
            raise
        sys.exit(_refuse(script, error))


def _refuse(script: str, error: Exception) -> int:
    message = str(error.args[0] if error.args else error)
    print(f"{script}: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _from_flags(error: Exception) -> bool:
    """Whether the flags' own parsing raised it, and not the library."""
    trace, files = error.__traceback__, []
    while trace:
        files.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    return any(f.endswith("config_flags.py") for f in files)
