"""Memories on disk: safetensors files that name the LM and the protocol of each memory."""

import dataclasses
import json
import os
from collections.abc import Callable, Container, Sequence
from typing import Any

import numpy as np
import safetensors.numpy
from jaxtyping import Float

from memcomp.cram.result import CramResult
from memcomp.cram.ways.table import WAYS
from memcomp.data.texts import PROTOCOLS
from memcomp.disk import path_of, write_whole
from memcomp.errors import InputError
from memcomp.lm.protocol import LanguageModel
from memcomp.tensor_files import parse_tensors

FORMAT = "memcomp-memory-1"


@dataclasses.dataclass(frozen=True)
class Memory:
    """One stored memory.

    Attributes:
      memory: the rows, float32; in the way "vectors", input vectors.
      num_tokens: number of tokens that they were optimised to reproduce, including given
        ones.
      given: ids of the leading tokens that the protocol gives to the decoder.
      protocol: "strict" or "reference".
      source: source of the text.
      way: way of writing, a key of `memcomp.cram.ways.table.WAYS`.
      lm_name: folder or name that the LM was loaded from.
      lm_fingerprint: SHA-256 fingerprint of the LM that the memory was made with.
    """

    memory: Float[np.ndarray, "M W"]
    num_tokens: int
    given: tuple[int, ...]
    protocol: str
    source: str
    way: str
    lm_name: str
    lm_fingerprint: str


def save_memory(
    path: str | os.PathLike, results: Sequence[CramResult], keep: Container[int] = ()
) -> None:
    """Writes one file with the memories of all `results`, keyed by `seed_id`.

    The file appears whole or not at all.

    Args:
      path: path of the file.
      results: results of distinct texts.
      keep: `seed_id`s of texts whose memory in an existing file at `path` is kept as it is.
    """
    memories = {str(r.seed_id): _of_result(r) for r in results}
    path = path_of(path)
    if keep and path.exists():
        found = load_memory(path)
        memories |= {key: memory for key, memory in found.items() if int(key) in keep}
    texts = {key: dataclasses.asdict(memory) for key, memory in memories.items()}
    tensors = {key: entry.pop("memory") for key, entry in texts.items()}
    metadata = {"format": FORMAT, "texts": json.dumps(texts)}
    data = safetensors.numpy.save(tensors, metadata)
    write_whole(path, data)


def _of_result(result: CramResult) -> Memory:
    return Memory(
        memory=np.asarray(result.memory, np.float32),
        num_tokens=result.num_tokens,
        given=tuple(int(t) for t in result.tokens[: result.num_given]),
        protocol=result.protocol,
        source=result.source,
        way=result.way,
        lm_name=result.lm_name,
        lm_fingerprint=result.lm_fingerprint,
    )


def load_memory(
    path: str | os.PathLike, lm: LanguageModel | None = None
) -> dict[str, Memory]:
    """Loads the memories of a file by text id.

    Args:
      path: a file that `save_memory` wrote.
      lm: LM that the memories must fit; None for no check.

    Raises:
      InputError: `path` is no such file, or was made with an LM other than `lm`.
    """
    path = path_of(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error})") from error
    return parse_memory(data, str(path), lm)


def parse_memory(
    data: bytes, name: str, lm: LanguageModel | None = None
) -> dict[str, Memory]:
    """Parses the bytes of the file `name`, as `load_memory` does."""
    tensors, metadata = parse_tensors(data, name)
    if metadata.get("format") != FORMAT:
        raise InputError(f"{name} holds no memories: memcomp.save_memory writes such files")
    entries = _entries(metadata.get("texts"), name)
    if entries.keys() != tensors.keys():
        odd = sorted(entries.keys() ^ tensors.keys())[0]
        has, lacks = ("an entry", "tensor") if odd in entries else ("a tensor", "entry")
        raise InputError(f"{name} has {has} {odd!r} and no {lacks} for it; make it again")
    memories = {}
    for key, entry in entries.items():
        memories[key] = _memory(tensors[key], entry, f"{name}: memory {key!r}")
        if lm is not None:
            _check_lm(name, memories[key], lm)
    return memories


def _entries(texts: str | None, name: str) -> dict[str, Any]:
    """Parses the entry of each memory in the metadata."""
    try:
        entries = json.loads(texts or "")
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{name} does not say what its memories are ({error}); make it again"
        ) from error
    if not isinstance(entries, dict) or not all(key.isdecimal() for key in entries):
        raise InputError(
            f"{name} does not say what its memories are: wanted an object by text id; make "
            "it again"
        )
    return entries


def _memory(vectors: np.ndarray, entry: Any, what: str) -> Memory:
    """Makes one memory; checks its entry, which may have been edited by hand."""
    wanted = {field.name for field in dataclasses.fields(Memory)} - {"memory"}
    if not isinstance(entry, dict) or entry.keys() != wanted:
        found = sorted(entry) if isinstance(entry, dict) else entry
        raise InputError(f"{what} has the fields {found}; wanted {', '.join(wanted)}")
    for field, (is_right, description) in FIELDS.items():
        if not is_right(entry[field]):
            raise InputError(f"{what}: {field} is {entry[field]!r}, wanted {description}")
    if vectors.ndim != 2 or vectors.dtype != np.float32:
        raise InputError(
            f"{what} is {vectors.dtype} {list(vectors.shape)}; wanted floats [M, W]"
        )
    return Memory(**entry | {"memory": vectors, "given": tuple(entry["given"])})


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


# For each field of an entry: the check that it must pass, and the words for what is wanted.
FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "num_tokens": (lambda n: _is_id(n) and n > 0, "a whole number, 1 or more"),
    "given": (lambda ids: isinstance(ids, list) and all(map(_is_id, ids)), "token ids"),
    "protocol": (lambda name: name in list(PROTOCOLS), " or ".join(PROTOCOLS)),
    "source": (_is_text, "text"),
    "way": (lambda name: name in list(WAYS), " or ".join(WAYS)),
    "lm_name": (_is_text, "text"),
    "lm_fingerprint": (_is_text, "text"),
}


def _check_lm(name: str, memory: Memory, lm: LanguageModel) -> None:
    if memory.lm_fingerprint != lm.fingerprint:
        raise InputError(
            f"{name} was made with {memory.lm_name} ({memory.lm_fingerprint[:12]}), not "
            f"with {lm.name} ({lm.fingerprint[:12]}), whose weights or config.json differ; "
            "load the LM that it was made with"
        )
    width, wanted = memory.memory.shape[1], WAYS[memory.way].width(lm.module)
    if width != wanted:
        raise InputError(
            f"{name} has rows of {width} numbers, and {lm.name} reads {wanted}; make it "
            "again"
        )
