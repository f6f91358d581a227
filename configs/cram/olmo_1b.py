r"""Cram 384 tokens into one vector of OLMo-1B (July 2024), as published.

  python experiments/cram.py --config configs/cram/olmo_1b.py \
      --config.texts=FILE --workdir runs/olmo_1b

Published, arXiv:2502.13063, table 3: most tokens at a mean accuracy of 0.99 over 50
texts; gains over the texts that are not above it, mean ± standard deviation, information
in nats (the paper says bits).

                most tokens   token gain        information gain
  PG-19                 384   406.3 ± 61.7      1901.0 ± 254.5
  fanfics                 -
  random words          249   257.3 ± 55.0      1852.2 ± 395.0

The authors' mean best accuracy by length, PG-19: 256: 1.000, 384: 1.000, 512: 0.979.
The paper does not say whether BOS was added; the tokenizer decides.
Expected cost (computed, see base.py): 4.9e17 FLOPs, 0.35 hours.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.reference()
    config.lm = "allenai/OLMo-1B-0724-hf"
    config.dtype = "bfloat16"
    config.cram.num_tokens = (384,)
    config.cram.batch_size = 25
    return config
