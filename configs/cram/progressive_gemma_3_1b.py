r"""Cram 74 tokens into one vector of gemma-3-1b-pt, by Progressive Cramming.

  python experiments/cram.py --config configs/cram/progressive_gemma_3_1b.py \
      --config.texts=FILE --workdir runs/progressive_gemma_3_1b

Published, research repository of arXiv:2607.21231 (docs/results.md). The mean horizon that
was published for beginnings of PG-19 books is 74.8 ± 34.3 tokens and 338 ± 104 bits of gain
at the rate 0.1.
Expected cost (computed, see base.py): 1.5e17 FLOPs, 0.11 hours.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.progressive()
    config.lm = "google/gemma-3-1b-pt"
    config.slice = "v5e:1x1"
    config.cram.num_tokens = (74,)
    config.cram.batch_size = 50
    return config
