"""Documents whose tokens say where they stand: token t of document d is 1000 d + t."""

import collections
import itertools

import grain
import jax
import numpy as np
import pytest

from memcomp.data.contexts import (
    QuestionTokens,
    context_batches,
    fitting,
    question_batches,
)
from memcomp.data.ragged import Ragged
from memcomp.errors import InputError
from memcomp.runs.checkpoints import Checkpoints

SIZES = (40, 9, 1, 25, 16)
DOCUMENTS = Ragged.of(range(1000 * d, 1000 * d + n) for d, n in enumerate(SIZES, start=1))


def contexts(documents=DOCUMENTS, **changes):
    given = dict(length=16, batch_size=4, num_batches=30, seed=3) | changes
    return context_batches(documents, **given)


def rows(batches):
    """(document, context, continuation) of each row, without padding."""
    for batch in batches:
        for i in range(len(batch.context.tokens)):
            parts = [part.tokens[i, : part.lengths[i]].tolist() for part in batch]
            yield parts[0][0] // 1000, *parts


def questions(num=10):
    def column(tag):
        return Ragged.of([[100 * i + tag] * (i % 5 + 1) for i in range(num)])

    return QuestionTokens(column(1), column(2), column(3))


def asked(**changes):
    sizes = dict(context=3, prompt=5, answer=5, batch_size=4, num_batches=10, seed=3)
    return question_batches(questions(), **sizes | changes)


def assert_same(got, want):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("continuation", [0, 6])
@pytest.mark.parametrize("min_length", [None, 4])
def test_a_continuation_follows_its_context(continuation, min_length):
    options = dict(continuation=continuation, min_length=min_length)
    for document, context, following in rows(contexts(**options)):
        size = SIZES[document - 1]
        both = context + following
        assert both == list(range(both[0], both[0] + len(both)))
        assert both[0] >= 1000 * document and both[-1] < 1000 * document + size
        assert min(size, min_length or 16) <= len(context) <= min(size, 16)
        assert len(following) == min(continuation, size - len(context))


def test_shapes_are_fixed_and_padding_is_zero():
    for batch in contexts(continuation=6):
        for part, width in zip(batch, (16, 6), strict=True):
            assert part.tokens.shape == (4, width) and part.tokens.dtype == np.int32
            assert part.lengths.shape == (4,) and part.lengths.dtype == np.int32
            beyond = np.arange(width) >= part.lengths[:, None]
            assert not part.tokens[beyond].any() and part.tokens[~beyond].all()


@pytest.mark.parametrize("by_tokens, times", [(False, [1] * 5), (True, [3, 1, 1, 2, 1])])
def test_in_one_pass_every_document_has_its_windows(by_tokens, times):
    found = [d for d, *_ in rows(contexts(num_batches=40, by_tokens=by_tokens))]
    per_pass = sum(times)
    passes = [found[i : i + per_pass] for i in range(0, 160 - per_pass, per_pass)]
    for one in passes:
        assert [one.count(d) for d in range(1, 6)] == times
    assert len({tuple(one) for one in passes}) > len(passes) // 2  # the order changes


def test_every_window_and_every_length_is_as_likely():
    starts, lengths = collections.Counter(), collections.Counter()
    options = dict(length=8, continuation=5, min_length=3, batch_size=50)
    for _, context, _ in rows(contexts(Ragged.of([range(1000, 1040)]), **options)):
        lengths[len(context)] += 1
        if len(context) == 8:
            starts[context[0] - 1000] += 1
    # 1,500 windows have 250 of each length, and those of the longest 9 of each start.
    assert sorted(lengths) == list(range(3, 9)) and sorted(starts) == list(range(28))
    assert max(lengths.values()) < 1.3 * min(lengths.values())  # measured 1.16


@pytest.mark.parametrize("make", [contexts, asked])
def test_a_batch_depends_on_seed_and_number_alone(make):
    whole = list(make(num_batches=10))
    for i in (9, 0, 4):
        assert_same(make(num_batches=12)[i], whole[i])
    for i, other in enumerate(make(num_batches=10, seed=4)):
        same = map(np.array_equal, jax.tree.leaves(other), jax.tree.leaves(whole[i]))
        assert not all(same)


@pytest.mark.parametrize("make", [contexts, asked])
def test_the_parts_of_the_processes_are_the_batch(make):
    parts = [make(process_index=i, process_count=2) for i in range(2)]
    for i, want in enumerate(make(num_batches=10)):
        pair = parts[0][i], parts[1][i]
        assert_same(jax.tree.map(lambda *x: np.concatenate(x), *pair), want)


@pytest.mark.parametrize("make", [contexts, asked])
def test_an_iterator_goes_on_from_a_checkpoint(make, tmp_path):
    dataset = make(num_batches=11).batch(2)  # the steps of a chunk, on a new first axis
    options = grain.ReadOptions(num_threads=4, prefetch_buffer_size=3)
    whole = list(dataset.to_iter_dataset(options))
    assert [x.context.tokens.shape[0] for x in whole] == [2, 2, 2, 2, 2, 1]
    state = {"step": np.zeros(())}
    iterator = iter(dataset.to_iter_dataset(options))
    with Checkpoints(tmp_path) as checkpoints:
        for batch in itertools.islice(iterator, 3):
            assert type(batch) is type(whole[0])
        checkpoints.save(3, state, iterator)
    again = iter(dataset.to_iter_dataset(options))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.restore(state, again)
    assert_same(list(again), whole[3:])


def test_questions_keep_their_texts_and_answers():
    seen = []
    for batch in asked(num_batches=5):
        tags = zip(*(part.tokens[:, 0] for part in batch), strict=True)
        for row, (context, prompt, answer) in enumerate(tags):
            number = context // 100
            assert (context % 100, prompt, answer) == (1, context + 1, context + 2)
            lengths = [int(part.lengths[row]) for part in batch]
            size = number % 5 + 1
            assert lengths == [min(size, 3), size, size]  # of a context the first tokens
            seen.append(number)
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_questions_that_do_not_fit_are_left_out():
    assert fitting(questions(), context=None, prompt=5, answer=4).tolist() == [
        *(0, 1, 2, 3),
        *(5, 6, 7, 8),
    ]
    assert fitting(questions(), context=2, prompt=5, answer=5).tolist() == [0, 1, 5, 6]
    empty = questions(3)._replace(answer=Ragged.of([[1], [], [2]]))
    assert fitting(empty, context=None, prompt=5, answer=5).tolist() == [0, 2]
    chosen = {int(n) // 100 for b in asked(answer=2) for n in b.context.tokens[:, 0]}
    assert chosen == {0, 1, 5, 6}


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: contexts(length=0), "length is 0"),
        (lambda: contexts(min_length=17), "min_length 17 is more than length 16"),
        (lambda: contexts(Ragged.of([])), "no documents"),
        (lambda: contexts(Ragged.of([[1], []])), "document 1 is empty"),
        (lambda: contexts(process_count=3), "4 cannot be divided by 3"),
        (lambda: asked(process_count=3), "4 cannot be divided by 3"),
        (lambda: asked(answer=0), "answer is 0"),
        (lambda: asked(rows=np.zeros(0, int)), "none of 10 questions"),
    ],
)
def test_bad_sizes_are_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()
