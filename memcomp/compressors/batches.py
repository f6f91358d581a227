"""Batches of windows of documents, and of questions, for training and evaluation.

Letters: B sequences, K chunks of a context, M vectors of a chunk.
"""

import dataclasses
import functools

import grain
import jax
import numpy as np
from jaxtyping import Bool, Int

from memcomp.compressors import layout
from memcomp.compressors.chunks import Chunks, stack_chunks
from memcomp.compressors.layout import Question, Row
from memcomp.compressors.objectives import Batch
from memcomp.compressors.templates import Template
from memcomp.data.contexts import Contexts, Questions, process_part
from memcomp.data.ragged import Padded
from memcomp.errors import InputError


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Largest sizes of contexts and sequences in a run, so that all batches have one shape.

    Attributes:
      num_digests: number of vectors of a chunk.
      context: largest number of tokens of a context.
      max_chunk: see `memcomp.compressors.chunks.split`; None for contexts as a whole.
      eos: id of the token that ends a reproduced context and an answer; None for none.
    """

    num_digests: int
    context: int
    max_chunk: int | None = None
    eos: int | None = None

    def __post_init__(self):
        if self.max_chunk is not None and self.max_chunk < 1:
            raise InputError(f"max_chunk is {self.max_chunk}; give at least 1, or None")

    @property
    def num_chunks(self) -> int:
        """Number of chunks (K) of the longest context."""
        return -(-self.context // (self.max_chunk or self.context))

    @property
    def num_vectors(self) -> int:
        """Number of vectors of the longest context."""
        return self.num_chunks * self.num_digests

    @property
    def ending(self) -> int:
        """Number of tokens after a reproduced context or an answer: 1 with EOS, else 0."""
        return int(self.eos is not None)

    def chunks(self, contexts: list[np.ndarray]) -> tuple[Chunks, Int[np.ndarray, "B"]]:
        """Returns the contexts' chunks, and the number of vectors of each context."""
        width = min(self.max_chunk or self.context, self.context)
        chunks = stack_chunks(contexts, width, self.num_chunks)
        return chunks, self.num_digests * (chunks.lengths > 0).sum(axis=1)


@dataclasses.dataclass(frozen=True)
class Examples:
    """A batch on the host, and its sequences without padding, to decode from.

    Attributes:
      batch: numpy arrays of fixed shapes.
      contexts: tokens of the context of each sequence.
      rows: sequences that the LM reads, without padding.
    """

    batch: Batch
    contexts: list[np.ndarray]
    rows: list[Row]


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """The pretraining objectives: autoencoding, continuation, or a mixture of both.

    Attributes:
      shapes: sizes of the run.
      continuation: largest number of tokens of a continuation; 0 for autoencoding alone.
      continuation_ratio: share of the sequences, drawn at random, that continue the text
        instead of reproducing it; 1 for continuation alone.
      min_continuation: a sequence with fewer tokens after its context reproduces it.
      num_given: number of leading tokens of a continuation that are not scored.

    Source: Ge et al. 2024, arXiv:2307.06945, section 2.2, which mixes both, and whose code
      draws the objective of each sequence at random.
    """

    shapes: Shapes
    continuation: int = 0
    continuation_ratio: float = 0.0
    min_continuation: int = 1
    num_given: int = 0

    def __post_init__(self):
        if not 0 <= self.continuation_ratio <= 1:
            raise InputError(
                f"continuation_ratio is {self.continuation_ratio}; give a part from 0 to 1"
            )
        if self.continuation_ratio and self.num_given >= self.continuation:
            raise InputError(
                f"of a continuation of {self.continuation} tokens {self.num_given} are "
                "given, which leaves none to score; raise continuation"
            )
        if self.continuation_ratio and self.min_continuation <= self.num_given:
            raise InputError(
                f"min_continuation is {self.min_continuation}; give more than the "
                f"{self.num_given} tokens of num_given"
            )

    @property
    def length(self) -> int:
        """Positions of the longest sequence; the LM never reads its last token."""
        reproduced = 1 + self.shapes.context + self.shapes.ending
        return self.shapes.num_vectors + max(reproduced, self.continuation) - 1

    def examples(self, contexts: Contexts, goes_on: Bool[np.ndarray, "B"]) -> Examples:
        """Makes a batch; `goes_on` says which sequences continue the text if they can."""
        shapes, texts = self.shapes, _unpadded(contexts.context)
        chunks, counts = shapes.chunks(texts)
        following = _unpadded(contexts.continuation)
        rows = []
        for text, after, count, wanted in zip(
            texts, following, counts, goes_on, strict=True
        ):
            if wanted and len(after) >= self.min_continuation:
                rows.append(layout.continuation_row(after, int(count), self.num_given))
            else:
                rows.append(layout.autoencoding_row(text, int(count), shapes.eos))
        most = max(shapes.context + shapes.ending, self.continuation - self.num_given)
        stacked = layout.stack_rows(rows, self.length, most)
        return Examples(Batch(chunks, stacked), texts, rows)

    def batches(
        self,
        windows: grain.MapDataset,
        *,
        seed: int,
        batch_size: int,
        process_index: int = 0,
        process_count: int = 1,
    ) -> grain.MapDataset:
        """Makes `Batch`es from the `Contexts` of `memcomp.data.contexts.context_batches`.

        Which sequences continue the text depends on the seed and the index of the batch.
        """
        part = process_part(batch_size, process_index, process_count)

        def make(number: int, contexts: Contexts) -> Batch:
            # The 2 makes these draws independent of those of the windows.
            draws = np.random.default_rng([seed, number, 2]).random(batch_size)[part]
            return self.examples(contexts, draws < self.continuation_ratio).batch

        return windows.map_with_index(make)


@dataclasses.dataclass(frozen=True)
class Finetuning:
    """The fine-tuning objective: answers to questions about contexts.

    Attributes:
      shapes: sizes of the run.
      template: the words around contexts and prompts.
      prompt: largest number of tokens of a prompt, as the template writes it.
      answer: largest number of tokens of an answer.
    """

    shapes: Shapes
    template: Template
    prompt: int
    answer: int

    @property
    def length(self) -> int:
        """Positions of the longest sequence; the LM never reads its last token."""
        return self._around + self.shapes.num_vectors + 1

    @property
    def full_length(self) -> int:
        """Positions of the longest sequence with the full context in place of vectors."""
        return self._around + self.shapes.context

    @property
    def _around(self) -> int:
        words = len(self.template.before) + self.prompt + len(self.template.end)
        return words + self.answer + self.shapes.ending - 1

    def questions(self, questions: Questions) -> list[Question]:
        """Returns the questions of a batch, in the words of the template."""
        prompts, answers = _unpadded(questions.prompt), _unpadded(questions.answer)
        pairs = zip(prompts, answers, strict=True)
        return [self.template.question(prompt, answer) for prompt, answer in pairs]

    def examples(self, questions: Questions) -> Examples:
        """Makes a batch of answers."""
        shapes, texts = self.shapes, _unpadded(questions.context)
        chunks, counts = shapes.chunks(texts)
        rows = [
            layout.answer_row(question, int(count), shapes.eos)
            for question, count in zip(self.questions(questions), counts, strict=True)
        ]
        stacked = layout.stack_rows(rows, self.length, self.answer + shapes.ending)
        return Examples(Batch(chunks, stacked), texts, rows)

    def batches(self, questions: grain.MapDataset) -> grain.MapDataset:
        """Makes `Batch`es from `Questions` of `memcomp.data.contexts.question_batches`."""
        return questions.map(lambda one: self.examples(one).batch)


def micro_batches(batches: grain.MapDataset, accumulation: int) -> grain.MapDataset:
    """Reshapes each array of a batch to N micro-batches [N B ...], for a training step."""
    return batches.map(functools.partial(_divided, number=accumulation))


def _divided(batch: Batch, number: int) -> Batch:
    rows = len(batch.chunks.lengths)
    if rows % number:
        raise InputError(
            f"the {rows} rows of a process cannot be divided into {number} micro-batches; "
            "give a multiple of accumulation times the number of processes"
        )
    return jax.tree.map(lambda x: x.reshape(number, -1, *x.shape[1:]), batch)


def _unpadded(padded: Padded) -> list[np.ndarray]:
    return [row[:n] for row, n in zip(padded.tokens, padded.lengths, strict=True)]
