"""Crammed texts, with the tokens before and after them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, Float, Int

from memcomp.cram.memory_file import load_memory
from memcomp.cram.ways.table import WAYS
from memcomp.data.texts import Text
from memcomp.lm.protocol import LanguageModel
from memcomp.lm.score import joined, start_token
from memcomp.runs.files import Record


@dataclasses.dataclass(frozen=True, eq=False)
class Crammed:
    """Crammed texts of one length, with the tokens before and after them.

    Attributes:
      text_ids, sources: id and source of each text.
      exact: whether greedy decoding of the memory gives the text exactly.
      memory: memory of each text.
      way: way in which it was written, a key of `memcomp.cram.ways.table.WAYS`.
      before: the C tokens before the text.
      tokens: tokens of the text.
      after: tokens of its true continuation.
    """

    text_ids: tuple[int, ...]
    sources: tuple[str, ...]
    exact: Bool[np.ndarray, "B"]
    memory: Float[np.ndarray, "B M W"]
    way: str
    before: Int[np.ndarray, "B C"]
    tokens: Int[np.ndarray, "B T"]
    after: Int[np.ndarray, "B n"]

    def reads(
        self,
        lm: LanguageModel,
        memory: Float[np.ndarray, "B M W"] | None,
        *parts: np.ndarray,
    ) -> tuple[Float[np.ndarray, "B P D"], Float[np.ndarray, "B M W"] | None]:
        """Input vectors of a memory and what follows it, and the cache before them.

        Args:
          lm: the language model.
          memory: memory of each text, written as these are; None for none.
          parts: what is read then, each part memory [B M D] or token ids [B T].

        Raises:
          InputError: nothing can follow a memory that was written in this way.
        """
        if memory is None:
            return joined(lm, *parts), None
        first = np.full((len(memory), 1), start_token(lm) or 0, np.int32)
        before, cached = WAYS[self.way].before(memory, first)
        return joined(lm, *before, *parts), cached

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
        way=files[records[0]["memory_file"]][records[0]["memory_key"]].way,
        memory=np.stack([files[r["memory_file"]][r["memory_key"]].memory for r in records]),
        before=whole[:, :C],
        tokens=whole[:, C:end],
        after=whole[:, end:],
    )
