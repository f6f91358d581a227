r"""Cram 512 tokens into one vector of Mamba-1.4B, as published.

  python experiments/cram.py --config configs/cram/mamba_1_4b.py \
      --config.texts=FILE --workdir runs/mamba_1_4b

Published, arXiv:2502.13063, table 3: most tokens at a mean accuracy of 0.99 over 50
texts; gains over the texts that are not above it, mean ± standard deviation, information
in nats (the paper says bits).

                most tokens   token gain        information gain
  PG-19                 512   348.9 ± 42.9      1599.5 ± 164.5
  fanfics                 -
  random words          288   282.7 ± 36.5      2062.3 ± 257.3

Mamba's tokenizer adds no BOS: the first token of the text is given.
Expected cost (computed, see base.py): 7.0e17 FLOPs, 0.99 hours.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.reference()
    config.lm = "state-spaces/mamba-1.4b-hf"
    config.dtype = "float32"
    config.cram.num_tokens = (512,)
    config.cram.batch_size = 2
    return config
