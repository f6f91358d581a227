r"""How much recipes hold, and at what cost, on texts that none was chosen on.

  python experiments/recipe_table.py --config.lms.nano.texts=FOLDER \
      --config.lms.stories.lm=FOLDER --config.lms.stories.texts=FILE --workdir DIR
  python experiments/recipe_table.py --config configs/recipe_table.py:ablation ...
  python experiments/recipe_table.py --config configs/recipe_table.py:starts \
      --config.lms.nano.lengths='(10,)' ...
  python experiments/recipe_table.py --config.lms.words.texts=random_words \
      --config.lms.words.read.vocabulary=FILE ...

Both may share a workdir, whatever texts they are given. Passages are cut twice as small as
those of configs/recipe_search.py, and of them every second one is taken, which begins in
the middle of one of those. Numbers: docs/recipes_small_models.md.
Cost on two cores of a CPU: half an hour an LM.
"""

from ml_collections import config_dict

RECIPES = {
    "default": dict(base="default"),
    "progressive": dict(base="progressive"),
    "low_dim": dict(base="low_dim"),
}
# With the start, first moment, margin and patience of default, and nothing else of it.
PLAIN = dict(
    base="default",
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
    "ggt": dict(
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


WHAT = {
    "table": dict(
        recipes=RECIPES,
        at_lengths=("default", "reference"),
        compared=("progressive", "low_dim"),
    ),
    "ablation": dict(recipes=ABLATION, at_lengths=(), compared=()),
    # Whether a text that fails at a length fails from every start: a hundred for each.
    "starts": dict(recipes={}, at_lengths=("default",), compared=(), starts=100),
}


def get_config(what: str = "table") -> config_dict.ConfigDict:
    """Everything that experiments/recipe_table.py reads; `what`: of `WHAT`."""
    asked = {"starts": 1} | WHAT[what]
    config = config_dict.ConfigDict()
    config.seed = 0
    config.num_memory = 1
    config.texts_seed = 0  # of the order of the passages
    config.num_texts = 64
    config.batch_size = 16
    config.steps_per_chunk = 10
    # Name -> recipe of the table, and fields set otherwise.
    config.recipes = config_dict.create(**asked["recipes"])
    # Recipes that are asked how much they hold at the lengths below.
    config.at_lengths = asked["at_lengths"]
    config.starts = asked["starts"]  # that a text may have there until it is exact
    # Recipes to whose horizons default is asked to come.
    config.compared = asked["compared"]
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
    )
    return config
