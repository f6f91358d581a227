"""Crammed texts, with the tokens before and after them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, Float, Int

from memcomp.cram.memory_file import load_memory
from memcomp.data.texts import Text
from memcomp.lm.protocol import LanguageModel
from memcomp.runs.files import Record


@dataclasses.dataclass(frozen=True, eq=False)
class Crammed:
    """Crammed texts of one length, with the tokens before and after them.

    Attributes:
      text_ids, sources: id and source of each text.
      exact: whether greedy decoding of the memory gives the text exactly.
      memory: memory of each text.
      before: the C tokens before the text.
      tokens: tokens of the text.
      after: tokens of its true continuation.
    """

    text_ids: tuple[int, ...]
    sources: tuple[str, ...]
    exact: Bool[np.ndarray, "B"]
    memory: Float[np.ndarray, "B M D"]
    before: Int[np.ndarray, "B C"]
    tokens: Int[np.ndarray, "B T"]
    after: Int[np.ndarray, "B n"]

    def records(self, columns: dict[str, Any], **same: Any) -> list[Record]:
        """Makes a record per text: its facts, its entry of each column, and `same`."""
        return [
            {
                "text_id": text_id,
                "source": source,
                "exact": bool(exact),
                "num_tokens": self.tokens.shape[1],
                "num_memory": self.memory.shape[1],
                **same,
                **{name: values[i] for name, values in columns.items()},
            }
            for i, (text_id, source, exact) in enumerate(
                zip(self.text_ids, self.sources, self.exact, strict=True)
            )
        ]


def read_crammed(
    lm: LanguageModel,
    folder: epath.Path,
    records: Sequence[Record],
    passages: Sequence[Text],
    num_before: int,
) -> Crammed:
    """Reads the memories of a cramming run, and adds the tokens around the texts.

    Args:
      lm: the LM of the run.
      folder: folder of the run.
      records: records of results.jsonl, whose texts have one length.
      passages: passages of one length, among them one with the id of each record, in which
        the text starts at token `num_before`.
      num_before: number of tokens before the text.

    Raises:
      InputError: a memory file was made with another LM.
    """
    texts = {passage.text_id: passage for passage in passages}
    files = {r["memory_file"]: load_memory(folder / r["memory_file"], lm) for r in records}
    whole = np.stack([texts[r["text_id"]].tokens for r in records])
    C, end = num_before, num_before + records[0]["num_tokens"]
    return Crammed(
        text_ids=tuple(r["text_id"] for r in records),
        sources=tuple(r["source"] for r in records),
        exact=np.array([r["exact_greedy"] for r in records]),
        memory=np.stack([files[r["memory_file"]][r["memory_key"]].memory for r in records]),
        before=whole[:, :C],
        tokens=whole[:, C:end],
        after=whole[:, end:],
    )
