import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memcomp.compressors import layout
from memcomp.errors import InputError

CONTEXT = np.array([11, 12, 13])
QUESTION = layout.Question(np.array([3]), np.array([4, 5]), np.array([8, 9]))
AE, FT, D0, D1 = -2, -3, -4, -5  # how the tests write vectors among tokens


def written(row):
    """Tokens and, in their place, which vector; the scored ones."""
    names = {0: AE, 1: FT, 2: D0, 3: D1}
    shown = [
        int(token) if slot == layout.TOKEN else names[int(slot)]
        for token, slot in zip(row.tokens, row.slots, strict=True)
    ]
    return shown, row.tokens[row.scored].tolist()


@pytest.mark.parametrize(
    ("row", "shown", "scored"),
    [
        (
            layout.autoencoding_row(CONTEXT, 2, 1),
            [D0, D1, AE, 11, 12, 13, 1],
            [11, 12, 13, 1],
        ),
        (layout.continuation_row(CONTEXT, 2), [D0, D1, 11, 12, 13], [11, 12, 13]),
        (layout.continuation_row(CONTEXT, 1, 2), [D0, 11, 12, 13], [13]),
        (
            layout.answer_row(QUESTION, 2, 1),
            [3, D0, D1, FT, 4, 5, 8, 9, 1],
            [8, 9, 1],
        ),
        (
            layout.memory_answer_row(QUESTION, 2, 1),
            [D0, D1, 4, 5, 8, 9, 1],
            [8, 9, 1],
        ),
        (
            layout.full_context_row(QUESTION, CONTEXT, 1),
            [3, 11, 12, 13, 4, 5, 8, 9, 1],
            [8, 9, 1],
        ),
        (layout.autoencoding_row(CONTEXT, 1, None), [D0, AE, 11, 12, 13], [11, 12, 13]),
    ],
)
def test_rows_are_those_of_the_papers(row, shown, scored):
    assert written(row) == (shown, scored)


def test_each_scored_token_is_read_from_the_position_before_it():
    rows = [layout.autoencoding_row(CONTEXT, 2, 1), layout.continuation_row(CONTEXT, 1, 2)]
    batch = layout.stack_rows(rows)
    assert batch.tokens.shape == (2, 6) and batch.targets.shape == (2, 4)
    for i, row in enumerate(rows):
        n = batch.scored[i].sum()
        assert batch.targets[i, :n].tolist() == row.tokens[row.scored].tolist()
        following = row.tokens[batch.read[i, :n] + 1]
        np.testing.assert_array_equal(following, batch.targets[i, :n])
        read = len(row.tokens) - 1
        np.testing.assert_array_equal(batch.slots[i, :read], row.slots[:-1])
        assert (batch.slots[i, read:] == layout.TOKEN).all()
    assert layout.stack_rows(rows, 9, 7).read.shape == (2, 7)


@pytest.mark.parametrize(("length", "scored"), [(5, 9), (9, 3)])
def test_rows_that_do_not_fit_are_refused(length, scored):
    with pytest.raises(InputError, match="wanted at most"):
        layout.stack_rows([layout.autoencoding_row(CONTEXT, 2, 1)], length, scored)


def test_a_context_over_the_window_is_told_of_chunks():
    layout.check_room(64, "tiny", 64)
    with pytest.raises(InputError, match="needs 65 positions, but tiny has 64; .* chunks"):
        layout.check_room(65, "tiny", 64)


def test_vectors_stand_where_the_row_says():
    rows = [layout.autoencoding_row(CONTEXT, 2, 1), layout.answer_row(QUESTION, 1, None)]
    batch = layout.stack_rows(rows)
    B, S, D = 2, batch.tokens.shape[1], 4
    rng = np.random.default_rng(0)
    embedded, specials, prompts = (
        jnp.asarray(rng.standard_normal(shape), jnp.float32)
        for shape in ((B, S, D), (2, D), (B, 2, D))
    )

    def plain(specials, prompts):
        x = []
        for i in range(B):
            for s in range(S):
                slot = int(batch.slots[i, s])
                if slot == layout.TOKEN:
                    x.append(embedded[i, s])
                else:
                    x.append(specials[slot] if slot < 2 else prompts[i, slot - 2])
        return jnp.stack(x).reshape(B, S, D)

    def ours(specials, prompts):
        rows = jnp.asarray(batch.tokens), jnp.asarray(batch.slots)
        return layout.input_vectors(*rows, embedded, specials, prompts)

    np.testing.assert_array_equal(ours(specials, prompts), plain(specials, prompts))
    push = jnp.asarray(rng.standard_normal((B, S, D)), jnp.float32)
    got, want = (
        jax.grad(lambda *v, f=f: jnp.sum(f(*v) * push), argnums=(0, 1))(specials, prompts)
        for f in (ours, plain)
    )
    for a, b in zip(got, want, strict=True):
        # Sums of two numbers at the most, in either order.
        np.testing.assert_array_equal(a, b)
