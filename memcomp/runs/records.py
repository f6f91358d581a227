"""Records of what a memory is worth: the LM with it compared to the LM without it.

Information gains and token gains are sums over the scored tokens of one text; losses and
accuracies are means.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Int

from memcomp.cram.decode import decode
from memcomp.cram.memory_file import Memory
from memcomp.cram.result import CramResult
from memcomp.data.texts import text_sha256
from memcomp.data.tokens import ids_to_text, num_bytes, pieces
from memcomp.lm.protocol import LanguageModel
from memcomp.lm.score import BITS_PER_NAT, GROUP, Baseline, grouped


def decode_stored(
    lm: LanguageModel, memories: Sequence[Memory], pad_to: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Decodes each text from its memory in float32, and from the memory in bfloat16.

    Args:
      lm: the language model.
      memories: memories as read back from disk, all of one way and one shape.
      pad_to: number of tokens to decode; at least the longest `num_tokens`.
    """
    decoded = []
    for group in grouped(memories):
        rows = group + [group[-1]] * (GROUP - len(group))
        memory = np.stack([m.memory for m in rows])
        given = np.array([m.given for m in rows], np.int32)
        rounded = memory.astype(ml_dtypes.bfloat16).astype(np.float32)
        both = [decode(lm, m, pad_to, given, rows[0].way) for m in (memory, rounded)]
        for m, plain, short in zip(group, *both, strict=False):
            decoded.append((plain[: m.num_tokens], short[: m.num_tokens]))
    return decoded


def record(
    result: CramResult,
    baseline: Baseline,
    decoded: tuple[np.ndarray, np.ndarray],
    lm: LanguageModel,
) -> dict[str, Any]:
    """Returns a record of results.jsonl, without the file and key of its memory.

    `reference` multiplies means by T, although T - 1 tokens are scored, and takes the
    smallest loss of any step, as the published tables do; `strict` sums over the T scored
    tokens and takes the loss of the vector that is stored.

    Source: Kuratov et al. 2025, arXiv:2502.13063, equations 3 and 4.
    """
    reference = result.protocol == "reference"
    loss = result.min_loss_nats if reference else result.loss_nats
    # A text that diverged at its first step has no loss, and its memory gains nothing.
    loss = loss if math.isfinite(loss) else None
    gain = 0.0 if loss is None else (baseline.loss_nats - loss) * result.num_tokens
    right = (result.accuracy - baseline.accuracy) * result.num_tokens
    plain, rounded = decoded
    return {
        "text_id": result.text_id,
        "restart": result.restart,
        "seed_id": result.seed_id,
        "source": result.source,
        "num_tokens": result.num_tokens,
        "num_memory": len(result.memory),
        "memory": result.way,
        "num_parameters": result.num_parameters,
        "protocol": result.protocol,
        "accuracy": result.accuracy,
        "exact_teacher_forced": result.exact,
        "exact_greedy": bool(np.array_equal(plain, result.tokens)),
        "exact_greedy_bfloat16": bool(np.array_equal(rounded, result.tokens)),
        "greedy_prefix_tokens": common_prefix(plain, result.tokens),
        "margin_logits": result.margin if math.isfinite(result.margin) else None,
        "diverged_at": result.diverged_at,
        "steps": result.steps,
        "token_steps": result.token_steps,
        "loss_nats": loss,
        "baseline_loss_nats": baseline.loss_nats,
        "baseline_accuracy": baseline.accuracy,
        "information_gain_nats": gain,
        "information_gain_bits": gain * BITS_PER_NAT,
        "memory_bits": 32 * result.num_parameters,
        "token_gain": right,
        "seconds": result.seconds,
        **_of_tokens(result, baseline, lm),
        "decoded": _text(lm, plain),
        "curve": thinned(result.loss_curve, result.accuracy_curve),
    }


def _of_tokens(result: CramResult, baseline: Baseline, lm: LanguageModel) -> dict[str, Any]:
    """Returns the text and facts about each of its tokens; None for what is unknown."""
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
    """A sentence with the number of texts that the tokenizer changes; "" for none."""
    lost = sum(record["text_comes_back"] is False for record in records)
    if not lost:
        return ""
    return (
        f"The tokenizer does not give back the text of {lost} of {len(records)} texts: "
        "there it is tokens that come back, and not what the file has."
    )


def common_prefix(decoded: Int[np.ndarray, "T"], tokens: Int[np.ndarray, "T"]) -> int:
    """Number of leading tokens that are the same."""
    wrong = np.flatnonzero(decoded != tokens)
    return int(wrong[0]) if len(wrong) else len(tokens)


def _text(lm: LanguageModel, tokens: np.ndarray) -> str | None:
    return None if lm.tokenizer is None else ids_to_text(lm.tokenizer, tokens)


def thinned(loss: np.ndarray, accuracy: np.ndarray, most: int = 100) -> dict[str, list]:
    """Loss and accuracy at up to `most` steps, spaced evenly in the logarithm."""
    if not len(loss):
        return {"steps": [], "loss_nats": [], "accuracy": []}
    steps = np.unique(np.geomspace(1, len(loss), most).round().astype(int)) - 1
    return {
        "steps": steps.tolist(),
        "loss_nats": [round(float(loss[i]), 5) for i in steps],
        "accuracy": [round(float(accuracy[i]), 5) for i in steps],
    }
