"""The names of a file's tensors, whatever saved it, as those of a family's table."""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from memcomp.convert.engine import Family, Tensors
from memcomp.convert.files import Checkpoint
from memcomp.errors import InputError

# Modules that training puts around a model or its layers, as they stand in names: those of
# torch.compile, DataParallel, FSDP and activation checkpointing.
WRAPPERS = r"(?<![^.])(_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."

ROTARY = {"rotary_emb", "rotary_emb_local"}  # modules of a base model without weights


@dataclasses.dataclass(frozen=True)
class Renamed:
    """`Tensors` under other names.

    Attributes:
      tensors: under the names of the file.
      renames: pairs of a regular expression and what replaces it, in order.

    Raises:
      InputError: two names that become one.
    """

    tensors: Tensors
    renames: Sequence[tuple[str, str]]

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor by its new name."""
        shapes = self.tensors.shapes()
        return {new: shapes[old] for new, old in self.origins.items()}

    def read(self, name: str) -> np.ndarray:
        """One tensor, in the dtype of the file."""
        return self.tensors.read(self.origins[name])

    def digests(self, of_file: Mapping[str, str]) -> dict[str, str]:
        """What was noted of tensors under the names of the file, by their new names."""
        return {n: of_file[old] for n, old in self.origins.items() if old in of_file}

    @functools.cached_property
    def origins(self) -> dict[str, str]:
        """The name in the file by the new name."""
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
    """What makes names of files those of the table, as transformers does when it loads.

    Wrappers go first, then come the family's own renames. The prefix of the base model is
    added where the file was saved without the head, and dropped where there is one more.
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
    """The names and the config of a model whose head is what the file has.

    config.json may say that the head is the embedding where the file has both. As in
    transformers, the head is then used unless the two are equal. A head alone is the
    embedding as well.
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
