r"""Cram 430 tokens into one vector of Pythia-1.4B, by Progressive Cramming.

  python experiments/cram.py --config configs/cram/progressive_pythia_1_4b.py \
      --config.texts=FILE --workdir runs/progressive_pythia_1_4b

Published, arXiv:2607.21231: the mean exact horizon of 50 texts of PG-19 is 430 tokens;
500 where memory is W z + b with 256 numbers z, and W and b the text's own too,
see `progressive` in base.py.
Expected cost (computed, see base.py): 1.2e18 FLOPs, 0.86 hours.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.progressive()
    config.lm = "EleutherAI/pythia-1.4b"
    config.cram.num_tokens = (430,)
    config.cram.learning_rate = 0.5  # as published, for this LM
    config.cram.batch_size = 25
    return config
