"""What an LM says from soft prompts or from texts, beside what it should say."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from memcomp.compressors.batches import Examples
from memcomp.compressors.compress import SoftPrompts, TrainedCompressor, compress
from memcomp.compressors.generate import decode_rows
from memcomp.compressors.layout import SPECIAL, Row, Rows, prompt_of
from memcomp.compressors.objectives import Batch, Task, row_scores, token_losses
from memcomp.compressors.protocol import Params
from memcomp.cram.api import cram
from memcomp.cram.config import CramConfig
from memcomp.cram.result import CramResult
from memcomp.data.tokens import ids_to_text
from memcomp.lm.protocol import CausalLM, LanguageModel
from memcomp.lm.score import in_groups
from memcomp.metrics.overlap import corpus_bleu, rouge, text_bleu, words_of_ids
from memcomp.sharding import on_mesh

# Of the scored tokens of each row, [B A]: their cross-entropy, and whether they are right.
_Scores = tuple[Float[Array, "B A"], Bool[Array, "B A"]]


class Spoken(NamedTuple):
    """Free-running answers and what they should have been, without EOS."""

    outputs: list[Int[np.ndarray, "_"]]
    references: list[Int[np.ndarray, "_"]]


def teacher_forced(
    params: Params, lm: LanguageModel, batch: Batch, task: Task, *, batch_size: int = 16
) -> list[dict[str, float]]:
    """A record a row: `nats_per_token`, `accuracy` and `num_tokens` of its scored tokens.

    `first_nats`, of the first of them, stands beside them: where a text begins in the
    middle of another, it is dear without vectors.

    Args:
      params: the trained tree.
      lm: the language model.
      batch: of any number of rows, as numpy arrays.
      task: see `Task`.
      batch_size: rows at once; the last of them are filled up, so that it is one program.
    """
    losses = functools.partial(_losses, params, lm.params, task=task, dtype=lm.dtype)
    return _records(lm, losses, batch, batch.rows.scored, batch_size)


def teacher_forced_from(
    lm: LanguageModel,
    prompts: SoftPrompts,
    rows: Rows,
    *,
    batch_size: int = 16,
    vocab_chunk: int = 8192,
) -> list[dict[str, float]]:
    """`teacher_forced` from vectors that are there already.

    Args:
      lm: the language model.
      prompts: of one context a row.
      rows: what the LM reads, as numpy arrays.
      batch_size: see `teacher_forced`.
      vocab_chunk: rows of the unembedding at once.
    """
    scores = functools.partial(
        _scores, prompts.special, lm.params, module=lm.module, vocab_chunk=vocab_chunk
    )
    return _records(lm, scores, (prompts.vectors, rows), rows.scored, batch_size)


def _records(
    lm: LanguageModel,
    scores: Callable[[Any], _Scores],
    batch: Any,
    scored: Any,
    batch_size: int,
) -> list[dict[str, float]]:
    """The figures of each row from the `scores` of so many rows of a batch at once."""
    with on_mesh(lm.mesh):
        found = in_groups(scores, batch, batch_size)
    return [
        {
            "nats_per_token": float(np.mean(nats[where], dtype=np.float64)),
            "accuracy": float(right[where].mean()),
            "num_tokens": int(where.sum()),
            "first_nats": float(nats[where][0]),
        }
        for where, nats, right in zip(np.asarray(scored), *found, strict=True)
    ]


@functools.partial(jax.jit, static_argnames=("task", "dtype"))
def _losses(
    params: Params, lm_params: Params, batch: Batch, *, task: Task, dtype: Any
) -> _Scores:
    params = jax.tree.map(lambda x: x.astype(dtype), params)
    losses = token_losses(params, lm_params, batch, task)
    return losses.nats, losses.right


@functools.partial(jax.jit, static_argnames=("module", "vocab_chunk"))
def _scores(
    special: Float[Array, "N D"],
    lm_params: Params,
    batch: tuple[Float[Array, "B P D"], Rows],
    *,
    module: CausalLM,
    vocab_chunk: int,
) -> _Scores:
    prompts, rows = batch
    found = row_scores(prompts, special, lm_params, rows, module, vocab_chunk)
    return found.nats, found.right


def cram_contexts(
    lm: LanguageModel,
    contexts: Sequence[Int[np.ndarray, "_"]],
    counts: Sequence[int],
    cfg: CramConfig,
    report: Callable[[], None] = lambda: None,
) -> tuple[SoftPrompts, list[CramResult]]:
    """Each context crammed into vectors of its own, which an LM reads as soft prompts.

    A ceiling of what so many vectors can hold, which no compressor makes in one pass; not
    of what can be asked of them: memory is made to say its text from the beginning of a
    row, with nothing before it, and nothing else. A context that is too long for that
    keeps the best memory that was found.

    Args:
      lm: the frozen language model.
      contexts: token ids of each; those that are the same are crammed once.
      counts: vectors of each.
      cfg: how; its `num_tokens` and `num_memory` are not used.
      report: called after each chunk of steps.

    Returns:
      Prompts, whose special vectors are 0; and what cramming each context came to.

    Raises:
      InputError: a context for which the LM has no room.
    """
    keys = [(int(n), tuple(map(int, x))) for n, x in zip(counts, contexts, strict=True)]
    found: dict[Any, CramResult] = {}
    for count in sorted(set(map(int, counts))):
        own = [key for key in dict.fromkeys(keys) if key[0] == count]
        how = dataclasses.replace(cfg, num_tokens=None, num_memory=count)
        texts = [np.asarray(tokens, np.int32) for _, tokens in own]
        results = cram(lm, texts, how, report)
        found |= zip(own, results, strict=True)
    results = [found[key] for key in keys]
    vectors = np.zeros((len(keys), max(counts), lm.config.d_model), np.float32)
    for row, result in zip(vectors, results, strict=True):
        row[: len(result.memory)] = result.memory
    special = np.zeros((len(SPECIAL), lm.config.d_model), np.float32)
    made = SoftPrompts(vectors, np.asarray(counts), special, lm.name, lm.fingerprint)
    return made, results


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
    return spoken_from(lm, prompts, examples.rows, **decoding)


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
    return spoken_from(lm, nothing, rows, **decoding)


def spoken_from(
    lm: LanguageModel, prompts: SoftPrompts, rows: Sequence[Row], **decoding: Any
) -> Spoken:
    """What the LM says from vectors that are there already."""
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

    def write(tokens: np.ndarray) -> str:
        if lm.tokenizer is None:
            return words_of_ids(tokens.tolist())
        return ids_to_text(lm.tokenizer, tokens)

    outputs, references = (list(map(write, part)) for part in spoken)
    return outputs, references


def _words(lm: LanguageModel) -> str:
    return "13a" if lm.tokenizer is not None else "none"
