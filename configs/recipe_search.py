r"""Recipes over texts: choose on the texts of "search", compare on those of "final".

  python experiments/recipe_search.py --config configs/recipe_search.py:search \
      --config.lms.nano.texts=FOLDER --config.lms.stories.lm=FOLDER \
      --config.lms.stories.texts=FILE --workdir runs/recipe_search
  python experiments/recipe_search.py --config configs/recipe_search.py:real \
      --config.lms.real.lm=DIR_OR_HUB_ID --config.lms.real.texts=FOLDER --workdir runs/real

Stages: search, margins (what a margin is worth), vectors (four of them), speed (fewer steps
to what is easy), real (each part of `default` on a real model), final. All may share one
workdir. An LM without texts is left out; nano is the built-in LM. Numbers:
docs/recipe_search.md and docs/recipe_full.md. Cost on one CPU core: 15 to 60 s for each
recipe, LM and length; of a real model a few minutes on two cores.
"""

from ml_collections import config_dict

BEFORE = dict(
    base="reference",
    learning_rate=0.5,
    max_steps=1000,
    patience=1000,
    margin=0.1,
    warmup_steps=20,
    schedule="cosine",
    final_learning_rate=1e-3,
)
SEARCH = (
    dict(name="reference, 1000 steps", base="reference", max_steps=1000, patience=1000),
    dict(BEFORE, name="lr 0.1, constant", learning_rate=0.1, schedule="constant"),
    dict(BEFORE, name="lr 0.1", learning_rate=0.1),
    dict(BEFORE, name="lr 0.2", learning_rate=0.2),
    dict(BEFORE, name="lr 0.5"),
    dict(BEFORE, name="lr 1", learning_rate=1.0),
    dict(BEFORE, name="lr 2", learning_rate=2.0),
    dict(BEFORE, name="lr 4", learning_rate=4.0),
    dict(BEFORE, name="lr 8", learning_rate=8.0),
    dict(BEFORE, name="lr 4, constant", learning_rate=4.0, schedule="constant"),
    dict(BEFORE, name="lr 4, warm-up 100", learning_rate=4.0, warmup_steps=100),
    dict(BEFORE, name="lr 4, b1 0.8", learning_rate=4.0, b1=0.8),
    dict(BEFORE, name="lr 4, b2 0.99", learning_rate=4.0, b2=0.99),
    dict(BEFORE, name="lr 4, no decay", learning_rate=4.0, weight_decay=0.0),
    dict(BEFORE, name="lr 4, decay 0.1", learning_rate=4.0, weight_decay=0.1),
    dict(BEFORE, name="lr 4, init 0.1", learning_rate=4.0, init_scale=0.1),
    dict(
        BEFORE,
        name="lr 4, uniform 0.02",
        learning_rate=4.0,
        init="uniform",
        init_scale=0.02,
    ),
    dict(BEFORE, name="lr 4, patience 300", learning_rate=4.0, patience=300),
    dict(BEFORE, name="lr 0.2, b2 0.99", learning_rate=0.2, b2=0.99),
    dict(BEFORE, name="lr 0.5, b2 0.99", b2=0.99),
    dict(BEFORE, name="lr 1, b2 0.99", learning_rate=1.0, b2=0.99),
    dict(
        BEFORE,
        name="lr 1, b2 0.99, 3000 steps",
        learning_rate=1.0,
        b2=0.99,
        max_steps=3000,
        patience=3000,
    ),
    dict(BEFORE, name="lr 1, init 0.1", learning_rate=1.0, init_scale=0.1),
    dict(
        BEFORE, name="lr 1, b2 0.99, init 0.1", learning_rate=1.0, b2=0.99, init_scale=0.1
    ),
)
FINAL = (
    dict(name="reference, 1000 steps", base="reference", max_steps=1000, patience=1000),
    dict(name="full", base="full"),
    dict(name="default", base="default"),
)
MARGINS = tuple(
    dict(name=f"full, margin {margin}", base="full", margin=margin)
    for margin in (0.0, 0.05, 0.1, 0.2, 0.5)
)
# Fewer steps to exactness, at lengths that `reference` solves for about 90 % of texts.
ADAMW = dict(
    optimizer="adamw",
    learning_rate=1.0,
    unit_rate=False,
    weight_decay=0.01,
    eps=1e-8,
)
LOW_RANK = dict(parametrisation="low_dim", stuck_after=0)
SPEED = tuple(
    dict(changes, name=name, base="default")
    for name, changes in {
        "default": {},
        "adamw, warm-up 20": dict(ADAMW, warmup_steps=20),
        "adamw": ADAMW,
        "adamw, lr 0.5": dict(ADAMW, learning_rate=0.5),
        "adamw, b1 0.5": dict(ADAMW, b1=0.5),
        "adamw, b1 0.9": dict(ADAMW, b1=0.9),
        "adamw, low_dim, lr 0.1": dict(ADAMW, **LOW_RANK, learning_rate=0.1),
        "power 0": dict(power=0.0),
        "power 0.5": dict(power=0.5),
        "power 1": dict(power=1.0),
        "window 8": dict(window=8),
        "window 48": dict(window=48),
        "eps 0.001": dict(eps=0.001),
        "eps 0.1": dict(eps=0.1),
        "b1 0": dict(b1=0.0),
        "b1 0.5": dict(b1=0.5),
        "b1 0.8": dict(b1=0.8),
        "b2 0.8": dict(b2=0.8),
        "b2 0.95": dict(b2=0.95),
        "rate 40": dict(learning_rate=40.0),
        "rate 400": dict(learning_rate=400.0),
        "decay 0.01": dict(weight_decay=0.01),
        "warm-up 20": dict(warmup_steps=20),
        "init 1": dict(init_scale=1.0),
        "init 30": dict(init_scale=30.0),
        "all tokens at once": dict(grows=False),
        "8 ahead": dict(ahead=8),
        "cross-entropy": dict(loss="cross_entropy"),
        "sure weight 0.2": dict(sure_weight=0.2),
    }.items()
)
# The parts of `default` on a real model, most telling first; and what it was before.
LOW_DIM = dict(LOW_RANK, learning_rate=0.05, unit_rate=False, weight_decay=0.01)
REAL = tuple(
    dict(base="default", max_steps=600) | dict(changes, name=name)
    for name, changes in {
        "default": {},
        "rate 5, decay 0.01": dict(learning_rate=5.2, weight_decay=0.01),
        "rate 20, decay 0.01": dict(learning_rate=20.7, weight_decay=0.01),
        "decay 0.01": dict(weight_decay=0.01),
        "rate 20": dict(learning_rate=20.7),
        "rate 40": dict(learning_rate=44.0),
        "rate 400": dict(learning_rate=370.0),
        "without easing": dict(easy=0.0),
        "cross-entropy": dict(loss="cross_entropy", sure_weight=1.0),
        "cross-entropy, small weight": dict(loss="cross_entropy"),
        "adamw": dict(optimizer="adamw", eps=1e-8),
        "adamw, rate 40": dict(optimizer="adamw", eps=1e-8, learning_rate=40.0),
        "init 1": dict(init_scale=1.0),
        "all tokens at once": dict(grows=False),
        "0 ahead": dict(ahead=0),
        "sure weight 0.2": dict(sure_weight=0.2),
        "sure weight 1": dict(sure_weight=1.0),
        "without beginning again": dict(stuck_after=0),
        "constant rate": dict(schedule="constant"),
        "power 0.5": dict(power=0.5),
        "power 1": dict(power=1.0),
        "window 8": dict(window=8),
        "b1 0.9, b2 0.95": dict(b1=0.9, b2=0.95),
        "low_dim": LOW_DIM,
        "low_dim, lr 0.1": dict(LOW_DIM, learning_rate=0.1),
        "low_dim, adamw, lr 0.1": dict(ADAMW, **LOW_RANK, learning_rate=0.1),
        "published low_dim": dict(base="low_dim", margin=0.1, patience=600),
    }.items()
)
# stage -> recipes, vectors a text, first and number of texts, lengths of each LM
STAGES = {
    "search": (SEARCH, 1, 0, 24, dict(nano=(8,), stories=(16,))),
    "margins": (MARGINS, 1, 32, 48, dict(nano=(4,), stories=(8,))),
    "vectors": (FINAL[1:], 4, 32, 24, dict(nano=(16, 20, 24), stories=(32, 48, 64))),
    "speed": (SPEED, 1, 0, 24, dict(nano=(6,), stories=(8,))),
    "real": (REAL, 1, 100, 4, dict(real=(32,))),
    "final": (FINAL, 1, 32, 48, dict(nano=(4, 6, 8, 10), stories=(8, 12, 16, 20, 24))),
}
LMS = {
    "nano": dict(lm="builtin", passages=32),  # passages of each file
    "stories": dict(lm="stories260k", passages=128),
    "real": dict(lm="", passages=4),
}


def get_config(stage: str = "search") -> config_dict.ConfigDict:
    """Everything that experiments/recipe_search.py reads."""
    recipes, num_memory, first, num_texts, lengths = STAGES[stage]
    config = config_dict.ConfigDict()
    config.seed = 0
    config.recipes = recipes  # fields of Recipe, on top of the recipe `base`
    config.num_memory = num_memory
    config.batch_size = 16
    config.steps_per_chunk = 10 if stage == "real" else 50
    config.vocab_chunk = 2048  # vocabulary entries whose logits exist at once

    config.split = stage
    config.texts_seed = 0  # all passages are shuffled, and a slice of them taken
    config.first_text = first
    config.num_texts = num_texts
    config.lms = config_dict.ConfigDict()
    for name, lm in LMS.items():
        texts = config_dict.placeholder(str)
        config.lms[name] = dict(lm, texts=texts, lengths=lengths.get(name, ()))
    return config
