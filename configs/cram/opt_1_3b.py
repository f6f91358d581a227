r"""Cram 128 tokens into one vector of OPT-1.3B, as published.

  python experiments/cram.py --config configs/cram/opt_1_3b.py \
      --config.texts=FILE --workdir runs/opt_1_3b

Published, arXiv:2502.13063, table 3: most tokens at a mean accuracy of 0.99 over 50
texts; gains over the texts that are not above it, mean ± standard deviation, information
in nats (the paper says bits).

                most tokens   token gain        information gain
  PG-19                 128   132.2 ± 23.8      712.8 ± 143.3
  fanfics                 -
  random words          116   129.3 ± 16.4      1068.0 ± 181.3

The tokenizer adds BOS, which is given: every token of the text is scored.
Expected cost (computed, see base.py): 1.7e17 FLOPs, 0.24 hours.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.reference()
    config.lm = "facebook/opt-1.3b"
    config.dtype = "float32"
    config.cram.num_tokens = (128,)
    return config
