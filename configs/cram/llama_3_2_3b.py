r"""Cram 1,024 tokens into one vector of Llama-3.2-3B, as published.

  python experiments/cram.py --config configs/cram/llama_3_2_3b.py \
      --config.texts=FILE --workdir runs/llama_3_2_3b

Published, arXiv:2502.13063, table 1: most tokens at a mean accuracy of 0.99 over 50
texts; gains over the texts that are not above it, mean ± standard deviation, information
in nats (the paper says bits).

                most tokens   token gain        information gain
  PG-19                1024   720.3 ± 80.2      3292.2 ± 320.0
  fanfics              1024   734.1 ± 85.0      3354.5 ± 344.9
  random words          460   456.9 ± 72.1      3382.6 ± 585.2

The authors' mean best accuracy by length, PG-19: 512: 0.998, 1024: 0.994, 1280: 0.974.
The tokenizer adds BOS, which is given: every token of the text is scored.
Expected cost (computed, see base.py): 3.3e18 FLOPs, 2.3 hours.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.reference()
    config.lm = "meta-llama/Llama-3.2-3B"
    config.dtype = "bfloat16"
    config.cram.num_tokens = (1024,)
    config.cram.batch_size = 8
    return config
