r"""Cram 512 tokens into one vector of Sheared-LLaMA-1.3B, as published.

  python experiments/cram.py --config configs/cram/sheared_llama_1_3b.py \
      --config.texts=FILE --workdir runs/sheared_llama_1_3b

Published, arXiv:2502.13063, table 3: most tokens at a mean accuracy of 0.99 over 50
texts; gains over the texts that are not above it, mean ± standard deviation, information
in nats (the paper says bits).

                most tokens   token gain        information gain
  PG-19                 512   383.6 ± 38.4      1835.1 ± 162.9
  fanfics                 -
  random words          382   315.1 ± 35.1      1893.0 ± 210.0

The authors' mean best accuracy by length, PG-19: 256: 1.000, 512: 0.997, 768: 0.935.
The tokenizer adds BOS, which is given: every token of the text is scored.
Expected cost (computed, see base.py): 6.9e17 FLOPs, 0.48 hours.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.reference()
    config.lm = "princeton-nlp/Sheared-LLaMA-1.3B"
    config.dtype = "bfloat16"
    config.cram.num_tokens = (512,)
    config.cram.batch_size = 25
    return config
