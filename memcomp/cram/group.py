"""Groups of texts that share a part of their memory, and are crammed as one text.

Letters: K texts of a group, T tokens of each, M rows of memory, W numbers of a row.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from memcomp.cram.config import CramConfig
from memcomp.cram.result import CramResult
from memcomp.cram.ways.table import scores_given_memory
from memcomp.data.texts import Text
from memcomp.errors import InputError
from memcomp.lm.protocol import LanguageModel


def groups_of(texts: Sequence[Text], cfg: CramConfig) -> list[list[Text]]:
    """Groups of successive texts of one length, each as large as one memory is for.

    Raises:
      InputError: some length has too few texts for whole groups.
    """
    size = cfg.way.num_texts(cfg.num_memory)
    by_length: dict[int, list[Text]] = {}
    for text in texts:
        by_length.setdefault(len(text.tokens), []).append(text)
    for length, same in by_length.items() if size > 1 else ():
        if len(same) % size:
            raise InputError(
                f"memory {cfg.memory!r} holds {size} texts of one length, and the number "
                f"of texts of {length} tokens is {len(same)}; give a multiple of {size}, "
                "all cut to one num_tokens, or change num_memory, the size of a group"
            )
    return [
        same[i : i + size] for same in by_length.values() for i in range(0, len(same), size)
    ]


def check_alone(cfg: CramConfig, what: str) -> None:
    """Raises `InputError` if one memory holds several texts, which `what` cannot use."""
    if (num_texts := cfg.way.num_texts(cfg.num_memory)) > 1:
        raise InputError(
            f"memory {cfg.memory!r} holds {num_texts} texts, and {what} is of one text; "
            "set num_memory to 1, or choose another way of writing"
        )


def as_one(texts: Sequence[Text]) -> Text:
    """The text that stands for a group: token 1 of each text, then token 2 of each."""
    if len(texts) == 1:
        return texts[0]
    tokens = np.stack([text.tokens for text in texts], axis=1).reshape(-1)
    return dataclasses.replace(texts[0], tokens=tokens, num_faithful=None)


def apart(
    result: CramResult, texts: Sequence[Text], lm: LanguageModel, margin: float
) -> list[CramResult]:
    """Results of the texts of a group: each with its own row of the memory and the last.

    Steps are those of the group, and so is the curve of the loss. Token-steps, seconds and
    the number of parameters are a text's share of them.

    Args:
      result: result of the text `as_one(texts)`.
      texts: the texts of the group.
      lm: the frozen language model.
      margin: margin in logits by which a token of the prefix is right.
    """
    if len(texts) == 1:
        return [result]
    K = len(texts)
    memory = np.stack([result.memory[[i, -1]] for i in range(K)])
    tokens = np.stack([text.tokens for text in texts])
    loss, margins = np.full(tokens.shape, np.inf), np.full(tokens.shape, -np.inf)
    if math.isfinite(result.loss_nats):  # otherwise the group diverged at its first step
        loss, margins = scores_given_memory(lm, memory, tokens, result.way)
    first_right = result.first_right_steps.reshape(-1, K)
    return [
        dataclasses.replace(
            result,
            text_id=text.text_id,
            restart=text.restart,
            seed_id=text.seed_id,
            source=text.source,
            tokens=text.tokens,
            memory=memory[i],
            num_parameters=round(result.num_parameters / K),
            accuracy=float(np.mean(margins[i] > 0)),
            prefix=int(np.cumprod(margins[i] > margin).sum()),
            loss_nats=float(np.mean(loss[i])),
            margin=float(np.min(margins[i])),
            token_steps=result.token_steps // K,
            seconds=result.seconds / K,
            first_right_steps=first_right[:, i],
            opt_state=None,
            comes_back=text.comes_back,
        )
        for i, text in enumerate(texts)
    ]
