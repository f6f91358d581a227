"""`generate`: what a language model says from soft prompts, as text."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from memcomp.compressor import layout
from memcomp.compressor.compress import SoftPrompts, own_tokens
from memcomp.compressor.decoding import decode_rows
from memcomp.compressor.layout import Row
from memcomp.compressor.templates import make_template
from memcomp.data.tokens import ids_to_text
from memcomp.errors import InputError
from memcomp.lm import LanguageModel


def generate(
    lm: LanguageModel,
    prompts: SoftPrompts,
    ask: str = "reproduce",
    *,
    num_tokens: int = 128,
    template: str = "published",
    **decoding: Any,
) -> list[str]:
    """What the LM says from the vectors of each context.

    Args:
      lm: the language model.
      prompts: of `compress`.
      ask: "reproduce", what a pretrained compressor has learnt; "continue"; or anything
        else, which is a question about the contexts, for one that is fine-tuned.
      num_tokens: the most tokens an answer.
      template: of questions, a key of `memcomp.compressor.templates.TEMPLATES`.
      **decoding: `temperature`, `top_p`, `key`, `stop` and `batch_size` of
        `memcomp.compressor.decoding.decode_rows`; greedy without them.

    Raises:
      InputError: soft prompts of another LM, an LM without a tokenizer, settings without
        sense, or no room for so many tokens.
    """
    if lm.tokenizer is None:
        raise InputError(f"{lm.name} has no tokenizer; use decode_rows, which gives ids")
    rows = asked_rows(lm, prompts.counts, ask, template)
    answers = decode_rows(lm, prompts, rows, num_tokens=num_tokens, **decoding)
    return [ids_to_text(lm.tokenizer, answer) for answer in answers]


def asked_rows(
    lm: LanguageModel,
    counts: Sequence[int] | Int[np.ndarray, "B"],
    ask: str,
    template: str,
) -> list[Row]:
    """What the LM reads of each context before it answers; see `generate`.

    Args:
      lm: the language model.
      counts: vectors of each context.
      ask: as of `generate`.
      template: as of `generate`.

    Raises:
      InputError: no such template, or one that the tokenizer does not have.
    """
    return [_asked(lm, ask, template, int(count)) for count in counts]


def _asked(lm: LanguageModel, ask: str, template: str, count: int) -> Row:
    nothing = np.zeros(0, np.int32)
    if ask == "reproduce":
        return layout.autoencoding_row(nothing, count, None)
    if ask == "continue":
        return layout.continuation_row(nothing, count)
    words = make_template(template, lm.tokenizer)
    question = words.question(own_tokens(lm, words.written(ask)), nothing)
    return layout.answer_row(question, count, None)
