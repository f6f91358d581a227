r"""Cram 335 tokens into one vector of SmolLM2-1.7B, by Progressive Cramming.

  python experiments/cram.py --config configs/cram/progressive_smollm2_1_7b.py \
      --config.texts=FILE --workdir runs/progressive_smollm2_1_7b

Published, arXiv:2607.21231: the mean exact horizon of 50 texts of PG-19 is 335 tokens;
957 where memory is W z + b with 256 numbers z, and W and b the text's own too,
see `progressive` in base.py.
Expected cost (computed, see base.py): 1.2e18 FLOPs, 0.81 hours.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.progressive()
    config.lm = "HuggingFaceTB/SmolLM2-1.7B"
    config.cram.num_tokens = (335,)
    config.cram.batch_size = 25
    return config
