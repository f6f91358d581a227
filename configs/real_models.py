r"""Everything that is asked of one language model, most valuable first.

  python experiments/real_models.py --config.lm=DIR_OR_HUB_ID \
      --config.sources.novels.source=FOLDER --config.sources.stories.source=FILE \
      --config.sources.random_words.vocabulary=FILE --config.minutes=60 --workdir DIR
  python experiments/real_models.py --config configs/real_models.py:gpu ...
  python experiments/real_models.py     # the built-in LM: 141 s of CPU time

A row is one measurement. `order` says which rows are measured, and when; a source without
texts is passed over. Started again with the same workdir, the command resumes.
Cost on SmolLM2-135M: on two CPU cores hours for a horizon of 8 texts (docs/results.md).
"""

from ml_collections import config_dict

SOURCES = dict(
    novels=dict(source="", passages=2),  # the opening and the middle of each file
    stories=dict(source="", passages=64),
    random_words=dict(source="random_words", vocabulary=""),
    uniform=dict(source="uniform_tokens"),
)


def row(measure: str = "horizon", **changes) -> dict:
    """One measurement; `changes` are of the fields below."""
    fields = dict(
        measure=measure,  # "horizon", "exact" or "use"
        source="novels",
        num_texts=config_dict.placeholder(int),  # None: that of the config
        recipe="default",
        learning_rate=config_dict.placeholder(float),  # None: the recipe's
        num_memory=1,
        memory="vectors",  # way of writing: docs/ways.md
        dtype="float32",
    )
    return fields | changes


def rows(few: int | None) -> dict[str, dict]:
    """All rows, by name; `few`: texts of those that come last, None for all texts."""
    some = dict(num_texts=config_dict.placeholder(int) if few is None else few)
    return dict(
        default=row(),
        progressive=row(recipe="progressive", learning_rate=1.0),
        progressive_slow=row(recipe="progressive", **some),  # the paper's rate, 0.1
        low_dim=row(recipe="low_dim"),
        stories=row(source="stories", **some),
        random_words=row(source="random_words", **some),
        uniform=row(source="uniform", **some),
        two_vectors=row(num_memory=2, **some),
        four_vectors=row(num_memory=4, **some),
        bfloat16=row("exact", dtype="bfloat16"),
        use=row("use"),
    )


SIZES = {
    "cpu": dict(num_texts=8, few=4, batch_size=8, vocab_chunk=2048),
    "gpu": dict(num_texts=50, few=None, batch_size=50, vocab_chunk=8192),
    "builtin": dict(num_texts=4, few=2, batch_size=4, vocab_chunk=2048),
}


def get_config(size: str = "") -> config_dict.ConfigDict:
    """Everything that experiments/real_models.py reads.

    Args:
      size: "cpu", "gpu", or "" for the built-in LM.
    """
    sizes = SIZES[size or "builtin"]
    config = config_dict.ConfigDict()
    config.lm = "builtin"  # folder, Hub id or "builtin"
    config.seed = 0
    config.remat = "none"  # this and the next two as in configs/cram/base.py
    config.attention = "plain"
    config.mesh = config_dict.create(data=-1, fsdp=1, tensor=1)
    config.num_texts = sizes["num_texts"]
    config.minutes = config_dict.placeholder(float)  # time budget of this start
    config.sources = config_dict.create(**SOURCES)
    config.rows = config_dict.create(**rows(sizes["few"]))
    # Most valuable first; a row that is not named is not measured.
    config.order = tuple(rows(sizes["few"]))
    config.most = 256  # tokens up to which a horizon is looked for
    # Of "exact" and "use": tokens that are crammed; of "use", those of the continuation.
    config.num_tokens = 32
    config.after = 32
    # Passed as CramConfig(**config.cram).
    config.cram = config_dict.create(
        batch_size=sizes["batch_size"],
        steps_per_chunk=10,
        vocab_chunk=sizes["vocab_chunk"],  # docs/speed.md
        token_chunk=256,
    )
    if size == "gpu":
        config.sources.novels.passages = 13  # of four novels, 52 texts
        config.most = 512
    if not size:
        config.sources.novels = config_dict.create(source="builtin")
        config.order = ("default", "progressive", "uniform", "bfloat16", "use")
        config.most, config.num_tokens, config.after = 16, 4, 8
    return config
