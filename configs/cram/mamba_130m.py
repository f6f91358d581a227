r"""Cram 32 tokens into one vector of Mamba-130M, as published.

  python experiments/cram.py --config configs/cram/mamba_130m.py \
      --config.texts=FILE --workdir runs/mamba_130m

Published, arXiv:2502.13063, table 3: most tokens at a mean accuracy of 0.99 over 50
texts; gains over the texts that are not above it, mean ± standard deviation, information
in nats (the paper says bits).

                most tokens   token gain        information gain
  PG-19                  32   65.5 ± 18.1       371.4 ± 94.6
  fanfics                 -
  random words           84   62.6 ± 17.1       535.7 ± 121.8

Mamba's tokenizer adds no BOS: the first token of the text is given.
Expected cost (computed, see base.py): 4.3e15 FLOPs, 0.006 hours.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.reference()
    config.lm = "state-spaces/mamba-130m-hf"
    config.dtype = "float32"
    config.cram.num_tokens = (32,)
    config.cram.batch_size = 25
    config.slice = "v5e:1x1"
    return config
