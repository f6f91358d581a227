r"""Cram 128 tokens into one vector of Mamba-370M, as published.

  python experiments/cram.py --config configs/cram/mamba_370m.py \
      --config.texts=FILE --workdir runs/mamba_370m

Published, arXiv:2502.13063, table 3: most tokens at a mean accuracy of 0.99 over 50
texts; gains over the texts that are not above it, mean ± standard deviation, information
in nats (the paper says bits).

                most tokens   token gain        information gain
  PG-19                 128   113.0 ± 27.6      585.3 ± 131.1
  fanfics                 -
  random words          106   94.5 ± 25.5       743.2 ± 186.9

Mamba's tokenizer adds no BOS: the first token of the text is given.
Expected cost (computed, see base.py): 4.8e16 FLOPs, 0.067 hours.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.reference()
    config.lm = "state-spaces/mamba-370m-hf"
    config.dtype = "float32"
    config.cram.num_tokens = (128,)
    config.cram.batch_size = 8
    return config
