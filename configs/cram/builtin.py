r"""Cram 16 English passages into one vector each of the LM that ships with memcomp.

  python experiments/cram.py

Lengths go from what one vector of this LM always holds to what it cannot hold.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = config_dict.ConfigDict()
    config.seed = 0
    config.protocol = "strict"  # "strict" or "reference"
    config.lm = "builtin"  # folder, Hub id or "builtin"
    config.dtype = "float32"

    config.texts = "builtin"  # file, folder, "-", "random_words" or "builtin"
    config.num_texts = 16
    config.field = "text"  # of a .jsonl or .csv row
    config.passages = 1  # texts that each file is cut into
    config.vocabulary = ""  # word list of "random_words"

    # Passed as CramConfig(**config.cram): an unknown key is an error.
    config.cram = config_dict.create(
        num_tokens=(3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 8, 12, 16),
        num_memory=1,
        recipe="default",
        max_steps=config_dict.placeholder(int),  # None: the recipe's
        patience=config_dict.placeholder(int),
        margin=config_dict.placeholder(float),
        batch_size=16,
        steps_per_chunk=50,
        vocab_chunk=8192,
    )
    return config
