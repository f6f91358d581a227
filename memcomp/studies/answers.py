"""Scores an LM's answers from soft prompts or from texts against the expected answers."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from memcomp.compressors.compress import SoftPrompts
from memcomp.compressors.generate import decode_rows
from memcomp.compressors.layout import SPECIAL, Row, Rows, prompt_of
from memcomp.compressors.objectives import row_scores
from memcomp.cram.api import cram
from memcomp.cram.config import CramConfig
from memcomp.cram.result import CramResult
from memcomp.data.tokens import ids_to_text
from memcomp.lm.protocol import CausalLM, LanguageModel, Params
from memcomp.lm.score import in_groups
from memcomp.metrics.overlap import corpus_bleu, rouge, text_bleu, words_of_ids
from memcomp.sharding import on_mesh

# Cross-entropy of the scored tokens of each sequence, and whether they are right.
_Scores = tuple[Float[Array, "B A"], Bool[Array, "B A"]]


class Spoken(NamedTuple):
    """Free-running answers and the expected answers (references), without EOS."""

    outputs: list[Int[np.ndarray, "_"]]
    references: list[Int[np.ndarray, "_"]]


def teacher_forced_from(
    lm: LanguageModel,
    prompts: SoftPrompts,
    rows: Rows,
    *,
    batch_size: int = 16,
    vocab_chunk: int = 8192,
) -> list[dict[str, float]]:
    """Scores each sequence: `nats_per_token`, `accuracy`, `num_tokens` and `first_nats`.

    `first_nats` is the cross-entropy of the first scored token. It is reported apart
    because without vectors it is high for a text that begins in the middle of another.

    Args:
      lm: the language model.
      prompts: soft prompts, one for each sequence.
      rows: sequences that the LM reads, as numpy arrays.
      batch_size: number of sequences at once; the last group is filled up to it, so that
        only one program is compiled.
      vocab_chunk: number of vocabulary entries of the unembedding at once.
    """
    scores = functools.partial(
        _scores, prompts.special, lm.params, module=lm.module, vocab_chunk=vocab_chunk
    )
    with on_mesh(lm.mesh):
        found = in_groups(scores, (prompts.vectors, rows, prompts.cache), batch_size)
    return [
        {
            "nats_per_token": float(np.mean(nats[where], dtype=np.float64)),
            "accuracy": float(right[where].mean()),
            "num_tokens": int(where.sum()),
            "first_nats": float(nats[where][0]),
        }
        for where, nats, right in zip(np.asarray(rows.scored), *found, strict=True)
    ]


@functools.partial(jax.jit, static_argnames=("module", "vocab_chunk"))
def _scores(
    special: Float[Array, "N D"],
    lm_params: Params,
    batch: tuple[Float[Array, "B P D"], Rows, Float[Array, "B C W"] | None],
    *,
    module: CausalLM,
    vocab_chunk: int,
) -> _Scores:
    prompts, rows, cache = batch
    found = row_scores(prompts, special, lm_params, rows, module, vocab_chunk, cache)
    return found.nats, found.right


def cram_contexts(
    lm: LanguageModel,
    contexts: Sequence[Int[np.ndarray, "_"]],
    counts: Sequence[int],
    cfg: CramConfig,
    report: Callable[[], None] = lambda: None,
    starts: Sequence[Float[np.ndarray, "_ D"]] | None = None,
) -> tuple[SoftPrompts, list[CramResult]]:
    """Crams each context into its own memory, which an LM reads as a soft prompt.

    The result shows how much of a text so many vectors can hold, which no compressor
    reaches in one pass. It is no bound on how well vectors answer questions: memory is
    optimised only to reproduce its text, at the beginning of a sequence. A context that is
    too long to be reproduced exactly keeps the best memory that was found.

    Args:
      lm: the frozen language model.
      contexts: token ids of each context; equal contexts are crammed once.
      counts: number of vectors of each context; not used if memory is a cache.
      cfg: how to cram; its `num_tokens` is not used, and its `num_memory` only for a cache.
      report: called after each chunk of steps.
      starts: initial vectors of each context; None for the recipe's.

    Returns:
      Prompts, whose special vectors are 0, and the result of cramming each context. A cache
      is read without vectors.

    Raises:
      InputError: a context does not fit into the LM's positions.
    """
    if not cfg.way.is_prompt:
        counts = [cfg.num_memory] * len(contexts)
    keys = [(int(n), tuple(map(int, x))) for n, x in zip(counts, contexts, strict=True)]
    begin = None if starts is None else dict(zip(keys, starts, strict=True))
    found: dict[Any, CramResult] = {}
    for count in sorted(set(map(int, counts))):
        own = [key for key in dict.fromkeys(keys) if key[0] == count]
        how = dataclasses.replace(cfg, num_tokens=None, num_memory=count)
        texts = [np.asarray(tokens, np.int32) for _, tokens in own]
        first = None if begin is None else [begin[key] for key in own]
        results = cram(lm, texts, how, report, first)
        found |= zip(own, results, strict=True)
    results = [found[key] for key in keys]
    memories = [result.memory for result in results]
    if cfg.way.is_prompt:
        return untrained_prompts(lm, memories), results
    none = [np.zeros((0, lm.config.d_model), np.float32)] * len(memories)
    made = untrained_prompts(lm, none)
    return dataclasses.replace(made, cache=np.stack(memories)), results


def untrained_prompts(
    lm: LanguageModel, vectors: Sequence[Float[np.ndarray, "_ D"]]
) -> SoftPrompts:
    """Makes soft prompts of vectors that no compressor made; special vectors are 0."""
    counts, D = np.array([len(own) for own in vectors]), lm.config.d_model
    padded = np.zeros((len(vectors), counts.max(), D), np.float32)
    for row, own in zip(padded, vectors, strict=True):
        row[: len(own)] = own
    special = np.zeros((len(SPECIAL), D), np.float32)
    return SoftPrompts(padded, counts, special, lm.name, lm.fingerprint)


def from_texts(lm: LanguageModel, rows: Sequence[Row], **decoding: Any) -> Spoken:
    """Decodes the LM's answers from sequences of tokens alone, without vectors."""
    nothing = [np.zeros((0, lm.config.d_model), np.float32)] * len(rows)
    return spoken_from(lm, untrained_prompts(lm, nothing), rows, **decoding)


def spoken_from(
    lm: LanguageModel, prompts: SoftPrompts, rows: Sequence[Row], **decoding: Any
) -> Spoken:
    """Decodes the LM's answers from given vectors; see `decode_rows`."""
    outputs = decode_rows(lm, prompts, [prompt_of(row) for row in rows], **decoding)
    ends = getattr(lm.tokenizer, "eos_token_id", None)
    wanted = [row.tokens[row.scored] for row in rows]
    references = [
        tokens[:-1] if len(tokens) and tokens[-1] == ends else tokens for tokens in wanted
    ]
    return Spoken(outputs, references)


def overlap(lm: LanguageModel, spoken: Spoken) -> list[dict[str, Any]]:
    """Scores each answer by `text_bleu`, ROUGE (`rouge_1_f1` and so on) and `exact`.

    A record also has the answer (`output`) and the `reference` as text, and
    `num_output_tokens`, since ROUGE favours short answers. Without a tokenizer, BLEU is
    computed on token ids, and ROUGE is left out.
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
    """Corpus BLEU-4 of the answers in records of `overlap`, which is no mean over them."""
    pairs = ([record[name] for record in records] for name in ("output", "reference"))
    return corpus_bleu(*pairs, words=_words(lm))


def texts(lm: LanguageModel, spoken: Spoken) -> tuple[list[str], list[str]]:
    """Returns answers and references as text; as token ids if there is no tokenizer."""

    def write(tokens: np.ndarray) -> str:
        if lm.tokenizer is None:
            return words_of_ids(tokens.tolist())
        return ids_to_text(lm.tokenizer, tokens)

    outputs, references = (list(map(write, part)) for part in spoken)
    return outputs, references


def _words(lm: LanguageModel) -> str:
    return "13a" if lm.tokenizer is not None else "none"
