r"""Cram 128 tokens into one vector of Pythia-2.8B, as published.

  python experiments/cram.py --config configs/cram/pythia_2_8b.py \
      --config.texts=FILE --workdir runs/pythia_2_8b

Published, arXiv:2502.13063, table 3: most tokens at a mean accuracy of 0.99 over 50
texts; gains over the texts that are not above it, mean ± standard deviation, information
in nats (the paper says bits).

                most tokens   token gain        information gain
  PG-19                 128   150.1 ± 50.7      740.3 ± 234.9
  fanfics                 -
  random words          141   134.5 ± 24.7      1026.3 ± 211.4

The authors' mean best accuracy by length, PG-19: 64: 1.000, 128: 0.997, 256: 0.903.
Pythia's tokenizer adds no BOS: the first token of the text is given.
Expected cost (computed, see base.py): 3.6e17 FLOPs, 0.5 hours.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.reference()
    config.lm = "EleutherAI/pythia-2.8b"
    config.dtype = "float32"
    config.cram.num_tokens = (128,)
    config.cram.batch_size = 25
    config.mesh.update(data=1, fsdp=-1)
    return config
