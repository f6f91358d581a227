import dataclasses

import jax
import numpy as np
import pytest

from memcomp.compressors import batches, layout
from memcomp.compressors.batches import Finetuning, Pretraining, Shapes
from memcomp.compressors.templates import Template
from memcomp.data.contexts import QuestionTokens, context_batches, question_batches
from memcomp.data.ragged import Ragged
from memcomp.errors import InputError

M, EOS = 2, 1
SHAPES = Shapes(M, context=7, max_chunk=3, eos=EOS)
TASK = Pretraining(
    SHAPES, continuation=6, continuation_ratio=0.5, min_continuation=3, num_given=2
)


@pytest.fixture(scope="module")
def documents():
    rng = np.random.default_rng(0)
    return Ragged.of([rng.integers(2, 99, n).tolist() for n in (3, 8, 9, 13, 40, 41)])


def windows(documents, **options):
    sizes = dict(length=7, batch_size=6, num_batches=20, seed=4, continuation=6)
    return context_batches(documents, **sizes | options)


def vectors(rows, i):
    """Slots of the digests of row i, in their order."""
    return [s - layout.FIRST_DIGEST for s in rows.slots[i] if s >= layout.FIRST_DIGEST]


def test_objectives_are_mixed_row_by_row(documents):
    source = windows(documents)
    made = TASK.batches(source, seed=4, batch_size=6)
    kinds = []
    for batch, contexts in zip(made, source, strict=True):
        assert batch.rows.tokens.shape == (6, TASK.length) == (6, 6 + 1 + 7)
        for i in range(6):
            context, after = (
                part.tokens[i, : part.lengths[i]].tolist()
                for part in (contexts.context, contexts.continuation)
            )
            count = M * -(-len(context) // 3)
            assert vectors(batch.rows, i) == list(range(count))
            scored = batch.rows.targets[i, batch.rows.scored[i]].tolist()
            goes_on = 0 not in batch.rows.slots[i]  # without the vector AE
            kinds.append((goes_on, len(after) >= 3))
            assert scored == (after[2:] if goes_on else [*context, EOS])
            chunks = batch.chunks
            held = [
                chunk[:n]
                for chunk, n in zip(chunks.tokens[i], chunks.lengths[i], strict=True)
            ]
            assert np.concatenate(held).tolist() == context
    # A row without enough text after it reproduces; else half of them go on.
    assert not any(goes_on for goes_on, enough in kinds if not enough)
    part = np.mean([goes_on for goes_on, enough in kinds if enough])
    assert 0.35 < part < 0.65  # of 79 rows, three standard errors are 0.17


@pytest.mark.parametrize(("ratio", "wanted"), [(0.0, {True}), (1.0, {False})])
def test_one_objective_alone(documents, ratio, wanted):
    documents = Ragged.of([documents[i].tolist() for i in (4, 5)])
    task = dataclasses.replace(TASK, continuation_ratio=ratio)
    made = task.batches(windows(documents), seed=4, batch_size=6)
    reproduced = {0 in slots for batch in made for slots in batch.rows.slots}
    assert reproduced == wanted


def test_processes_share_each_batch(documents):
    whole = TASK.batches(windows(documents), seed=4, batch_size=6)
    parts = [
        TASK.batches(
            windows(documents, process_index=i, process_count=2),
            seed=4,
            batch_size=6,
            process_index=i,
            process_count=2,
        )
        for i in range(2)
    ]
    for batch, *halves in zip(whole, *parts, strict=True):
        joined = jax.tree.map(lambda *x: np.concatenate(x), *halves)
        jax.tree.map(np.testing.assert_array_equal, joined, batch)


def test_answers_are_asked_for_in_words():
    rng = np.random.default_rng(1)
    columns = ((5, 7, 2, 6), (3, 1, 2, 4), (1, 5, 3, 2))
    tokens = QuestionTokens(
        *(Ragged.of([rng.integers(9, 99, n).tolist() for n in sizes]) for sizes in columns)
    )
    template = Template((5, 6), (7,))
    task = Finetuning(SHAPES, template, prompt=4, answer=5)
    sizes = dict(context=7, prompt=4, answer=5)
    source = question_batches(tokens, **sizes, batch_size=4, num_batches=3, seed=0)
    for batch, asked in zip(task.batches(source), source, strict=True):
        assert batch.rows.tokens.shape == (4, task.length)
        for i in range(4):
            context, prompt, answer = (
                part.tokens[i, : part.lengths[i]].tolist() for part in asked
            )
            want = [*answer, EOS]
            rows, middle = batch.rows, [0] * (M * -(-len(context) // 3) + 1)
            row = [5, 6, *middle, *prompt, 7, *answer]
            assert rows.tokens[i, : len(row)].tolist() == row
            assert rows.targets[i, rows.scored[i]].tolist() == want
            assert rows.read[i, 0] == len(row) - len(answer) - 1
            assert layout.SPECIAL[batch.rows.slots[i][batch.rows.slots[i] >= 0][-1]] == "ft"
    # The longest of each fits exactly.
    longest = task.examples(tokens.batch(np.array([1]), **sizes))
    assert len(longest.rows[0].tokens) - 1 == task.length - 3  # its prompt has 1, not 4


def test_micro_batches_are_parts_of_a_batch(documents):
    made = TASK.batches(windows(documents), seed=4, batch_size=6)
    parts = batches.micro_batches(made, 3)[2]
    assert parts.rows.tokens.shape == (3, 2, TASK.length)
    joined = jax.tree.map(lambda x: x.reshape(6, *x.shape[2:]), parts)
    jax.tree.map(np.testing.assert_array_equal, joined, made[2])
    with pytest.raises(InputError, match="the 6 rows .* into 4"):
        _ = batches.micro_batches(made, 4)[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"continuation_ratio": 1.5}, "continuation_ratio is 1.5"),
        ({"num_given": 6}, "of 6 tokens 6 are given"),
        ({"min_continuation": 2}, "min_continuation is 2"),
    ],
)
def test_objectives_without_sense_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(TASK, **changes)
