r"""Cram 80 tokens into one vector of Pythia-160M, as published.

  python experiments/cram.py --config configs/cram/pythia_160m.py \
      --config.texts=FILE --workdir runs/pythia_160m

Published, arXiv:2502.13063, table 1: most tokens at a mean accuracy of 0.99 over 50
texts; gains over the texts that are not above it, mean ± standard deviation, information
in nats (the paper says bits).

                most tokens   token gain        information gain
  PG-19                  80   70.9 ± 11.0       396.4 ± 46.0
  fanfics                80   70.9 ± 10.5       378.1 ± 45.9
  random words           65   61.3 ± 6.6        500.8 ± 38.9

The authors' mean best accuracy by length, PG-19: 64: 1.000, 96: 0.977, 128: 0.885.
Pythia's tokenizer adds no BOS: the first token of the text is given.
Expected cost (computed, see base.py): 1.3e16 FLOPs, 0.018 hours.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.reference()
    config.lm = "EleutherAI/pythia-160m"
    config.dtype = "float32"  # bfloat16 degrades its own loss
    config.cram.num_tokens = (80,)
    config.slice = "v5e:1x1"
    return config
