r"""Cram 61 tokens into one vector of SmolLM2-360M, by Progressive Cramming.

  python experiments/cram.py --config configs/cram/progressive_smollm2_360m.py \
      --config.texts=FILE --workdir runs/progressive_smollm2_360m

Published, research repository of arXiv:2607.21231 (docs/results.md). The mean horizon that
was published for beginnings of PG-19 books is 61.0 ± 24.6 tokens and 266 ± 122 bits of gain
at the rate 0.1; 132.9 ± 36.3 at 1.0 and 138.4 ± 56.5 at 5.0.
Expected cost (computed, see base.py): 4.5e16 FLOPs, 0.032 hours.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.progressive()
    config.lm = "HuggingFaceTB/SmolLM2-360M"
    config.slice = "v5e:1x1"
    config.cram.num_tokens = (61,)
    config.cram.batch_size = 50
    return config
