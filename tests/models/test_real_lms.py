"""Two pretrained models, SmolLM2 and Gemma 3: ours beside transformers, crammed into.

    tests/real_lms.sh DIR .venv/bin/python
    MEMCOMP_REAL_LMS=DIR .venv/bin/python -m pytest -m real -s

Their weights are dequantised from 4 to 8 bits, so that they are somewhat worse than the
published ones.
"""

import os
import pathlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

import memcomp
from memcomp.lm.load import BUILTIN

pytestmark = [
    pytest.mark.real,
    # torch's own use of Python's deprecated names.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
]
PASSAGES = (BUILTIN / "texts.txt").read_text().splitlines()
NUM_TOKENS = 200  # whose logits are compared
NUM_PROMPT, NUM_NEW = 60, 40
NUM_CRAMMED = 24


class Real(NamedTuple):
    """A model and what is known or was measured of it.

    Attributes:
      script: its name for tests/real_lms.sh.
      hello: token ids of "Hello world" with the tokenizer of the published model.
      config: of ours, by name.
      error: bound of the difference of float32 logits to those of transformers.
      low: bounds of the largest and the mean difference of bfloat16 logits to them.
    """

    name: str
    script: str
    hello: list[int]
    config: dict[str, object]
    error: float
    low: tuple[float, float]


REALS = [
    Real(
        "smollm2-135m-instruct",
        "smollm2",
        [19556, 905],
        dict(num_layers=30, d_model=576, num_heads=9, num_kv_heads=3, head_dim=64)
        | dict(vocab_size=49_152, d_mlp=1536, max_positions=8192, tied_embeddings=True),
        error=7e-4,  # measured 1.34e-4, of logits up to 34.6
        low=(4.2, 0.53),  # measured 0.83 and 0.107
    ),
    Real(
        "gemma-3-270m",
        "gemma",
        [2, 9259, 1902],
        dict(num_layers=18, d_model=640, num_heads=4, num_kv_heads=1, head_dim=256)
        | dict(vocab_size=262_144, d_mlp=2048, max_positions=32_768, query_scale=256)
        | dict(windows=3 * (*5 * (512,), None), tied_embeddings=True),
        error=2.5e-4,  # measured 4.7e-5, of logits up to 31.3
        low=(2.0, 0.25),  # measured 0.40 and 0.049
    ),
]


@pytest.fixture(scope="module", params=REALS, ids=lambda real: real.script)
def real(request):
    return request.param


@pytest.fixture(scope="module")
def folder(real):
    root = os.environ.get("MEMCOMP_REAL_LMS")
    if root is None or not (pathlib.Path(root) / real.name).is_dir():
        pytest.skip(
            f"no {real.name}: run tests/real_lms.sh DIR PYTHON {real.script}, and set "
            "MEMCOMP_REAL_LMS=DIR"
        )
    return pathlib.Path(root) / real.name


class Theirs(NamedTuple):
    """What transformers computes.

    Attributes:
      tokens: of an English text, what begins a text included.
      logits: after each of `tokens`, float32.
      continuation: of the first tokens, greedy.
    """

    tokens: np.ndarray
    logits: np.ndarray
    continuation: np.ndarray


@pytest.fixture(scope="module")
def theirs(folder):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(" ".join(PASSAGES[:8]))["input_ids"][:NUM_TOKENS]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = model.eval()
    model.generation_config.eos_token_id = None
    tokens = torch.tensor([ids])
    with torch.no_grad():
        logits = model(tokens, use_cache=False).logits[0].numpy()
        prompt = tokens[:, :NUM_PROMPT]
        found = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=NUM_NEW,
            min_new_tokens=NUM_NEW,
            do_sample=False,
            pad_token_id=0,
        )
    continuation = found[0, NUM_PROMPT:].numpy()
    return Theirs(np.array(ids, np.int32), logits, continuation)


@pytest.fixture(scope="module")
def lm(folder):
    return memcomp.load_lm(str(folder))


@pytest.fixture(scope="module")
def low(folder):
    return memcomp.load_lm(str(folder), dtype="bfloat16")


@pytest.fixture(scope="module")
def stored(lm, tmp_path_factory):
    """Two passages crammed, and the file of their memories."""
    config = memcomp.CramConfig(num_tokens=NUM_CRAMMED, num_memory=1)
    results = memcomp.cram(lm, PASSAGES[:2], config)
    path = tmp_path_factory.mktemp("real") / "memory.safetensors"
    memcomp.save_memory(path, results)
    return results, path


def errors(got, want):
    """The largest and the mean difference, and at how many positions the argmax differs."""
    difference = np.abs(got - want)
    changed = int((got.argmax(-1) != want.argmax(-1)).sum())
    return float(difference.max()), float(difference.mean()), changed


def report(record_property, what, value):
    record_property(what, value)
    print(f"\n{what}: {value}")


def test_the_config_is_the_published_one(real, lm):
    assert {name: getattr(lm.config, name) for name in real.config} == real.config
    if real.script == "gemma":
        assert (lm.config.rotary.theta, lm.config.window_rotary.theta) == (1e6, 1e4)
    else:
        assert lm.config.rotary.theta == 1e5


def test_token_ids_are_those_of_transformers_and_of_the_published_model(real, lm, folder):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text in (*PASSAGES, "In 1984, 3,256 cafés\n\n  — “so”!"):
        for special in (False, True):
            ids = lm.tokenizer(text, add_special_tokens=special)["input_ids"]
            assert ids == tokenizer(text, add_special_tokens=special)["input_ids"]
        assert lm.tokenizer.decode(ids, skip_special_tokens=True) == text
    assert lm.tokenizer("Hello world")["input_ids"] == real.hello


def test_logits_match_transformers(real, lm, theirs, record_property):
    got = np.asarray(lm.logits(theirs.tokens[None]))[0]
    largest, mean, changed = errors(got, theirs.logits)
    said = f"largest {largest:.2e}, mean {mean:.2e} of {np.abs(theirs.logits).max():.1f}"
    report(record_property, f"{real.name}, float32 logits", said)
    assert len(theirs.tokens) == NUM_TOKENS and changed == 0
    assert largest < real.error


def test_bfloat16_logits_are_near_those_of_float32(real, low, theirs, record_property):
    got = np.asarray(low.logits(theirs.tokens[None]))[0]
    largest, mean, changed = errors(got, theirs.logits)
    said = f"largest {largest:.3f}, mean {mean:.4f}, argmax other at {changed}"
    report(record_property, f"{real.name}, bfloat16 logits", said)
    assert largest < real.low[0] and mean < real.low[1]


def test_greedy_continuation_is_that_of_generate(lm, theirs):
    prompt = jnp.asarray(theirs.tokens[None, :NUM_PROMPT])
    vectors = lm.module.apply({"params": lm.params}, prompt, method="embed")
    got = memcomp.decode(lm, vectors, NUM_NEW)[0]
    np.testing.assert_array_equal(got, theirs.continuation)
    assert len(set(got.tolist())) > NUM_NEW // 3  # no phrase over and over


def test_two_passages_come_back_from_their_file(real, lm, stored, record_property):
    results, path = stored
    steps = [result.steps for result in results]
    report(record_property, f"{real.name}, steps to {NUM_CRAMMED} tokens", steps)
    found = memcomp.load_memory(path, lm)
    assert len(found) == 2
    for result in results:
        ids = lm.tokenizer(PASSAGES[result.text_id], add_special_tokens=False)["input_ids"]
        memory = found[str(result.text_id)].memory
        assert memory.shape == (1, lm.config.d_model)
        got = memcomp.decode(lm, memory, NUM_CRAMMED)
        np.testing.assert_array_equal(got, ids[:NUM_CRAMMED])


def test_the_same_memories_in_bfloat16(real, low, stored, record_property):
    """How many survive differs by machine; that bfloat16 takes the file does not."""
    results, path = stored
    found = memcomp.load_memory(path, low)
    survived = 0
    for result in results:
        got = memcomp.decode(low, found[str(result.text_id)].memory, NUM_CRAMMED)
        assert got.shape == (NUM_CRAMMED,)
        survived += bool((got == result.tokens).all())
    report(record_property, f"{real.name}, passages right in bfloat16", f"{survived} of 2")
