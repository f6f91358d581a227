r"""Cram 96 tokens into one vector of Pythia-410M, as published.

  python experiments/cram.py --config configs/cram/pythia_410m.py \
      --config.texts=FILE --workdir runs/pythia_410m

Published, arXiv:2502.13063, table 1: most tokens at a mean accuracy of 0.99 over 50
texts; gains over the texts that are not above it, mean ± standard deviation, information
in nats (the paper says bits).

                most tokens   token gain        information gain
  PG-19                  96   81.3 ± 12.0       431.4 ± 51.6
  fanfics                96   81.2 ± 11.6       429.8 ± 46.2
  random words           72   76.9 ± 8.7        630.4 ± 65.2

The authors' mean best accuracy by length, PG-19: 64: 1.000, 128: 0.938, 192: 0.803.
Pythia's tokenizer adds no BOS: the first token of the text is given.
Expected cost (computed, see base.py): 3.9e16 FLOPs, 0.055 hours.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.reference()
    config.lm = "EleutherAI/pythia-410m"
    config.dtype = "float32"
    config.cram.num_tokens = (96,)
    config.slice = "v5e:1x1"
    return config
