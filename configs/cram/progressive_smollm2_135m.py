r"""Cram 38 tokens into one vector of SmolLM2-135M, by Progressive Cramming.

  python experiments/cram.py --config configs/cram/progressive_smollm2_135m.py \
      --config.texts=FILE --workdir runs/progressive_smollm2_135m

Published, research repository of arXiv:2607.21231 (docs/results.md). The mean horizon that
was published for beginnings of PG-19 books is 38.5 ± 14.1 tokens and 168 ± 66 bits of gain
at the rate 0.1; 62.2 at 0.5, 63.1 at 1.0, 57.1 at 5.0; 63.5 with
--config.cram.recipe=low_dim at rank 64 and 77.7 ± 23.2 (314 ± 82 bits) at rank 256.
Expected cost (computed, see base.py): 1.0e16 FLOPs, 0.0074 hours.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.progressive()
    config.lm = "HuggingFaceTB/SmolLM2-135M"
    config.slice = "v5e:1x1"
    config.cram.num_tokens = (38,)
    config.cram.batch_size = 50
    return config
