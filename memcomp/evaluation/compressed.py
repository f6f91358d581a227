"""What an LM says from soft prompts or from texts, beside what it should say."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from memcomp.compressor.batches import Examples
from memcomp.compressor.compress import SoftPrompts, TrainedCompressor, compress
from memcomp.compressor.decoding import decode_rows
from memcomp.compressor.layout import SPECIAL, Row, prompt_of
from memcomp.compressor.objectives import Batch, Task, TokenLosses, token_losses
from memcomp.compressor.protocol import Params
from memcomp.evaluation.overlap import corpus_bleu, rouge, text_bleu, words_of_ids
from memcomp.lm import LanguageModel
from memcomp.sharding import fetch


class Spoken(NamedTuple):
    """Free-running answers and what they should have been, without EOS."""

    outputs: list[Int[np.ndarray, "_"]]
    references: list[Int[np.ndarray, "_"]]


def teacher_forced(
    params: Params, lm: LanguageModel, batch: Batch, task: Task, *, batch_size: int = 16
) -> list[dict[str, float]]:
    """Of each row: `nats_per_token`, `accuracy` and `num_tokens`, of its scored tokens.

    `first_nats`, of the first of them, stands beside them: where a text begins in the
    middle of another, it is dear without vectors.

    Args:
      params: the trained tree.
      lm: the language model.
      batch: of any number of rows, as numpy arrays.
      task: see `Task`.
      batch_size: rows at once; the last of them are filled up, so that it is one program.
    """
    B, found = len(batch.rows.scored), []
    for first in range(0, B, batch_size):
        numbers = np.arange(first, first + batch_size)
        numbers = np.where(numbers < B, numbers, first)
        rows = jax.tree.map(lambda x, n=numbers: x[n], batch)
        losses = _losses(params, lm.params, rows, task=task, dtype=lm.dtype)
        found.append(fetch((losses.nats, losses.right)))
    nats_of_all, right_of_all = map(np.concatenate, zip(*found, strict=True))
    records = []
    for scored, nats, right in zip(
        np.asarray(batch.rows.scored), nats_of_all[:B], right_of_all[:B], strict=True
    ):
        records.append(
            {
                "nats_per_token": float(np.mean(nats[scored], dtype=np.float64)),
                "accuracy": float(right[scored].mean()),
                "num_tokens": int(scored.sum()),
                "first_nats": float(nats[scored][0]),
            }
        )
    return records


@functools.partial(jax.jit, static_argnames=("task", "dtype"))
def _losses(
    params: Params, lm_params: Params, batch: Batch, *, task: Task, dtype: Any
) -> TokenLosses:
    params = jax.tree.map(lambda x: x.astype(dtype), params)
    return token_losses(params, lm_params, batch, task)


def from_soft_prompts(
    lm: LanguageModel,
    trained: TrainedCompressor,
    examples: Examples,
    *,
    max_chunk: int | None,
    **decoding: Any,
) -> Spoken:
    """What the LM says from the vectors of each context, as `decode_rows` decodes it."""
    prompts = compress(lm, trained, examples.contexts, max_chunk=max_chunk)
    return _spoken(lm, prompts, examples.rows, **decoding)


def from_texts(lm: LanguageModel, rows: Sequence[Row], **decoding: Any) -> Spoken:
    """What the LM says where it reads the text itself, or nothing of it."""
    D = lm.config.d_model
    nothing = SoftPrompts(
        vectors=np.zeros((len(rows), 0, D), np.float32),
        counts=np.zeros(len(rows), int),
        special=np.zeros((len(SPECIAL), D), np.float32),
        lm_name=lm.name,
        lm_fingerprint=lm.fingerprint,
    )
    return _spoken(lm, nothing, rows, **decoding)


def _spoken(lm, prompts: SoftPrompts, rows: Sequence[Row], **decoding) -> Spoken:
    outputs = decode_rows(lm, prompts, [prompt_of(row) for row in rows], **decoding)
    ends = getattr(lm.tokenizer, "eos_token_id", None)
    wanted = [row.tokens[row.scored] for row in rows]
    references = [
        tokens[:-1] if len(tokens) and tokens[-1] == ends else tokens for tokens in wanted
    ]
    return Spoken(outputs, references)


def overlap(lm: LanguageModel, spoken: Spoken) -> list[dict[str, Any]]:
    """For each answer: `text_bleu`, ROUGE as `rouge_1_f1` and so on, `exact`.

    `output` and `reference` are what was said, and what should have been, as text.
    `num_output_tokens` stands beside them, since ROUGE likes short answers. Without a
    tokenizer there is no text: BLEU is then of token ids, and ROUGE left out.
    """
    exact = [bool(np.array_equal(a, b)) for a, b in zip(*spoken, strict=True)]
    records = [
        {"exact": same, "num_output_tokens": len(output)}
        for same, output in zip(exact, spoken.outputs, strict=True)
    ]
    outputs, references = texts(lm, spoken)
    for record, bleu in zip(
        records, text_bleu(outputs, references, words=_words(lm)), strict=True
    ):
        record["text_bleu"] = float(bleu)
    if lm.tokenizer is not None:
        for name, scores in rouge(outputs, references).items():
            for part, values in scores._asdict().items():
                for record, value in zip(records, values, strict=True):
                    record[f"{name}_{part}"] = float(value)
    for record, output, reference in zip(records, outputs, references, strict=True):
        record |= {"output": output, "reference": reference}
    return records


def bleu(lm: LanguageModel, records: Sequence[dict[str, Any]]) -> float:
    """BLEU-4 of all answers of `overlap` together, which is no mean over them."""
    pairs = ([record[name] for record in records] for name in ("output", "reference"))
    return corpus_bleu(*pairs, words=_words(lm))


def texts(lm: LanguageModel, spoken: Spoken) -> tuple[list[str], list[str]]:
    """Answers and references as text; as numbers where there is no tokenizer."""
    if lm.tokenizer is None:
        write = words_of_ids
    else:
        write = lm.tokenizer.decode
    outputs, references = ([write(tokens.tolist()) for tokens in part] for part in spoken)
    return outputs, references


def _words(lm: LanguageModel) -> str:
    return "13a" if lm.tokenizer is not None else "none"
