"""Checkpoints of the training state with orbax, written in the background."""

import contextlib
import os
import re
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import grain
import orbax.checkpoint as ocp
from etils import epath

from memcomp.disk import path_of, unwritable, writing
from memcomp.errors import InputError


class Checkpoints:
    """Checkpoints of one run: a pytree of arrays and, if wanted, a grain iterator.

    A checkpoint appears whole or not at all. Checkpoints that a killed process left
    half-written are removed when the folder is opened again. Use it as a context manager:
    leaving it waits for the last save.
    """

    def __init__(self, folder: epath.PathLike, *, keep: int = 2):
        """Opens or makes `folder`, which may be a gs:// path.

        Only the last `keep` checkpoints are kept.
        """
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(keep),
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        )
        self._folder = path_of(folder).absolute()
        with self._writing():
            self._manager = ocp.CheckpointManager(self._folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def latest(self) -> int | None:
        """Step of the newest checkpoint; None if there is none."""
        return self._manager.latest_step()

    def save(
        self, step: int, state: Any, iterator: grain.DatasetIterator | None = None
    ) -> None:
        """Saves in the background; `state` may be donated as soon as this returns.

        Args:
          step: number of the checkpoint, larger than all earlier ones.
          state: pytree of arrays, which may be typed random keys.
          iterator: data iterator, of which only the position is saved.

        Raises:
          InputError: this checkpoint, or the one before it, cannot be written.
        """
        items: dict[str, Any] = {"state": ocp.args.StandardSave(state)}
        if iterator is not None:
            items["iterator"] = grain.checkpoint.CheckpointSave(iterator)
        with self._writing():
            self._manager.save(step, args=ocp.args.Composite(**items))

    def restore(self, like: Any, iterator: grain.DatasetIterator | None = None) -> Any:
        """Returns the newest checkpoint's state, and sets `iterator` to its position.

        Args:
          like: tree of arrays or `jax.ShapeDtypeStruct` with the structure, shapes,
            dtypes and shardings of the result.
          iterator: iterator over the same dataset as the one that was saved.

        Raises:
          InputError: there is no checkpoint, or its structure is not that of `like`.
        """
        step = self.latest()
        if step is None:
            raise InputError(f"{self._folder} has no checkpoint; start the run first")
        items: dict[str, Any] = {"state": ocp.args.StandardRestore(like)}
        if iterator is not None:
            items["iterator"] = grain.checkpoint.CheckpointRestore(iterator)
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items)).state
        except (ValueError, KeyError) as error:
            raise InputError(
                f"checkpoint {step} in {self._folder} cannot be restored: it is damaged "
                "or of another model or optimiser; use another folder or remove it "
                f"({' '.join(str(error).split())[:300]})"
            ) from error

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
          InputError: the last checkpoint cannot be written; those before it are whole.
        """
        with self._writing():
            self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Does what `disk.writing` does, also for TensorStore's errors about the disk."""
        try:
            with writing(self._folder):
                yield
        except ValueError as error:
            if (found := re.search(r"os_error_code='(\d+)'", str(error))) is None:
                raise
            reason = OSError(int(found[1]), os.strerror(int(found[1])))
            raise InputError(unwritable(self._folder, reason)) from error
