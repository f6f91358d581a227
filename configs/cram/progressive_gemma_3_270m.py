r"""Cram 71 tokens into one vector of gemma-3-270m, by Progressive Cramming.

  python experiments/cram.py --config configs/cram/progressive_gemma_3_270m.py \
      --config.texts=FILE --workdir runs/progressive_gemma_3_270m

Published, research repository of arXiv:2607.21231 (docs/results.md). The mean horizon that
was published for beginnings of PG-19 books is 71.2 ± 14.2 tokens and 392 ± 71 bits of gain
at the rate 0.1.
Expected cost (computed, see base.py): 3.9e16 FLOPs, 0.027 hours.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.progressive()
    config.lm = "google/gemma-3-270m"
    config.slice = "v5e:1x1"
    config.cram.num_tokens = (71,)
    config.cram.batch_size = 50
    return config
