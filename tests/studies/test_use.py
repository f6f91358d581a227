"""Attention on memory, knockout, use and contexts, against the slow obvious versions."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memcomp.cram.config import CramConfig
from memcomp.cram.ways.table import WAYS
from memcomp.errors import InputError
from memcomp.lm.load import load_lm
from memcomp.lm.score import _score_after, baselines, joined, score_after, start
from memcomp.nn.rotary import rotary_table, rotate
from memcomp.studies.attention import (
    all_weights,
    attention_mass,
    attention_study,
    knockout_mask,
    knockout_study,
    knockouts,
)
from memcomp.studies.prefixes import Crammed
from memcomp.studies.use import check_use, context_study, means, use_study

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
# Attention and kinds of layers of their own; the others are slow to compile.
FAMILIES = ["gpt_neox", "gemma3_softcap"]
OTHERS = (
    "gpt2_divided_by_layer gpt_neo llama mistral_window olmo olmo2 opt_projected "
    "qwen2_window qwen3_window"
).split()
M, T = 3, 5
read_weights = jax.jit(all_weights, static_argnames="module")


def vectors_and_tokens(lm, num_texts=2, num_tokens=T, seed=0):
    rng = np.random.default_rng(seed)
    memory = rng.standard_normal((num_texts, M, lm.config.d_model)).astype(np.float32)
    tokens = rng.integers(0, lm.config.vocab_size, (num_texts, num_tokens))
    return memory, tokens.astype(np.int32)


def make_crammed(lm, num_texts=3):
    memory, tokens = vectors_and_tokens(lm, num_texts, 6 + T + 4)
    exact = np.ones(num_texts, bool)
    return Crammed(
        text_ids=tuple(range(num_texts)),
        sources=("test",) * num_texts,
        exact=exact,
        memory=memory,
        way="vectors",
        before=tokens[:, :6],
        tokens=tokens[:, 6 : 6 + T],
        after=tokens[:, 6 + T :],
    )


def norm(x, scale):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-5) * scale


def by_hand(lm, x, hidden):
    """Logits and attention of the tiny Llama, a layer and a head at a time.

    Args:
      lm: the tiny LM.
      x: [S D] input vectors.
      hidden: of each layer, how many leading keys later queries do not see.
    """
    p = jax.tree.map(np.asarray, lm.params)
    cfg, S = lm.config, len(x)
    table = rotary_table(cfg.rotary, jnp.arange(S), S)
    turned = lambda y: np.asarray(rotate(jnp.asarray(y)[None], table))[0]  # noqa: E731
    attention = np.zeros((cfg.num_layers, cfg.num_heads, S, S))
    for i in range(cfg.num_layers):
        w = jax.tree.map(lambda leaf, i=i: leaf[i], p["layers"])
        normed = norm(x, w["attn_norm"]["scale"])
        q, k, v = (
            np.einsum("sd,dnh->snh", normed, w["attn"][name]["kernel"]) for name in "qkv"
        )
        q, k = turned(q), turned(k)
        out = np.zeros_like(q)
        for n in range(cfg.num_heads):
            kv = n // (cfg.num_heads // cfg.num_kv_heads)
            for query in range(S):
                first = hidden[i] if query >= hidden[i] else 0
                keys = range(first, query + 1)
                scores = np.array([q[query, n] @ k[key, kv] for key in keys])
                weights = np.exp(scores * cfg.head_dim**-0.5)
                attention[i, n, query, keys] = weights / weights.sum()
            out[:, n] = attention[i, n] @ v[:, kv]
        x = x + np.einsum("snh,nhd->sd", out, w["attn"]["out"]["kernel"])
        normed = norm(x, w["mlp_norm"]["scale"])
        gate, up = (normed @ w["mlp"][name]["kernel"] for name in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w["mlp"]["down"]["kernel"]
    return norm(x, p["final_norm"]["scale"]) @ p["head"].T, attention


@pytest.fixture(scope="module")
def crammed(tiny_lm):
    return make_crammed(tiny_lm)


@pytest.mark.parametrize("layers", [(0, 2), (0, 1), (1, 2)])
def test_knockout_is_the_lm_read_with_memory_masked(tiny_lm, layers):
    memory, tokens = vectors_and_tokens(tiny_lm)
    mask = knockout_mask(tiny_lm, *layers, M, M + T - 1)
    got = score_after(tiny_lm, memory, tokens, mask)
    hidden = [M if layers[0] <= i < layers[1] else 0 for i in range(2)]
    x = joined(tiny_lm, memory, tokens[:, :-1])
    for row in range(2):
        logits, _ = by_hand(tiny_lm, x[row].astype(np.float64), hidden)
        logits = logits[M - 1 :]
        best = logits.max(axis=-1)
        total = np.log(np.exp(logits - best[:, None]).sum(axis=-1)) + best
        want = total - logits[np.arange(T), tokens[row]]
        # Measured 3e-6, of losses up to 14.
        np.testing.assert_allclose(got.loss[row], want, atol=2e-5)
        np.testing.assert_array_equal(got.right[row], logits.argmax(-1) == tokens[row])


def test_attention_is_that_of_loops_and_sums_to_one(tiny_lm):
    memory, tokens = vectors_and_tokens(tiny_lm)
    read = jnp.asarray(memory), jnp.asarray(tokens[:, :-1])
    weights = read_weights(tiny_lm.params, *read, module=tiny_lm.module)
    np.testing.assert_allclose(np.asarray(weights).sum(axis=-1), 1, atol=1e-6)
    mass = attention_mass(tiny_lm, memory, tokens)
    assert mass.shape == (2, 2, 4, T - 1)
    x = joined(tiny_lm, memory, tokens[:, :-1])
    for row in range(2):
        _, want = by_hand(tiny_lm, x[row].astype(np.float64), [0, 0])
        # Measured 1e-6.
        np.testing.assert_allclose(weights[row], want, atol=5e-6)
        np.testing.assert_allclose(mass[row], want[:, :, M:, :M].sum(-1), atol=5e-6)


@functools.cache
def family(case):
    return load_lm(str(GOLDEN / case))


@pytest.mark.parametrize(
    "case", [*FAMILIES, *(pytest.param(case, marks=pytest.mark.slow) for case in OTHERS)]
)
def test_every_family_hides_memory_in_the_layers_named_and_shows_its_weights(case):
    lm = family(case)
    L = lm.config.num_layers
    memory, tokens = map(jnp.asarray, vectors_and_tokens(lm, num_texts=1))
    mask = knockout_mask(lm, L - 1, L, M, M + T)
    weights = read_weights(lm.params, memory, tokens, module=lm.module, mask=mask)
    weights = np.asarray(weights)
    assert weights.shape == (1, L, lm.config.num_heads, M + T, M + T)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
    mass = weights[0, :, :, M:, :M].sum(axis=-1)  # [L N T]
    assert (mass[L - 1] == 0).all() and (mass[: L - 1, :, 0] > 0).all()
    # Memory's own queries see memory and nothing else.
    np.testing.assert_allclose(weights[..., :M, :M].sum(axis=-1), 1, atol=1e-5)


def test_hiding_memory_everywhere_is_a_text_without_memory_but_shifted():
    lm = family("llama_grouped_queries")  # rotary: only differences of positions count
    memory, tokens = vectors_and_tokens(lm)
    mask = knockout_mask(lm, 0, lm.config.num_layers, M, M + T - 1)
    got = score_after(lm, memory, tokens, mask).loss[:, 1:]
    want = score_after(lm, joined(lm, tokens[:, :1]), tokens[:, 1:]).loss
    # Measured 2e-6.
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_hiding_memory_in_no_layer_hides_nothing(tiny_lm):
    assert knockout_mask(tiny_lm, 1, 1, M, M + T).all()


def test_all_knockouts_share_one_program(tiny_lm, crammed):
    before = _score_after._cache_size()
    knockout_study(tiny_lm, crammed)
    assert _score_after._cache_size() - before <= 2  # with memory; with the start token


@pytest.mark.ci
def test_studies_of_a_cache_of_real_tokens_are_those_of_the_tokens(tiny_lm):
    lm = tiny_lm
    _, tokens = vectors_and_tokens(lm, num_tokens=M + T + 4)
    before, text, after = tokens[:, :M], tokens[:, M : M + T], tokens[:, M + T :]
    first = np.zeros((2, 1), np.int32)  # this LM has no tokenizer
    of_tokens = jax.jit(functools.partial(WAYS["cache"].of_tokens, module=lm.module))
    cached = np.stack([of_tokens(lm.params, jnp.asarray(row)) for row in before])
    whole, start = joined(lm, before, first), joined(lm, first)

    weights = read_weights(
        lm.params, jnp.asarray(whole), jnp.asarray(text[:, :-1]), module=lm.module
    )
    mass = attention_mass(lm, start, text, cached)
    # Measured 6e-7.
    np.testing.assert_allclose(mass, weights[..., M + 1 :, :M].sum(-1), atol=5e-6)

    hidden = np.ones((2, M + T, M + T), bool)
    hidden[:1, M + 1 :, :M] = False
    want = score_after(lm, whole, text, hidden).loss
    mask = knockout_mask(lm, 0, 1, M, T, in_cache=True)
    got = score_after(lm, start, text, mask, cached).loss
    # Measured 2e-6, where losses reach 14; the mask changes them by 1 and more.
    np.testing.assert_allclose(got, want, atol=2e-5)
    assert np.abs(score_after(lm, start, text, cached=cached).loss - want).max() > 0.5

    crammed = dataclasses.replace(
        make_crammed(lm, 2), way="cache", memory=cached, tokens=text, after=after
    )
    found = [r for r in use_study(lm, crammed) if r["condition"] == "memory"]
    want = score_after(lm, whole, after).columns()["loss_nats"]
    np.testing.assert_allclose([r["loss_nats"] for r in found], want, atol=2e-5)
    assert attention_study(lm, crammed)[0]["mass"] == pytest.approx(mass[0, 0].mean())
    assert len(knockout_study(lm, crammed)) == 2 * len(knockouts(2)) + 2
    [row] = [r for r in context_study(lm, crammed, (2,)) if r["condition"] == "memory"][:1]
    assert row["num_context"] == M
    one_step = dataclasses.replace(crammed, way="one_step", memory=whole)
    with pytest.raises(InputError, match="the LM reads no text"):
        context_study(lm, one_step, (2,))


def test_the_ranges_are_none_alone_from_the_first_and_to_the_last():
    want = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert knockouts(3) == want
    assert len(knockouts(32)) == 3 * 32 - 2


def test_lms_that_cannot_are_refused(tiny_lm):
    lm = family("mamba")
    memory, tokens = vectors_and_tokens(lm)
    for refused in (
        lambda: attention_mass(lm, memory, tokens),
        lambda: knockout_mask(lm, 0, 1, M, M + T),
    ):
        with pytest.raises(InputError, match="has no attention"):
            refused()
    with pytest.raises(InputError, match="has 0 to 2"):
        knockout_mask(tiny_lm, 0, 3, M, M + T)
    with pytest.raises(InputError, match="1 token"):
        attention_mass(tiny_lm, memory, tokens[:, :1])


@pytest.fixture(scope="module")
def contexts(tiny_lm, crammed):
    return context_study(tiny_lm, crammed, (0, 2, 6))


def test_no_context_is_the_baseline(tiny_lm, crammed, contexts):
    want = baselines(tiny_lm, list(crammed.tokens), num_given=0, pad_to=T, vocab_chunk=8192)
    nothing = [r for r in contexts if r["condition"] == "nothing"]
    none_before = [
        r for r in contexts if r["condition"] == "before" and r["num_context"] == 0
    ]
    for records in (nothing, none_before):
        got = [(r["loss_nats"], r["accuracy"]) for r in records]
        # Measured 2e-7.
        np.testing.assert_allclose(got, [w[:2] for w in want], atol=1e-6)


def test_contexts_are_the_tokens_that_they_say(tiny_lm, crammed, contexts):
    found = {
        (r["condition"], r["num_context"]): r["loss_nats"]
        for r in contexts
        if r["text_id"] == 1
    }
    before = {("before", k) for k in (0, 2, 6)}
    assert set(found) == before | {("memory", M), ("nothing", 0), ("doubled", T)}
    tokens = crammed.tokens[1]
    for key, context in {
        ("before", 2): crammed.before[1, 4:],
        ("before", 6): crammed.before[1],
        ("doubled", T): tokens,
    }.items():
        logits = tiny_lm.logits(np.concatenate([context, tokens])[None])[0]
        losses = -jax.nn.log_softmax(logits)[len(context) - 1 : -1][np.arange(T), tokens]
        # Measured 1e-6.
        assert found[key] == pytest.approx(float(losses.mean()), abs=5e-6)
    with pytest.raises(InputError, match="0 to 6"):
        context_study(tiny_lm, crammed, (7,))


@pytest.mark.ci
def test_use_scores_the_continuation_after_what_it_says(tiny_lm, crammed):
    found = {
        (r["condition"], r["text_id"]): r["loss_nats"] for r in use_study(tiny_lm, crammed)
    }
    memory, tokens, after = crammed.memory, crammed.tokens, crammed.after

    def after_prefix(*parts):
        x = joined(tiny_lm, *parts, after[:1, :-1])
        logits, _ = by_hand(tiny_lm, x[0].astype(np.float64), [0, 0])
        logs = jax.nn.log_softmax(jnp.asarray(logits[-4:], jnp.float32))
        return -float(logs[np.arange(4), after[0]].mean())

    for condition, parts in {
        "text": (tokens[:1],),
        "memory": (memory[:1],),
        "other memory": (memory[1:2],),
        "other memory, text": (memory[1:2], tokens[:1]),
    }.items():
        # Measured 2e-6.
        assert found[condition, 0] == pytest.approx(after_prefix(*parts), abs=1e-5)
    # Random memory says another text than the one it should.
    assert found["memory, text", 0] != found["other memory, text", 0]
    one = make_crammed(tiny_lm, num_texts=1)
    with pytest.raises(InputError, match="2 texts or more"):
        use_study(tiny_lm, one)


def test_studies_have_a_record_a_text_and_condition(tiny_lm, crammed):
    attention = attention_study(tiny_lm, crammed)
    assert len(attention) == 3 * 2  # texts, layers; the LM has no start token
    want = attention_mass(tiny_lm, crammed.memory, crammed.tokens).mean(axis=-1)
    for r in attention:
        heads = want[r["text_id"], r["layer"]]
        np.testing.assert_allclose(r["heads"], heads, rtol=1e-5)
        assert r["mass"] == pytest.approx(heads.mean(), rel=1e-5)
        assert r["uniform"] == pytest.approx(np.mean([3 / 4, 3 / 5, 3 / 6, 3 / 7]))
    knockout = knockout_study(tiny_lm, crammed)
    assert len(knockout) == 3 * (len(knockouts(2)) + 1)
    plain = score_after(tiny_lm, crammed.memory, crammed.tokens).loss[:, 1:].mean(axis=1)
    none = [r["loss_nats"] for r in knockout if r.get("last") == 0]
    np.testing.assert_allclose(none, plain, rtol=1e-6)


def test_means_are_over_texts_that_come_back():
    same = {"kind": "use", "source": "a", "condition": "text", "exact": True}
    lines = [same | {"text_id": i, "loss_nats": loss} for i, loss in enumerate((1, 4))]
    lines += [same | {"text_id": 2, "loss_nats": 100, "exact": False}]
    (found,) = means("use", lines, "loss_nats").values()
    assert (found.n, found.mean) == (2, 2.5)
    context = [line | {"kind": "context", "num_context": 1} for line in lines]
    assert means("context", context, "loss_nats")["text", 1].mean == 35
    assert means("use", context, "loss_nats") == {}


def test_a_score_does_not_depend_on_the_texts_beside_it(tiny_lm):
    memory, tokens = vectors_and_tokens(tiny_lm, num_texts=10)
    many = score_after(tiny_lm, memory, tokens)
    alone = score_after(tiny_lm, memory[8:9], tokens[8:9])
    assert many.loss.shape == (10, T)
    np.testing.assert_allclose(many.loss[8:9], alone.loss, atol=1e-6)


def test_too_many_positions_are_refused_beforehand(tiny_lm):
    cfg = CramConfig(num_memory=3)
    good = {"num_texts": 2, "num_tokens": 30, "before": (34,)}
    check_use(tiny_lm, cfg, **good, num_after=31)
    # A cache of as many positions needs one more, for the start token.
    of_cache = CramConfig(num_memory=3, memory="cache")
    check_use(tiny_lm, of_cache, **good, num_after=31)
    with pytest.raises(InputError, match="need 65 positions"):
        check_use(tiny_lm, of_cache, **good, num_after=32)
    with pytest.raises(InputError, match="the LM reads no text"):
        check_use(tiny_lm, CramConfig(memory="one_step"), **good, num_after=31)
    for change in (
        {"num_after": 33},
        {"num_after": 0},
        {"before": (35,)},
        {"before": (-1,)},
        {"num_texts": 1},
    ):
        with pytest.raises(InputError):
            check_use(tiny_lm, cfg, **{**good, "num_after": 31, **change})
    memory, tokens = vectors_and_tokens(tiny_lm, num_tokens=63)
    with pytest.raises(InputError, match="65 positions"):
        score_after(tiny_lm, memory, tokens)
    assert start(tiny_lm, 2).shape == (2, 0)
