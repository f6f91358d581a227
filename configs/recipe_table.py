r"""How much recipes hold, and at what cost, on texts that none was chosen on.

  python experiments/recipe_table.py --config.lms.nano.texts=FOLDER \
      --config.lms.stories.lm=FOLDER --config.lms.stories.texts=FILE --workdir DIR
  python experiments/recipe_table.py --config configs/recipe_table.py:ablation ...
  python experiments/recipe_table.py --config configs/recipe_table.py:starts \
      --config.lms.nano.lengths='(10,)' ...
  python experiments/recipe_table.py --config.lms.words.texts=random_words \
      --config.lms.words.read.vocabulary=FILE ...
  python experiments/recipe_table.py --config configs/recipe_table.py:real \
      --config.lms.real.lm=DIR_OR_HUB_ID --config.lms.real.texts=FOLDER --workdir DIR

`real` is each part of `default` on a real model, on texts that no other table has. All may
share a workdir, whatever texts they are given. An LM without texts is left out; nano is the
built-in LM. Numbers: docs/recipes_small_models.md; of `real`, docs/recipes.md.
Cost on two cores of a CPU: half an hour an LM; of a real model a few minutes a recipe.
"""

from ml_collections import config_dict

RECIPES = {
    "default": dict(base="default"),
    "progressive": dict(base="progressive"),
    "low_dim": dict(base="low_dim"),
}
# With the first moment, margin and patience of default, and nothing else of it.
PLAIN = dict(
    base="default",
    init="normal",
    init_scale=10.0,
    optimizer="adamw",
    learning_rate=1.0,
    unit_rate=False,
    weight_decay=0.01,
    eps=1e-8,
    warmup_steps=20,
    loss="cross_entropy",
    ahead=0,
    sure_weight=1.0,
    easy=0.0,
    stuck_after=0,
    schedule="cosine",
    max_steps=1000,
)
PARTS = {
    "ggt": dict(  # and the large start, which smaller steps would not leave
        init="steps",
        init_scale=8.0,
        optimizer="ggt",
        learning_rate=125.0,
        unit_rate=True,
        weight_decay=0.0,
        eps=0.01,
        warmup_steps=0,
    ),
    "margin": dict(loss="margin"),
    "small weight": dict(sure_weight=0.02),
    "ahead": dict(ahead=4),
    "restarts": dict(schedule="restarts", max_steps=10_000),
    "beginning again": dict(stuck_after=4),
}
ABLATION = {
    "default": RECIPES["default"],
    "none of the parts": PLAIN,
    **{f"{name} alone": PLAIN | part for name, part in PARTS.items()},
    **{
        f"without {name}": RECIPES["default"] | {key: PLAIN[key] for key in part}
        for name, part in PARTS.items()
    },
    "without easing": RECIPES["default"] | dict(easy=0.0),
    "start of 10 units": RECIPES["default"] | dict(init="normal", init_scale=10.0),
    **{
        f"rate {rate}": RECIPES["default"] | dict(learning_rate=float(rate))
        for rate in (5, 12, 40)
    },
    "rate 5, without beginning again": RECIPES["default"]
    | dict(learning_rate=5.0, stuck_after=0),
    **{
        f"patience {patience}": RECIPES["default"] | dict(patience=patience)
        for patience in (75, 100, 400)
    },
}


# Changes of `default` on a real model, most telling first. A name has no dots, because they
# would be fields of fields.
ADAMW = dict(optimizer="adamw", eps=1e-8)
LOW_DIM = dict(
    parametrisation="low_dim",
    init="normal",
    init_scale=10.0,
    stuck_after=0,
    learning_rate=0.05,
    unit_rate=False,
    weight_decay=0.01,
)
REAL = {
    name: dict(base="default", max_steps=600) | changes
    for name, changes in {
        "default": {},
        "decay": dict(weight_decay=0.01),
        "rate 40": dict(learning_rate=40.0),
        "rate 400": dict(learning_rate=400.0),
        "without easing": dict(easy=0.0),
        "cross-entropy": dict(loss="cross_entropy", sure_weight=1.0),
        "cross-entropy, small weight": dict(loss="cross_entropy"),
        "adamw": ADAMW,
        "start of 10 units": dict(init="normal", init_scale=10.0),
        "start of 2 steps": dict(init_scale=2.0),
        "all tokens at once": dict(grows=False),
        "0 ahead": dict(ahead=0),
        "sure weight 1/5": dict(sure_weight=0.2),
        "sure weight 1": dict(sure_weight=1.0),
        "without beginning again": dict(stuck_after=0),
        "constant rate": dict(schedule="constant"),
        "power 1/2": dict(power=0.5),
        "power 1": dict(power=1.0),
        "window 8": dict(window=8),
        "larger b1 and b2": dict(b1=0.9, b2=0.95),
        "low_dim": LOW_DIM,
        "low_dim, twice the rate": LOW_DIM | dict(learning_rate=0.1),
        "low_dim, adamw": LOW_DIM | ADAMW | dict(learning_rate=0.1),
        "published low_dim": dict(base="low_dim", margin=0.1, patience=600),
    }.items()
}

WHAT = {
    "table": dict(
        recipes=RECIPES | {"reference": dict(base="reference")},
        horizons=tuple(RECIPES),
        at_lengths=("default", "reference"),
        compared=("progressive", "low_dim"),
    ),
    "ablation": dict(recipes=ABLATION, horizons=tuple(ABLATION)),
    # Whether a text that fails at a length fails from every start: a hundred for each.
    "starts": dict(recipes=RECIPES, at_lengths=("default",), starts=100),
    "real": dict(
        recipes=REAL,
        at_lengths=tuple(REAL),
        held_out=False,
        first_text=100,
        num_texts=4,
        batch_size=4,
        vocab_chunk=2048,
    ),
}


def get_config(what: str = "table") -> config_dict.ConfigDict:
    """Everything that experiments/recipe_table.py reads; `what`: of `WHAT`."""
    config = config_dict.ConfigDict()
    config.seed = 0
    config.num_memory = 1
    config.texts_seed = 0  # of the order of the passages
    config.held_out = True  # every second passage alone, the others being for choosing
    config.first_text = 0  # in that order
    config.num_texts = 64
    config.batch_size = 16
    config.steps_per_chunk = 10
    config.vocab_chunk = 8192  # vocabulary entries whose logits exist at once
    # Name -> recipe of the table, and fields set otherwise.
    config.recipes = config_dict.ConfigDict()
    config.horizons = ()  # names of those whose horizons are looked for
    config.at_lengths = ()  # and of those that are asked how much they hold at `lengths`
    config.starts = 1  # that a text may have there until it is exact
    config.compared = ()  # names of those to whose horizons default is asked to come
    config.update(WHAT[what])
    config.lms = config_dict.create(
        nano=dict(
            lm="builtin",
            texts=config_dict.placeholder(str),
            read=dict(passages=64),  # of each novel; passed to `read_texts`
            most=40,  # tokens up to which a horizon is looked for
            lengths=(2, 3, 4, 5, 6, 7, 8),
        ),
        stories=dict(
            lm="stories260k",
            texts=config_dict.placeholder(str),
            read=dict(passages=256),
            most=64,
            lengths=(4, 6, 8, 10, 12, 14),
        ),
        words=dict(
            lm="builtin",
            texts=config_dict.placeholder(str),  # "random_words"
            read=dict(vocabulary="", num_words=40, num_texts=256),
            most=40,
            lengths=(2, 3, 4, 5, 6, 7, 8),
        ),
        real=dict(
            lm="",
            texts=config_dict.placeholder(str),
            read=dict(passages=4),
            most=32,
            lengths=(32,),
        ),
    )
    return config
