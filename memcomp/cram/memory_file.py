"""Memories on disk: safetensors that say which LM and protocol they are for."""

import dataclasses
import json
import os
from collections.abc import Container, Sequence

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float

from memcomp.cram.pool import CramResult
from memcomp.disk import path_of, write_whole
from memcomp.errors import InputError
from memcomp.lm import LanguageModel

FORMAT = "memcomp-memory-1"


@dataclasses.dataclass(frozen=True)
class Memory:
    """One stored memory.

    Attributes:
      memory: the vectors, float32.
      num_tokens: how many tokens they were optimised to reproduce, given ones included.
      given: ids of the leading tokens that the protocol gives to the decoder.
      protocol: "strict" or "reference".
      source: of the text.
      lm_name: what the LM was loaded from.
      lm_fingerprint: SHA-256 of the weights that the memory works with.
    """

    memory: Float[np.ndarray, "M D"]
    num_tokens: int
    given: tuple[int, ...]
    protocol: str
    source: str
    lm_name: str
    lm_fingerprint: str


def save_memory(
    path: str | os.PathLike, results: Sequence[CramResult], keep: Container[int] = ()
) -> None:
    """Writes one file with the memories of all `results`, keyed by text id.

    The file appears whole or not at all.

    Args:
      path: of the file.
      results: of distinct texts.
      keep: ids of texts whose memory stays as it is if there is a file that has it.
    """
    memories = {str(r.text_id): _of_result(r) for r in results}
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
        lm_name=result.lm_name,
        lm_fingerprint=result.lm_fingerprint,
    )


def load_memory(
    path: str | os.PathLike, lm: LanguageModel | None = None
) -> dict[str, Memory]:
    """The memories of a file by text id.

    Args:
      path: a file that `save_memory` wrote.
      lm: the LM that they are meant for; None to read them without one.

    Raises:
      InputError: not such a file, or made with other weights than those of `lm`.
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
    """`load_memory` of what was read from the file `name`."""
    try:
        tensors = safetensors.numpy.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = header.get("__metadata__", {})
    except (safetensors.SafetensorError, ValueError) as error:
        raise InputError(f"{name} is not a whole safetensors file ({error})") from error
    if metadata.get("format") != FORMAT:
        raise InputError(f"{name} holds no memories: memcomp.save_memory writes such files")
    memories = {}
    for key, entry in json.loads(metadata["texts"]).items():
        entry["given"] = tuple(entry["given"])
        memories[key] = Memory(memory=tensors[key], **entry)
        if lm is not None:
            _check_lm(name, memories[key], lm)
    return memories


def _check_lm(name: str, memory: Memory, lm: LanguageModel) -> None:
    if memory.lm_fingerprint != lm.fingerprint:
        raise InputError(
            f"{name} was made with {memory.lm_name} (weights "
            f"{memory.lm_fingerprint[:12]}), not with {lm.name} (weights "
            f"{lm.fingerprint[:12]}); load the LM that it was made with"
        )
