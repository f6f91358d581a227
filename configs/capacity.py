r"""A sweep of capacity, or of horizons.

  python experiments/capacity.py                    # the built-in LM and passages
  python experiments/capacity.py --config configs/capacity.py:horizon
  python experiments/capacity.py --config configs/capacity.py:horizon,novels \
      --config.sources.novels.source=FOLDER --workdir DIR
  python experiments/capacity.py --config configs/capacity.py:claim \
      --config.sources.novels.source=FOLDER --config.sources.stories.source=FILE \
      --config.sources.random_words.vocabulary=FILE --workdir DIR

Fields that may grow in the same workdir: lms, sources, num_memory, seeds, lengths,
num_texts.
"""

from ml_collections import config_dict

# Short name -> fields of `read_texts`; empty ones are for the command line.
SOURCES = {
    "builtin": dict(builtin=dict(source="builtin")),
    "novels": dict(novels=dict(source="", passages=16)),
    # What sets the capacity: texts of one LM that differ in surprise.
    "claim": dict(
        novels=dict(source="", passages=16),
        stories=dict(source="", passages=64),
        random_words=dict(source="random_words", vocabulary=""),
        uniform=dict(source="uniform_tokens"),
    ),
}


def get_config(kinds: str = "grid") -> config_dict.ConfigDict:
    """Everything that experiments/capacity.py reads.

    Args:
      kinds: with commas: "grid" or "horizon", and a key of `SOURCES`.
    """
    words = kinds.split(",")
    (sources,) = [word for word in words if word in SOURCES] or ["builtin"]
    config = config_dict.ConfigDict()
    config.mode = "horizon" if "horizon" in words else "grid"
    config.lms = ("builtin",)
    config.dtype = "float32"
    config.remat = "none"  # this and the next as in configs/cram/base.py
    config.attention = "plain"
    # Devices; -1 for all that the others leave. data and fsdp cut batches, fsdp and
    # tensor cut weights.
    config.mesh = config_dict.create(data=-1, fsdp=1, tensor=1)
    config.shuffle_seed = config_dict.placeholder(int)  # control: weights in random order
    config.protocol = "strict"
    config.seeds = (0,)  # of the initial memories
    config.num_memory = (1,)
    config.lengths = (4, 6, 8)  # a horizon is looked for up to the longest
    config.num_texts = 16  # of each source; the first so many; -1: all
    config.texts_seed = 0
    config.sources = config_dict.create(**SOURCES[sources])
    if sources != "builtin":
        config.lengths = (2, 3, 4, 6, 8, 12, 16, 24)
        config.num_texts = 64

    # Passed as CramConfig(**config.cram).
    config.cram = config_dict.create(
        memory="vectors",  # way of writing: docs/ways.md
        recipe="default",
        learning_rate=config_dict.placeholder(float),
        max_steps=config_dict.placeholder(int),
        patience=config_dict.placeholder(int),
        margin=config_dict.placeholder(float),
        ahead=config_dict.placeholder(int),
        batch_size=32,
        steps_per_chunk=25,
        vocab_chunk=8192,
        token_chunk=256,
    )
    # Passed as Growth(**config.growth), for recipes that do not grow; factor 1 is one token
    # more at a time.
    config.growth = config_dict.create(first=4, factor=1.25)
    if config.mode == "horizon":
        config.cram.steps_per_chunk = 10
    return config
