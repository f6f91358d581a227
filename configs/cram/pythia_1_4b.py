r"""Cram 160 tokens into one vector of Pythia-1.4B, as published.

  python experiments/cram.py --config configs/cram/pythia_1_4b.py \
      --config.texts=FILE --workdir runs/pythia_1_4b

Published, arXiv:2502.13063, table 1: most tokens at a mean accuracy of 0.99 over 50
texts; gains over the texts that are not above it, mean ± standard deviation, information
in nats (the paper says bits).

                most tokens   token gain        information gain
  PG-19                 160   158.0 ± 29.1      792.8 ± 143.4
  fanfics               192   152.9 ± 28.0      776.9 ± 132.5
  random words          139   144.4 ± 17.5      1108.2 ± 136.2

The authors' mean best accuracy by length, PG-19: 128: 1.000, 192: 0.989, 256: 0.948.
Pythia's tokenizer adds no BOS: the first token of the text is given.
Expected cost (computed, see base.py): 2.3e17 FLOPs, 0.32 hours.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.reference()
    config.lm = "EleutherAI/pythia-1.4b"
    config.dtype = "float32"
    config.cram.num_tokens = (160,)
    return config
