"""growth.jsonl: how long the exact prefix of each text was, at what cost.

A horizon alone does not say what a recipe gives for half of the work, nor how two recipes
compare whose texts still grow. This log does.
"""

from collections.abc import Iterable

from etils import epath

from memcomp.cram.config import CramConfig
from memcomp.cram.horizon import Trial
from memcomp.distributed import is_first
from memcomp.errors import InputError
from memcomp.runs.files import Record, append_records, read_records

GROWTH = "growth.jsonl"
STALE = 1.1  # growth of the cost after which a text without progress has a new line


class GrowthLog:
    """The log of a run of horizons, written by the first process.

    A text has a new line when its exact prefix is longer, or when its token-steps have
    grown by a tenth without that. A chunk that is repeated after a kill adds no line twice.
    """

    def __init__(self, folder: epath.Path, cfg: CramConfig):
        """Opens the log in `folder`, with the lines of earlier starts of the run.

        Raises:
          InputError: a line of the file is not of such a log.
        """
        self._path, self._cfg = folder / GROWTH, cfg
        # By `seed_id`, prefix and token-steps of the last line.
        self._last: dict[int, tuple[int, int]] = {}
        if is_first():
            self._note(read_records(self._path))

    def add(self, trials: Iterable[Trial]) -> None:
        """Adds the lines of the trials that have changed enough."""
        if not is_first():
            return
        new = [self._line(trial) for trial in trials if self._has_moved(trial)]
        append_records(self._path, new)
        self._note(new)

    def _note(self, records: Iterable[Record]) -> None:
        try:
            for r in records:
                self._last[int(r["seed_id"])] = int(r["prefix"]), int(r["token_steps"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{self._path} has a line that is not of the growth of a text ({error!r}); "
                "remove the line"
            ) from error

    def _has_moved(self, trial: Trial) -> bool:
        prefix, token_steps = self._last.get(trial.text.seed_id, (0, 0))
        return trial.exact > prefix or trial.token_steps > STALE * token_steps

    def _line(self, trial: Trial) -> Record:
        return {
            "text_id": trial.text.text_id,
            "seed_id": trial.text.seed_id,
            "source": trial.text.source,
            "protocol": self._cfg.protocol,
            "num_memory": self._cfg.way.rows(self._cfg.num_memory),
            "memory": self._cfg.memory,
            "prefix": trial.exact,
            "steps": trial.steps,
            "token_steps": trial.token_steps,
        }
