import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from pooling import Pooling

from memcomp.compressors import layout
from memcomp.compressors.compress import SoftPrompts, TrainedCompressor, compress
from memcomp.compressors.generate import decode_rows
from memcomp.compressors.objectives import Task
from memcomp.compressors.training import init_params
from memcomp.errors import InputError
from memcomp.lm.decode import sample
from memcomp.lm.load import load_lm

M, N = 2, 6


@pytest.fixture(scope="module")
def trained(tiny_lm):
    compressor = Pooling(tiny_lm.module, M)
    params = nn.unbox(init_params(jax.random.key(0), Task(tiny_lm.module, compressor)))
    rng = np.random.default_rng(1)
    vectors = {n: jnp.asarray(rng.standard_normal(16), jnp.float32) for n in ("ae", "ft")}
    return TrainedCompressor(compressor, params | vectors, "tiny", tiny_lm.fingerprint)


@pytest.fixture(scope="module")
def contexts():
    rng = np.random.default_rng(2)
    return [rng.integers(0, 23, n) for n in (3, 9, 1, 5)]


@pytest.fixture(scope="module")
def prompts(tiny_lm, trained, contexts):
    return compress(tiny_lm, trained, contexts, max_chunk=4, batch_size=3)


@pytest.fixture(scope="module")
def rows(prompts):
    """Prompts of very different lengths."""
    rng = np.random.default_rng(3)
    nothing = np.zeros(0, int)
    return [
        layout.autoencoding_row(nothing, int(prompts.counts[0]), None),
        layout.answer_row(
            layout.Question(rng.integers(0, 23, 4), rng.integers(0, 23, 30), nothing),
            int(prompts.counts[1]),
            None,
        ),
        layout.continuation_row(nothing, int(prompts.counts[2])),
        layout.continuation_row(rng.integers(0, 23, 7), int(prompts.counts[3]), 7),
    ]


def logits_after(lm, prompts, i, row, said):
    """Logits after a prompt and what was said, without padding and without a cache."""
    vectors = np.concatenate([prompts.special, prompts.vectors[i]])
    embedded = np.asarray(lm.params["embedding"])
    x = [
        embedded[t] if s < 0 else vectors[s]
        for t, s in zip(row.tokens, row.slots, strict=True)
    ]
    x = np.stack([*x, *(embedded[t] for t in said)])
    # One shape: what comes after the last position is not seen from it.
    padded = np.zeros((60, x.shape[1]), np.float32)
    padded[: len(x)] = x
    return np.asarray(_all_logits(lm.params, padded, module=lm.module)[len(x) - 1])


@jax.jit
def _dot(hidden, rows):
    return hidden @ rows.T


def _all_logits(params, x, *, module):
    hidden, _ = module.apply({"params": params}, x[None])
    return _dot(hidden[0], module.apply({"params": params}, method="unembedding"))


_all_logits = jax.jit(_all_logits, static_argnames="module")


def plain(lm, prompts, i, row, num_tokens, stop=None):
    said = []
    while len(said) < num_tokens:
        token = int(logits_after(lm, prompts, i, row, said).argmax())
        if token == stop:
            break
        said.append(token)
    return said


def test_rows_of_many_lengths_are_decoded_as_each_alone(tiny_lm, prompts, rows):
    got = decode_rows(tiny_lm, prompts, rows, num_tokens=N, batch_size=3)
    want = [plain(tiny_lm, prompts, i, row, N) for i, row in enumerate(rows)]
    assert [answer.tolist() for answer in got] == want
    assert len({tuple(answer) for answer in want}) == 4

    stop = want[0][2]
    got = decode_rows(tiny_lm, prompts, rows, num_tokens=N, batch_size=3, stop=stop)
    want = [plain(tiny_lm, prompts, i, row, N, stop) for i, row in enumerate(rows)]
    assert [answer.tolist() for answer in got] == want
    assert len(want[0]) <= 2


def test_contexts_are_compressed_as_each_alone(tiny_lm, trained, contexts, prompts):
    assert prompts.counts.tolist() == [2, 6, 2, 4] and prompts.vectors.shape == (4, 6, 16)
    for i, context in enumerate(contexts):
        alone = compress(tiny_lm, trained, [context], max_chunk=4)
        own = prompts.vectors[i, : prompts.counts[i]]
        np.testing.assert_allclose(own, alone.vectors[0], atol=1e-6)
        assert not prompts.vectors[i, prompts.counts[i] :].any()


@pytest.mark.ci
def test_samples_have_the_probabilities_of_the_nucleus():
    logits = jnp.log(jnp.asarray([[0.1, 0.4, 0.05, 0.25, 0.2]]))
    for temperature, top_p in (
        (1.0, 1.0),
        (1.0, 0.65),
        (2.0, 0.8),
        (1.0, 0.01),
        (2.0, None),
    ):
        p = np.asarray(jax.nn.softmax(logits[0] / temperature), np.float64)
        order = np.argsort(-p)
        kept = order
        if top_p is not None:
            kept = order[: np.searchsorted(np.cumsum(p[order]), top_p - 1e-6) + 1]
        want = np.zeros(5)
        want[kept] = p[kept] / p[kept].sum()
        n = 20_000
        drawn = sample(
            jnp.broadcast_to(logits, (n, 5)),
            jax.random.split(jax.random.key(0), n),
            jnp.float32(temperature),
            None if top_p is None else jnp.float32(top_p),
        )
        found = np.bincount(drawn, minlength=5) / n
        assert not found[want == 0].any()
        # Three standard errors of the least certain.
        np.testing.assert_allclose(found, want, atol=0.011)


@pytest.mark.slow
def test_what_is_sampled_depends_on_the_row_and_not_on_its_batch(tiny_lm, prompts, rows):
    settings = dict(num_tokens=N, temperature=3.0, key=jax.random.key(5))
    a = decode_rows(tiny_lm, prompts, rows, batch_size=3, **settings)
    b = decode_rows(tiny_lm, prompts, rows, batch_size=4, **settings)
    assert [x.tolist() for x in a] == [x.tolist() for x in b]
    c = decode_rows(tiny_lm, prompts, rows, batch_size=4, **settings | {"top_p": 1e-6})
    greedy = decode_rows(tiny_lm, prompts, rows, batch_size=4, num_tokens=N)
    assert (
        [x.tolist() for x in c] == [x.tolist() for x in greedy] != [x.tolist() for x in a]
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_tokens": 0}, "num_tokens is 0; give 1"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"top_p": 0.0}, "top_p is 0.0; give"),
        ({"temperature": 1.0}, "needs a random key"),
        ({"num_tokens": 30}, "needs 70 positions, but tiny has 64"),
    ],
)
def test_settings_without_sense_are_refused(tiny_lm, prompts, rows, settings, message):
    with pytest.raises(InputError, match=message):
        decode_rows(tiny_lm, prompts, rows, **{"num_tokens": 3} | settings)


def test_bad_contexts_are_refused(tiny_lm, trained, prompts, rows):
    other = dataclasses.replace(tiny_lm, fingerprint="f" * 64, name="other")
    with pytest.raises(InputError, match="trained with tiny .* not with other"):
        compress(other, trained, [[1]])
    with pytest.raises(InputError, match="made with tiny .* not with other"):
        decode_rows(other, prompts, rows, num_tokens=3)
    with pytest.raises(InputError, match="no contexts"):
        compress(tiny_lm, trained, [])
    with pytest.raises(InputError, match="context is empty"):
        compress(tiny_lm, trained, [[]])
    with pytest.raises(InputError, match="has no tokenizer"):
        compress(tiny_lm, trained, ["text"])
    for bad, message in [
        ([[3, 23]], "token id 23; give ids from 0 to 22"),
        ([[-1]], "token id -1"),
        ("text", "is one string"),
    ]:
        with pytest.raises(InputError, match=message):
            compress(tiny_lm, trained, bad)
    with pytest.raises(InputError, match="batch_size is 0"):
        compress(tiny_lm, trained, [[1]], batch_size=0)
    with pytest.raises(InputError, match="batch_size is 0"):
        decode_rows(tiny_lm, prompts, rows, num_tokens=3, batch_size=0)
    with pytest.raises(InputError, match="4 soft prompts for 1 rows"):
        decode_rows(tiny_lm, prompts, rows[:1], num_tokens=3)


def test_a_context_may_be_longer_than_the_window_where_no_lm_reads_it(tiny_lm, trained):
    prompts = compress(tiny_lm, trained, [np.arange(65) % 23], max_chunk=None)
    assert prompts.counts.tolist() == [M]


@pytest.mark.ci
def test_rotary_angles_that_depend_on_the_length_are_those_of_the_window():
    lm = load_lm(str(pathlib.Path(__file__).parents[1] / "golden" / "llama_dynamic"))
    rng = np.random.default_rng(0)
    rows = [layout.text(rng.integers(3, 31, n)) for n in (3, 5)]
    vectors, special = np.zeros((2, 0, 24), np.float32), np.zeros((2, 24), np.float32)
    about = (np.zeros(2, int), special, lm.name, lm.fingerprint)
    said = decode_rows(lm, SoftPrompts(vectors, *about), rows, num_tokens=4, stop=-1)
    for row, answer in zip(rows, said, strict=True):
        tokens = row.tokens.tolist()
        for token in answer:
            # One shape, which is not longer than the window.
            padded = jnp.zeros((1, 16), int).at[0, : len(tokens)].set(jnp.asarray(tokens))
            assert token == lm.logits(padded)[0, len(tokens) - 1].argmax()
            tokens.append(int(token))
