"""Renaming of a file's tensors, whatever program saved it, to the names of a table."""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from memcomp.convert.engine import Family, Tensors
from memcomp.convert.files import Checkpoint
from memcomp.errors import InputError

# Parts of names from modules that wrap a model or its layers in training: torch.compile,
# DataParallel, FSDP and activation checkpointing.
WRAPPERS = r"(?<![^.])(_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."

ROTARY = {"rotary_emb", "rotary_emb_local"}  # modules of a base model without weights


@dataclasses.dataclass(frozen=True)
class Renamed:
    """`Tensors` under other names.

    Attributes:
      tensors: tensors under the names of the file.
      renames: pairs of a regular expression and its replacement, in order.

    Raises:
      InputError: two names become the same.
    """

    tensors: Tensors
    renames: Sequence[tuple[str, str]]

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor by its new name."""
        shapes = self.tensors.shapes()
        return {new: shapes[old] for new, old in self.origins.items()}

    def read(self, name: str) -> np.ndarray:
        """Reads one tensor, in the dtype of the file."""
        return self.tensors.read(self.origins[name])

    def digests(self, of_file: Mapping[str, str]) -> dict[str, str]:
        """Returns the digests `of_file`, given by the names of the file, by new names."""
        return {n: of_file[old] for n, old in self.origins.items() if old in of_file}

    @functools.cached_property
    def origins(self) -> dict[str, str]:
        """Name in the file of each new name."""
        names: dict[str, str] = {}
        for old in self.tensors.shapes():
            new = old
            for pattern, replacement in self.renames:
                new = re.sub(pattern, replacement, new)
            if new in names:
                raise InputError(
                    f"the weights hold {new} twice: {names[new]} and {old}; remove one"
                )
            names[new] = old
        return names


def renames_of(family: Family) -> tuple[tuple[str, str], ...]:
    """Renames from names in files to those of the table, as transformers does on loading.

    Wrappers are removed first, then come the family's own renames. The prefix of the base
    model is added if the file was saved without the head, and dropped if it is superfluous.
    """
    parts = [row.hf.split(".") for row in family.table]
    base = parts[0][0]
    inner = "|".join(sorted({part[1] for part in parts if part[0] == base} | ROTARY))
    outer = "|".join(sorted({part[0] for part in parts}))
    return (
        (WRAPPERS, ""),
        *family.renames,
        (rf"^({inner})\.", rf"{base}.\1."),
        (rf"^{base}\.({outer})\.", r"\1."),
    )


def settle_head(
    checkpoint: Checkpoint, names: Renamed, family: Family, config: Any
) -> tuple[Renamed, Any]:
    """Returns names and config such that the head is the one that the file has.

    config.json may say that the head is the embedding although the file has both. As in
    transformers, the head is then used unless the two are equal. If the file has only a
    head, it is the embedding as well.
    """
    hf_name = {row.ours: row.hf for row in family.table}
    embedding, head = hf_name["embedding"], hf_name["head"]
    if not config.tied_embeddings or head not in names.origins:
        return names, config
    if embedding not in names.origins:
        pair = (rf"^{re.escape(head)}$", embedding)
        return dataclasses.replace(names, renames=(*names.renames, pair)), config
    tied = checkpoint.same(names.origins[embedding], names.origins[head])
    return names, dataclasses.replace(config, tied_embeddings=tied)
