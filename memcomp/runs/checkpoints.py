"""Training state on disk with orbax: written in the background, the last few kept."""

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

    A checkpoint appears whole or not at all; what a killed process left half-written is
    removed when the folder is opened again. Use as a context manager: leaving it waits
    for the last save.
    """

    def __init__(self, folder: epath.PathLike, *, keep: int = 2):
        """Opens or makes `folder`, which may be a gs:// path, and keeps the last `keep`."""
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
        """The step of the newest checkpoint; None where there is none."""
        return self._manager.latest_step()

    def save(
        self, step: int, state: Any, iterator: grain.DatasetIterator | None = None
    ) -> None:
        """Saves in the background; `state` may be donated as soon as this returns.

        Args:
          step: number of the checkpoint, larger than those before.
          state: pytree of arrays, typed random keys included.
          iterator: its position is saved, not its data.

        Raises:
          InputError: this checkpoint, or the one before it, cannot be written.
        """
        items: dict[str, Any] = {"state": ocp.args.StandardSave(state)}
        if iterator is not None:
            items["iterator"] = grain.checkpoint.CheckpointSave(iterator)
        with self._writing():
            self._manager.save(step, args=ocp.args.Composite(**items))

    def restore(self, like: Any, iterator: grain.DatasetIterator | None = None) -> Any:
        """The newest checkpoint's state; `iterator` is moved to where it was.

        Args:
          like: tree of arrays or `jax.ShapeDtypeStruct` with the structure, shapes,
            dtypes and shardings of the result.
          iterator: of the same dataset as the one that was saved.

        Raises:
          InputError: there is none, or it does not have the structure of `like`.
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
          InputError: it cannot be written; the checkpoints before it are whole.
        """
        with self._writing():
            self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """As `disk.writing`, for what TensorStore says of a disk as well."""
        try:
            with writing(self._folder):
                yield
        except ValueError as error:
            if (found := re.search(r"os_error_code='(\d+)'", str(error))) is None:
                raise
            reason = OSError(int(found[1]), os.strerror(int(found[1])))
            raise InputError(unwritable(self._folder, reason)) from error
