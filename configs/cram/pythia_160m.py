r"""Cram texts into one vector of Pythia-160M, under the published protocol.

  python experiments/cram.py --config configs/cram/pythia_160m.py \
      --config.lm=EleutherAI/pythia-160m --config.texts=FOLDER --workdir runs/pythia_160m

Published: 80 tokens at a mean accuracy of 0.99 over 50 texts of PG-19 (arXiv:2502.13063,
table 1), with the recipe "reference". Cost: not measured here, for want of the weights.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = config_dict.ConfigDict()
    config.seed = 0
    config.protocol = "reference"  # the published one
    config.lm = "EleutherAI/pythia-160m"  # folder, Hub id or "builtin"
    config.dtype = "float32"  # bfloat16 degrades Pythia's own loss

    config.texts = config_dict.placeholder(str)  # file, folder, "-" or "random_words"
    config.num_texts = 50
    config.field = "text"
    config.passages = 1
    config.vocabulary = ""

    config.cram = config_dict.create(
        num_tokens=(80,),
        num_memory=1,
        recipe="reference",
        max_steps=config_dict.placeholder(int),
        patience=config_dict.placeholder(int),
        margin=config_dict.placeholder(float),
        batch_size=50,
        steps_per_chunk=100,
        vocab_chunk=8192,
    )
    return config
