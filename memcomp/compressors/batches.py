"""Windows of documents and questions as batches of rows, for training and evaluation.

Letters: B rows, K chunks a context, M vectors a chunk.
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
from memcomp.data.contexts import Contexts, Questions
from memcomp.data.ragged import Padded
from memcomp.data.windows import process_part
from memcomp.errors import InputError


@dataclasses.dataclass(frozen=True)
class Shapes:
    """How large the contexts and rows of a run are, so that all batches have one shape.

    Attributes:
      num_digests: vectors a chunk.
      context: most tokens of a context.
      max_chunk: see `memcomp.compressors.chunks.split`; None for contexts as a whole.
      teacher: whether rows come with what the LM reads where it sees the full context.
      eos: id of the token that ends a context that is reproduced, and an answer; None
        for none.
    """

    num_digests: int
    context: int
    max_chunk: int | None = None
    teacher: bool = False
    eos: int | None = None

    def __post_init__(self):
        if self.max_chunk is not None and self.max_chunk < 1:
            raise InputError(f"max_chunk is {self.max_chunk}; give at least 1, or None")

    @property
    def num_chunks(self) -> int:
        """K of the longest context."""
        return -(-self.context // (self.max_chunk or self.context))

    @property
    def num_vectors(self) -> int:
        """Vectors of the longest context."""
        return self.num_chunks * self.num_digests

    @property
    def ending(self) -> int:
        """Tokens at the end of what is reproduced: 1 with EOS."""
        return int(self.eos is not None)

    def chunks(self, contexts: list[np.ndarray]) -> tuple[Chunks, Int[np.ndarray, "B"]]:
        """The contexts' chunks, and how many vectors stand for each."""
        width = min(self.max_chunk or self.context, self.context)
        chunks = stack_chunks(contexts, width, self.num_chunks)
        return chunks, self.num_digests * (chunks.lengths > 0).sum(axis=1)


@dataclasses.dataclass(frozen=True)
class Examples:
    """A batch on the host, and the rows that it is made of, to decode from.

    Attributes:
      batch: numpy arrays of fixed shapes.
      contexts: tokens of each row's context.
      rows: what the LM reads, unpadded.
      teachers: the same with the full context, unpadded; empty without.
    """

    batch: Batch
    contexts: list[np.ndarray]
    rows: list[Row]
    teachers: list[Row]

    def part(self, rows: slice) -> "Examples":
        """Some of the rows."""
        batch = jax.tree.map(lambda x: x[rows], self.batch)
        return Examples(batch, self.contexts[rows], self.rows[rows], self.teachers[rows])


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """Autoencoding, continuation, or both mixed.

    Attributes:
      shapes: of the run.
      continuation: most tokens of a continuation; 0 for autoencoding alone.
      continuation_ratio: the part of the rows, drawn at random, that go on with the text
        in the place of reproducing it; 1 for continuation alone.
      min_continuation: a row with fewer tokens after its context reproduces it.
      num_given: leading tokens of a continuation that are not scored.

    Source: Ge et al. 2024, arXiv:2307.06945, section 2.2, which mixes both, and whose code
      draws a row's objective so.
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
        """Positions of the longest row; its last token is never read."""
        reproduced = 1 + self.shapes.context + self.shapes.ending
        return self.shapes.num_vectors + max(reproduced, self.continuation) - 1

    @property
    def teacher_length(self) -> int:
        """Positions of the longest row with the full context."""
        return self.shapes.context + self.continuation - 1

    def examples(self, contexts: Contexts, goes_on: Bool[np.ndarray, "B"]) -> Examples:
        """A batch; `goes_on` says which rows are to go on with the text."""
        shapes, texts = self.shapes, _unpadded(contexts.context)
        chunks, counts = shapes.chunks(texts)
        following = _unpadded(contexts.continuation)
        rows, teachers = [], []
        for text, after, count, wanted in zip(
            texts, following, counts, goes_on, strict=True
        ):
            if wanted and len(after) >= self.min_continuation:
                given = self.num_given
                rows.append(layout.continuation_row(after, int(count), given))
                teachers.append(layout.full_continuation_row(text, after, given))
            else:
                rows.append(layout.autoencoding_row(text, int(count), shapes.eos))
                teachers.append(layout.text([0]))  # it would only copy: no teacher
        most = max(shapes.context + shapes.ending, self.continuation - self.num_given)
        student = layout.stack_rows(rows, self.length, most)
        teacher = None
        if shapes.teacher:
            length = max(self.teacher_length, 1)
            teacher = layout.stack_rows(teachers, length, most)
        return Examples(Batch(chunks, student, teacher), texts, rows, teachers)

    def batches(
        self,
        windows: grain.MapDataset,
        *,
        seed: int,
        batch_size: int,
        process_index: int = 0,
        process_count: int = 1,
    ) -> grain.MapDataset:
        """`Batch`es of the `Contexts` of `memcomp.data.contexts.context_batches`.

        Which rows go on with the text depends on the seed and the number of the batch.
        """
        part = process_part(batch_size, process_index, process_count)

        def make(number: int, contexts: Contexts) -> Batch:
            # The 2 tells these draws from those of the windows.
            draws = np.random.default_rng([seed, number, 2]).random(batch_size)[part]
            return self.examples(contexts, draws < self.continuation_ratio).batch

        return windows.map_with_index(make)


@dataclasses.dataclass(frozen=True)
class Finetuning:
    """Answers to questions about contexts.

    Attributes:
      shapes: of the run.
      template: what stands around contexts and prompts.
      prompt: most tokens of a prompt, as the template writes it.
      answer: most tokens of an answer.
    """

    shapes: Shapes
    template: Template
    prompt: int
    answer: int

    @property
    def length(self) -> int:
        """Positions of the longest row; its last token is never read."""
        return self._around + self.shapes.num_vectors + 1

    @property
    def teacher_length(self) -> int:
        """Positions of the longest row with the full context."""
        return self._around + self.shapes.context

    @property
    def _around(self) -> int:
        words = len(self.template.before) + self.prompt + len(self.template.end)
        return words + self.answer + self.shapes.ending - 1

    def questions(self, questions: Questions) -> list[Question]:
        """What is asked in a batch, in the words of the template."""
        prompts, answers = _unpadded(questions.prompt), _unpadded(questions.answer)
        pairs = zip(prompts, answers, strict=True)
        return [self.template.question(prompt, answer) for prompt, answer in pairs]

    def examples(self, questions: Questions) -> Examples:
        """A batch."""
        shapes, texts = self.shapes, _unpadded(questions.context)
        chunks, counts = shapes.chunks(texts)
        asked = self.questions(questions)
        rows = [
            layout.answer_row(question, int(count), shapes.eos)
            for question, count in zip(asked, counts, strict=True)
        ]
        teachers = [
            layout.full_context_row(question, text, shapes.eos)
            for question, text in zip(asked, texts, strict=True)
        ]
        most = self.answer + shapes.ending
        student = layout.stack_rows(rows, self.length, most)
        teacher = None
        if shapes.teacher:
            teacher = layout.stack_rows(teachers, self.teacher_length, most)
        return Examples(Batch(chunks, student, teacher), texts, rows, teachers)

    def batches(self, questions: grain.MapDataset) -> grain.MapDataset:
        """`Batch`es of the `Questions` of `memcomp.data.contexts.question_batches`."""
        return questions.map(lambda one: self.examples(one).batch)


def micro_batches(batches: grain.MapDataset, accumulation: int) -> grain.MapDataset:
    """Each array of each batch as [N B ...], for `memcomp.compressors.training`."""
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
