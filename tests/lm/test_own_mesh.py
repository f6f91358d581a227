"""Whoever asks an LM on several devices does it within the LM's mesh.

Outside of it JAX refuses a Pallas kernel, such as splash attention, on several TPU chips.
"""

import dataclasses

import jax
import numpy as np
import pytest
from tiny_lm import EIGHT_HEADS, make_tiny_lm, on_devices

import memcomp
from memcomp.cram.config import CramConfig
from memcomp.cram.decode import decode
from memcomp.cram.horizon import Growth, horizons
from memcomp.cram.recipe import Recipe
from memcomp.data.texts import Text
from memcomp.lm.score import baselines, joined, score_after
from memcomp.metrics import entropy_coding
from memcomp.studies import geometry
from memcomp.studies.attention import attention_mass
from memcomp.studies.trajectories import trajectories

RECIPE = Recipe(learning_rate=0.5, max_steps=4, patience=4, margin=0.1)
CFG = CramConfig(recipe=RECIPE, num_memory=2, num_tokens=5, steps_per_chunk=2)
MEMORY = np.ones((8, 2, 16), np.float32)
TOKENS = np.arange(40, dtype=np.int32).reshape(8, 5) % 23
TEXTS = [Text(i, "test", tokens) for i, tokens in enumerate(TOKENS)]
SOLUTIONS = geometry.Solutions(MEMORY, TOKENS, np.full(8, 5, np.int32))


ASKED = {
    "logits": lambda lm: lm.logits(TOKENS),
    "decoding": lambda lm: decode(lm, MEMORY, 5),
    "baselines": lambda lm: baselines(
        lm, list(TOKENS), num_given=0, pad_to=5, vocab_chunk=7
    ),
    "vectors": lambda lm: joined(lm, TOKENS),
    "scores": lambda lm: score_after(lm, MEMORY, TOKENS),
    "entropy coding": lambda lm: entropy_coding.encode(lm, list(TOKENS)),
    "attention": lambda lm: attention_mass(lm, MEMORY, TOKENS),
    "cramming": lambda lm: memcomp.cram(lm, list(TOKENS), CFG),
    "horizons": lambda lm: list(horizons(lm, TEXTS, CFG, Growth(1, 2.0, most=3))),
    "geometry": lambda lm: geometry.score(lm, SOLUTIONS, CFG),
    "vocabulary": lambda lm: geometry.vocabulary(lm),
    "trajectories": lambda lm: trajectories(lm, TEXTS, CFG, every=2),
}


# The cheap ones; .ci/run runs the rest.
ALWAYS = ("logits", "scores")


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(name, marks=[] if name in ALWAYS else [pytest.mark.ci])
        for name in ASKED
    ],
)
def test_an_lm_is_asked_within_its_mesh(asked, monkeypatch):
    # A config of its own, so that no program was traced before: that would not be seen.
    config = dataclasses.replace(EIGHT_HEADS, max_positions=100 + list(ASKED).index(asked))
    lm = on_devices(make_tiny_lm("float32", config), 2, 2, 2)
    family, met = type(lm.module), []
    real = family.apply

    def apply(*args, **options):
        met.append(not jax.sharding.get_abstract_mesh().empty)
        return real(*args, **options)

    monkeypatch.setattr(family, "apply", apply)
    ASKED[asked](lm)
    assert met and all(met)
