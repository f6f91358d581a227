"""`CramResult`: the result of cramming one text."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class CramResult:
    """Result of cramming one text.

    Attributes:
      text_id, restart, seed_id: those of the text.
      source: source of the text.
      tokens: int32 [T], the text.
      memory: float32 [M W], the rows that have the scores reported here; in the way
        "vectors", input vectors.
      num_parameters: numbers that were optimised for the text; of a row that a group of
        texts shares, each text counts its share.
      accuracy: share of the scored tokens that are right, teacher-forced.
      prefix: number of leading tokens that are right by more than the recipe's margin.
      loss_nats: mean cross-entropy in nats per scored token.
      min_loss_nats: smallest mean cross-entropy of any step (reference protocol).
      margin: smallest margin in logits of a scored token.
      steps: number of gradient evaluations of the text.
      token_steps: number of tokens that these evaluations computed, summed: the cost, free
        of batching and padding. It is steps times tokens, unless the recipe grows.
      diverged_at: step, from 0, whose loss was not finite, so that the text was given up
        with the scores of earlier steps; None if every loss was finite.
      protocol: "strict" or "reference".
      num_given: number of leading tokens that the protocol gives and does not score.
      way: way of writing, a key of `memcomp.cram.ways.table.WAYS`.
      lm_name: folder or name that the LM was loaded from.
      lm_fingerprint: SHA-256 of its weights and of what its config computes.
      seconds: the text's share of the loop's wall-clock time: the time of each chunk,
        divided by the number of texts in flight.
      loss_curve: float32 [steps], the mean loss of the tokens that each step scored, which
        are all tokens, unless the recipe grows.
      accuracy_curve: float32 [steps], the number of these tokens that are right, as a share
        of all scored tokens of the text.
      first_right_steps: int32 [T], the step, from 0, at which each token was first right;
        -1 for never.
      opt_state: final optimiser state, with which one can continue from `memory`.
      process: process that owned the text's batch slot.
      comes_back: whether the tokenizer decodes the tokens to the same text; None if the
        text was given as token ids.
    """

    text_id: int
    restart: int
    seed_id: int
    source: str
    tokens: np.ndarray
    memory: np.ndarray
    num_parameters: int
    accuracy: float
    prefix: int
    loss_nats: float
    min_loss_nats: float
    margin: float
    steps: int
    token_steps: int
    protocol: str
    num_given: int
    way: str
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
