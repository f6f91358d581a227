r"""Cram 512 tokens into one vector of Llama-3.2-1B, as published.

  python experiments/cram.py --config configs/cram/llama_3_2_1b.py \
      --config.texts=FILE --workdir runs/llama_3_2_1b

Published, arXiv:2502.13063, table 1: most tokens at a mean accuracy of 0.99 over 50
texts; gains over the texts that are not above it, mean ± standard deviation, information
in nats (the paper says bits).

                most tokens   token gain        information gain
  PG-19                 512   426.2 ± 79.2      2119.9 ± 364.8
  fanfics               512   449.6 ± 83.7      2213.8 ± 365.8
  random words          316   294.9 ± 64.8      2265.2 ± 498.7

The authors' mean best accuracy by length, PG-19: 64: 0.984 (short of 0.99), 128: 0.995,
512: 0.998, 768: 0.962.
The tokenizer adds BOS, which is given: every token of the text is scored.
Expected cost (computed, see base.py): 6.3e17 FLOPs, 0.45 hours.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.reference()
    config.lm = "meta-llama/Llama-3.2-1B"
    config.dtype = "bfloat16"
    config.cram.num_tokens = (512,)
    config.cram.batch_size = 25
    return config
