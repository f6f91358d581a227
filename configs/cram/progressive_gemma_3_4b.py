r"""Cram 214 tokens into one vector of Gemma-3-4B, by Progressive Cramming.

  python experiments/cram.py --config configs/cram/progressive_gemma_3_4b.py \
      --config.texts=FILE --workdir runs/progressive_gemma_3_4b

Published, arXiv:2607.21231: the mean exact horizon of 50 texts of PG-19 is 214 tokens;
697 where memory is W z + b with 32 numbers z, and W and b the text's own too,
see `progressive` in base.py.
Expected cost (computed, see base.py): 1.7e18 FLOPs, 1.2 hours.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.progressive()
    config.lm = "google/gemma-3-4b-pt"
    config.cram.num_tokens = (214,)
    config.cram.batch_size = 16
    return config
