"""`CramResult`: what cramming one text came to."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class CramResult:
    """What cramming one text came to.

    Attributes:
      text_id: of the text.
      source: of the text.
      tokens: int32 [T]: the text.
      memory: float32 [M D]: the vectors that scored what is reported.
      accuracy: share of the scored tokens that are right, teacher-forced.
      prefix: leading tokens that are right by more than the recipe's margin.
      loss_nats: mean cross-entropy of a scored token.
      min_loss_nats: smallest mean cross-entropy of any step (reference protocol).
      margin: smallest margin in logits of a scored token.
      steps: gradient evaluations that the text took.
      diverged_at: the step, from 0, whose loss was not finite, after which the text was
        given up; None where every loss was finite. What is reported was found before it.
      protocol: "strict" or "reference".
      num_given: how many leading tokens the protocol gives and does not score.
      lm_name: what the LM was loaded from.
      lm_fingerprint: SHA-256 of its weights and of what its config computes.
      seconds: the text's share of the loop's time: each chunk's, by texts in flight.
      loss_curve: float32 [steps]: mean loss at every step.
      accuracy_curve: float32 [steps].
      first_right_steps: int32 [T]: the step, from 0, at which each token was first right;
        -1 for never.
      opt_state: final state of the optimiser, for whoever continues from `memory`.
      process: that the text's place belonged to.
      comes_back: whether the tokenizer gives back the text from its tokens; None where
        they were given as ids.
    """

    text_id: int
    source: str
    tokens: np.ndarray
    memory: np.ndarray
    accuracy: float
    prefix: int
    loss_nats: float
    min_loss_nats: float
    margin: float
    steps: int
    protocol: str
    num_given: int
    lm_name: str
    lm_fingerprint: str
    seconds: float
    loss_curve: np.ndarray
    accuracy_curve: np.ndarray
    first_right_steps: np.ndarray
    opt_state: Any = dataclasses.field(default=None, repr=False)
    process: int = 0
    diverged_at: int | None = None
    comes_back: bool | None = None

    @property
    def exact(self) -> bool:
        """Whether every scored token is right, teacher-forced."""
        return self.accuracy == 1.0

    @property
    def num_tokens(self) -> int:
        """Length of the text (T)."""
        return len(self.tokens)

    @property
    def token_steps(self) -> int:
        """Gradient evaluations times tokens: the cost, free of batching and padding."""
        return self.steps * len(self.tokens)
