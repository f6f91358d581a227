"""What a memory is worth: the LM with it beside the LM without it.

Unless a name says mean, figures are sums over the scored tokens of one text.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
from jaxtyping import Array, Int

from memcomp.cram.memory_file import Memory
from memcomp.cram.pool import CramResult
from memcomp.data.texts import text_sha256
from memcomp.data.tokens import ids_to_text, num_bytes, pieces
from memcomp.evaluation.decoding import decode
from memcomp.lm import LanguageModel
from memcomp.nn.cross_entropy import TokenScores, token_scores
from memcomp.sharding import fetch

BITS_PER_NAT = 1 / math.log(2)
GROUP = 8  # texts that are scored or decoded at a time, so that one program serves all


class Baseline(NamedTuple):
    """The LM without memory on one text.

    Attributes:
      loss_nats: mean cross-entropy of a scored token.
      accuracy: share of the scored tokens that are right.
      surprise_nats: [T] cross-entropy of each token; NaN where it is given.
    """

    loss_nats: float
    accuracy: float
    surprise_nats: np.ndarray


def baselines(
    lm: LanguageModel,
    texts: Sequence[Int[np.ndarray, "_"]],
    *,
    num_given: int,
    pad_to: int,
    vocab_chunk: int,
) -> list[Baseline]:
    """The LM without memory on each text, teacher-forced.

    Where the first token is scored (strict protocol), the LM reads its BOS before it, or
    its EOS if it has no BOS; an LM that has neither predicts it uniformly. Where it is
    given, the LM reads nothing before it.

    Args:
      lm: the language model.
      texts: token ids of each.
      num_given: how many leading tokens are not scored.
      pad_to: length to which texts are padded; at least that of the longest.
      vocab_chunk: rows of the vocabulary whose logits exist at a time.

    Source: `original_loss` of Kuratov et al. 2025, arXiv:2502.13063; the first token is
      our addition.
    """
    start = None if num_given else start_token(lm)
    found = []
    for group in _groups(texts):
        tokens = np.zeros((GROUP, pad_to), np.int32)
        for row, text in zip(tokens, group, strict=False):
            row[: len(text)] = text
        loss, right = _scores_without_memory(lm, tokens, start, vocab_chunk)
        for text, text_loss, text_right in zip(group, loss, right, strict=False):
            scored = slice(num_given, len(text))
            lm.check_finite(np.isfinite(text_loss[scored]))
            mean = float(np.mean(text_loss[scored], dtype=np.float64))
            surprise = np.full(len(text), np.nan, np.float32)
            surprise[scored] = text_loss[scored]
            found.append(Baseline(mean, float(np.mean(text_right[scored])), surprise))
    return found


def _scores_without_memory(
    lm: LanguageModel, tokens: np.ndarray, start: int | None, vocab_chunk: int
) -> tuple[np.ndarray, np.ndarray]:
    """Loss and rightness of every token [B T]; without `start` the first is uniform."""
    read, targets = tokens[:, :-1], tokens[:, 1:]
    if start is not None:
        first = np.full_like(tokens[:, :1], start)
        read, targets = np.concatenate([first, read], axis=1), tokens
    scores = _token_scores(
        lm.params, read, targets, module=lm.module, vocab_chunk=vocab_chunk
    )
    loss, right = fetch(scores.loss), fetch(scores.margin) > 0
    if start is None:
        uniform = np.full_like(loss, math.log(lm.config.vocab_size), shape=(len(loss), 1))
        loss = np.concatenate([uniform, loss], axis=1)
        right = np.concatenate([uniform < 0, right], axis=1)
    return loss, right


@functools.partial(jax.jit, static_argnames=("module", "vocab_chunk"))
def _token_scores(
    params: Any,
    read: Int[Array, "B T"],
    targets: Int[Array, "B T"],
    *,
    module: Any,
    vocab_chunk: int,
) -> TokenScores:
    variables = {"params": params}
    hidden, _ = module.apply(variables, module.apply(variables, read, method="embed"))
    rows = module.apply(variables, method="unembedding")
    score = functools.partial(token_scores, chunk=vocab_chunk, softcap=module.softcap)
    return jax.vmap(score, (0, None, 0))(hidden, rows, targets)


def start_token(lm: LanguageModel) -> int | None:
    """What the LM reads before a text: BOS, or EOS; None where it has neither."""
    tokenizer = lm.tokenizer
    if tokenizer is None:
        return None
    if tokenizer.bos_token_id is not None:
        return tokenizer.bos_token_id
    return tokenizer.eos_token_id


def decode_stored(
    lm: LanguageModel, memories: Sequence[Memory], pad_to: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each text as decoded from its vector in float32, and after rounding it to bfloat16.

    Args:
      lm: the language model.
      memories: as read back from disk, all with the same number of vectors.
      pad_to: length that is decoded; at least the longest `num_tokens`.
    """
    decoded = []
    for group in _groups(memories):
        rows = group + [group[-1]] * (GROUP - len(group))
        memory = np.stack([m.memory for m in rows])
        given = np.array([m.given for m in rows], np.int32)
        rounded = memory.astype(ml_dtypes.bfloat16).astype(np.float32)
        both = [decode(lm, vectors, pad_to, given) for vectors in (memory, rounded)]
        for m, plain, short in zip(group, *both, strict=False):
            decoded.append((plain[: m.num_tokens], short[: m.num_tokens]))
    return decoded


def _groups(items: Sequence) -> list[list]:
    return [list(items[i : i + GROUP]) for i in range(0, len(items), GROUP)]


def record(
    result: CramResult,
    baseline: Baseline,
    decoded: tuple[np.ndarray, np.ndarray],
    lm: LanguageModel,
) -> dict[str, Any]:
    """One line of results.jsonl, without where its memory is.

    `reference` multiplies means by T, although T - 1 tokens are scored, and takes the
    smallest loss of any step, as the published tables do; `strict` sums over the T scored
    tokens and takes the loss of the vector that is stored.

    Source: Kuratov et al. 2025, arXiv:2502.13063, equations 3 and 4.
    """
    reference = result.protocol == "reference"
    loss = result.min_loss_nats if reference else result.loss_nats
    gain = (baseline.loss_nats - loss) * result.num_tokens
    right = (result.accuracy - baseline.accuracy) * result.num_tokens
    plain, rounded = decoded
    return {
        "text_id": result.text_id,
        "source": result.source,
        "num_tokens": result.num_tokens,
        "num_memory": len(result.memory),
        "protocol": result.protocol,
        "accuracy": result.accuracy,
        "exact_teacher_forced": result.exact,
        "exact_greedy": bool(np.array_equal(plain, result.tokens)),
        "exact_greedy_bfloat16": bool(np.array_equal(rounded, result.tokens)),
        "greedy_prefix_tokens": _prefix(plain, result.tokens),
        "margin_logits": result.margin,
        "steps": result.steps,
        "token_steps": result.token_steps,
        "loss_nats": loss,
        "baseline_loss_nats": baseline.loss_nats,
        "baseline_accuracy": baseline.accuracy,
        "information_gain_nats": gain,
        "information_gain_bits": gain * BITS_PER_NAT,
        "memory_bits": 32 * result.memory.size,
        "token_gain": right,
        "seconds": result.seconds,
        **_of_tokens(result, baseline, lm),
        "decoded": _text(lm, plain),
        "curve": thinned(result.loss_curve, result.accuracy_curve),
    }


def _of_tokens(result: CramResult, baseline: Baseline, lm: LanguageModel) -> dict[str, Any]:
    """The text, and what is known of each of its tokens; None where nothing is."""
    known = lm.tokenizer is not None
    return {
        "text": _text(lm, result.tokens),
        "text_comes_back": result.comes_back,
        "num_bytes": num_bytes(lm.tokenizer, result.tokens) if known else None,
        "text_sha256": text_sha256(result.tokens),
        "tokens_text": pieces(lm.tokenizer, result.tokens) if known else None,
        "surprise_nats": [
            None if np.isnan(s) else round(float(s), 4) for s in baseline.surprise_nats
        ],
        "first_right_steps": result.first_right_steps.tolist(),
    }


def said_of_lost_texts(records: Sequence[Mapping[str, Any]]) -> str:
    """A sentence that counts the texts which the tokenizer changes; "" for none."""
    lost = sum(record.get("text_comes_back") is False for record in records)
    if not lost:
        return ""
    return (
        f"The tokenizer does not give back the text of {lost} of {len(records)} texts: "
        "there it is tokens that come back, and not what the file has."
    )


def _prefix(decoded: np.ndarray, tokens: np.ndarray) -> int:
    wrong = np.flatnonzero(decoded != tokens)
    return int(wrong[0]) if len(wrong) else len(tokens)


def _text(lm: LanguageModel, tokens: np.ndarray) -> str | None:
    return None if lm.tokenizer is None else ids_to_text(lm.tokenizer, tokens)


def thinned(loss: np.ndarray, accuracy: np.ndarray, most: int = 100) -> dict[str, list]:
    """Loss and accuracy at up to `most` steps, spaced evenly in the logarithm."""
    last = len(loss) - 1
    steps = np.unique(np.geomspace(1, last + 1, most).round().astype(int)) - 1
    return {
        "steps": steps.tolist(),
        "loss_nats": [round(float(loss[i]), 5) for i in steps],
        "accuracy": [round(float(accuracy[i]), 5) for i in steps],
    }
