"""The host's records of one text in flight."""

import dataclasses

import numpy as np

from memcomp.data.texts import Text

NEVER = -1  # first-right step of a token that was never right


@dataclasses.dataclass
class Slot:
    """A text in flight, with the host's records of it.

    Attributes:
      text: the whole text.
      first_right: int32 [T], the step at which each token was first right, or `NEVER`.
      seconds: the text's share of the wall-clock time of its chunks.
      token_steps: number of tokens that its steps have computed, summed.
      losses: mean loss of each step, an array a chunk.
      accuracies: accuracy of each step, an array a chunk.
    """

    text: Text
    first_right: np.ndarray
    seconds: float = 0.0
    token_steps: int = 0
    losses: list[np.ndarray] = dataclasses.field(default_factory=list)
    accuracies: list[np.ndarray] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, text: Text) -> "Slot":
        """The slot of a text before its first step."""
        return cls(text, np.full(len(text.tokens), NEVER, np.int32))

    @property
    def steps(self) -> int:
        """Steps in this slot; the text may have had more before, with shorter targets."""
        return sum(len(losses) for losses in self.losses)

    def note(self, steps: int, loss, accuracy, looked_at, first_right) -> None:
        """Records a chunk in which this text took `steps` steps."""
        before = self.steps
        self.losses.append(loss[:steps])
        self.accuracies.append(accuracy[:steps])
        self.token_steps += int(looked_at[:steps].sum())
        now = np.full(len(self.first_right), steps)  # never, where it was not looked at
        now[: len(first_right)] = first_right[: len(now)]
        new = (self.first_right == NEVER) & (now < steps)
        self.first_right = np.where(new, before + now, self.first_right).astype(np.int32)
