r"""Cram 256 tokens into one vector of Mamba-790M, as published.

  python experiments/cram.py --config configs/cram/mamba_790m.py \
      --config.texts=FILE --workdir runs/mamba_790m

Published, arXiv:2502.13063, table 3: most tokens at a mean accuracy of 0.99 over 50
texts; gains over the texts that are not above it, mean ± standard deviation, information
in nats (the paper says bits).

                most tokens   token gain        information gain
  PG-19                 256   204.2 ± 33.0      1011.6 ± 138.8
  fanfics                 -
  random words          198   187.0 ± 26.3      1421.3 ± 179.1

Mamba's tokenizer adds no BOS: the first token of the text is given.
Expected cost (computed, see base.py): 2.0e17 FLOPs, 0.29 hours.
"""

from ml_collections import config_dict

from configs.cram import base


def get_config() -> config_dict.ConfigDict:
    """Everything that experiments/cram.py reads."""
    config = base.reference()
    config.lm = "state-spaces/mamba-790m-hf"
    config.dtype = "float32"
    config.cram.num_tokens = (256,)
    config.cram.batch_size = 4
    return config
