"""How every script starts: flags in, one config; one sentence for bad input."""

import pathlib
import sys
from collections.abc import Callable

from absl import flags, logging
from ml_collections import config_dict, config_flags

from memcomp.errors import InputError

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
sys.path.insert(0, str(ROOT))  # configs import what they share as `configs.cram.base`
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: made, or gone on with.")


def launch(
    main: Callable[[config_dict.ConfigDict, str | None], None],
    default_config: str,
    *,
    positional: str | None = None,
) -> None:
    """Runs `main(config, workdir)` with the flags of the command line.

    Args:
      main: the script; raises `InputError` for bad input.
      default_config: file under configs/ that is used without `--config`.
      positional: field that takes the arguments that are no flags, if there are any.
    """
    script = pathlib.Path(sys.argv[0]).name
    logging.set_verbosity(logging.WARNING)
    try:
        main(_config(default_config, positional), WORKDIR.value)
    except InputError as error:
        print(f"{script}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def _config(default_config: str, positional: str | None) -> config_dict.ConfigDict:
    """The config file with the command line's overrides.

    Raises:
      InputError: for whatever ml_collections and absl raise for bad flags.
    """
    try:
        # Reads the overrides in sys.argv already.
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
