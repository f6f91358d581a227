r"""Cram 500 tokens into one vector z W + b of Pythia-1.4B, by Progressive Cramming.

  python experiments/cram.py --config configs/cram/low_dim_pythia_1_4b.py \
      --config.texts=FILE --workdir runs/low_dim_pythia_1_4b

Published, arXiv:2607.21231: the mean exact horizon of 50 texts of PG-19 is 500 tokens, and
430 where memory itself is stepped on. z has 256 numbers. See `progressive` in base.py.
Expected cost (computed, see base.py): 1.4e18 FLOPs, 1.0 hours.
"""

from ml_collections import config_dict

from configs.cram import progressive_pythia_1_4b


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = progressive_pythia_1_4b.get_config()
    config.cram.recipe = "low_dim"
    config.cram.num_tokens = (500,)
    return config
